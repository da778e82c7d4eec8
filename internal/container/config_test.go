package container

import (
	"reflect"
	"slices"
	"testing"

	"berth/internal/image"
)

func TestMergedCommandLine(t *testing.T) {
	im := image.Config{Entrypoint: []string{"/entry"}, Cmd: []string{"cmd"}}
	for _, c := range []struct {
		summary string
		config  Config
		image   image.Config
		want    []string
	}{
		{"The image's", Config{}, im, []string{"/entry", "cmd"}},
		{"A command replaces the image's Cmd", Config{Command: []string{"a", "b"}}, im, []string{"/entry", "a", "b"}},
		{"An entrypoint replaces the image's, and its Cmd goes, too", Config{EntrypointSet: true, Entrypoint: []string{"/x"}}, im, []string{"/x"}},
		{"Entrypoint and command", Config{EntrypointSet: true, Entrypoint: []string{"/x"}, Command: []string{"a"}}, im, []string{"/x", "a"}},
		{"An empty entrypoint leaves the command alone", Config{EntrypointSet: true, Command: []string{"a"}}, im, []string{"a"}},
		{"An image without Entrypoint", Config{}, image.Config{Cmd: []string{"cmd"}}, []string{"cmd"}},
		{"Neither has any", Config{}, image.Config{}, nil},
	} {
		t.Run(c.summary, func(t *testing.T) {
			if got := Merge(c.config, c.image).Args(); !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestMergeFillsWhatIsOpen(t *testing.T) {
	im := image.Config{
		Env: []string{"A=1", "B=2", "C=3"}, WorkingDir: "/w", User: "u", StopSignal: "SIGQUIT", Labels: map[string]string{"a": "1", "b": "2"},
		Volumes: map[string]struct{}{"/z": {}, "/a/": {}, "/": {}, "/taken": {}},
	}
	got := Merge(Config{
		Env: []string{"B=x", "C", "D=4", "NOWHERE"}, Labels: map[string]string{"b": "x"}, Mounts: []Mount{{Type: MountTmpfs, Target: "/taken"}},
	}, im)
	volume := func(at string) Mount {
		return Mount{Type: MountVolume, Target: at, Anonymous: true, Origin: "VOLUME of the image"}
	}
	want := Config{
		Env: []string{"B=x", "D=4", "A=1"}, Workdir: "/w", User: "u", StopSignal: "SIGQUIT", Labels: map[string]string{"a": "1", "b": "x"},
		Mounts: []Mount{{Type: MountTmpfs, Target: "/taken"}, volume("/a"), volume("/z")},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if im.Labels["b"] != "2" || im.Env[1] != "B=2" {
		t.Errorf("the image's own configuration has changed: %+v", im)
	}
	own := Merge(Config{Workdir: "/x", User: "0", StopSignal: "9"}, im)
	if own.Workdir != "/x" || own.User != "0" || own.StopSignal != "9" {
		t.Errorf("the caller's values have gone: %+v", own)
	}
}

func TestArgsDoesNotShareMemory(t *testing.T) {
	entry := make([]string, 1, 8)
	entry[0] = "/entry"
	a := Config{Entrypoint: entry, Command: []string{"a"}}.Args()
	b := Config{Entrypoint: entry, Command: []string{"b"}}.Args()
	if a[1] != "a" || b[1] != "b" {
		t.Errorf("%q, %q", a, b)
	}
}
