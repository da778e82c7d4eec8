package settings

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"berth/internal/errdef"
)

// user makes text the user's file, and takes away what the environment says.
func user(t *testing.T, text string) string {
	t.Helper()
	for _, k := range Keys {
		t.Setenv(k.Env, "")
	}
	path := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("BERTH_CONFIG", path)
	return path
}

func TestPrecedence(t *testing.T) {
	file := user(t, "data-root = \"/file\"\nlog-max-file = 7\n")
	for _, c := range []struct {
		summary    string
		env        string
		flags      map[string]string
		want, from string
	}{
		{"The file before the default", "", nil, "/file", file},
		{"The environment before the file", "/env", nil, "/env", "BERTH_DATA_ROOT"},
		{"The flag before the environment", "/env", map[string]string{"data-root": "/flag"}, "/flag", "--data-root"},
	} {
		t.Run(c.summary, func(t *testing.T) {
			t.Setenv("BERTH_DATA_ROOT", c.env)
			v, from, err := Load(c.flags)
			if err != nil || v.DataRoot != c.want || from["data-root"] != c.from || v.LogFiles != 7 || from["log-max-file"] != file {
				t.Errorf("%+v from %v, %v", v, from, err)
			}
		})
	}
}

func TestDefaults(t *testing.T) {
	user(t, "")
	v, from, err := Load(nil)
	if err != nil || v.LogBytes != 10<<20 || v.LogFiles != 3 || v.Debug || v.DataRoot == "" || v.RunRoot == "" || from["debug"] != "default" {
		t.Errorf("%+v from %v, %v", v, from, err)
	}
	if len(from) != len(Keys) {
		t.Errorf("sources of %d settings, of %d", len(from), len(Keys))
	}
}

func TestWrongSettingsAreRefused(t *testing.T) {
	for text, want := range map[string]string{
		"colour = 1":                                `unknown key "colour"`,
		"debug = 1":                                 "cannot read the configuration",
		"data-root =":                               "cannot read the configuration",
		`log-max-size = "big"`:                      `"big" is no size`,
		`log-max-size = "0"`:                        "is no size",
		"log-max-file = 0":                          "less than 1",
		`cgroup-manager = "x"`:                      "neither systemd nor cgroupfs",
		`rootless-uplink = "slirp4netns"`:           "neither berth nor pasta",
		"data-root = \"/same\"\nrun-root=\"/same\"": "they must differ",
	} {
		user(t, text)
		if _, _, err := Load(nil); !errdef.Is(err, errdef.Invalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
	user(t, "")
	if _, _, err := Load(map[string]string{"log-max-file": "x"}); !errdef.Is(err, errdef.Invalid) {
		t.Errorf("a flag: %v", err)
	}
	t.Setenv("BERTH_DEBUG", "perhaps")
	if _, _, err := Load(nil); !errdef.Is(err, errdef.Invalid) {
		t.Errorf("a variable: %v", err)
	}
}

func TestRelativeRootsAreMadeAbsolute(t *testing.T) {
	user(t, "")
	dir := t.TempDir()
	t.Chdir(dir)
	v, _, err := Load(map[string]string{"data-root": "data", "run-root": "run"})
	if err != nil || v.DataRoot != filepath.Join(dir, "data") || v.RunRoot != filepath.Join(dir, "run") {
		t.Errorf("%+v, %v", v, err)
	}
}

func TestEveryKeyIsAFieldAndCanBeSetAndRead(t *testing.T) {
	tags := map[string]bool{}
	for f := range reflect.TypeFor[Values]().Fields() {
		if tag := f.Tag.Get("toml"); tag != "-" {
			tags[tag] = true
		}
	}
	if len(tags) != len(Keys) {
		t.Errorf("%d fields, %d keys", len(tags), len(Keys))
	}
	samples := map[string]string{"cdi-spec-dirs": "/c", "cgroup-manager": "cgroupfs", "data-root": "/d", "debug": "true", "host-loopback": "true", "keep-blobs": "false", "log-max-file": "9", "log-max-size": "3m", "rootless-uplink": "pasta", "run-root": "/r", "runtimes": "a=/b,c=d", "storage-driver": "vfs"}
	for _, k := range Keys {
		user(t, "")
		v, from, err := Load(map[string]string{k.Name: samples[k.Name]})
		if err != nil || !tags[k.Name] || v.Get(k.Name) != samples[k.Name] || from[k.Name] != "--"+k.Name {
			t.Errorf("%s: %q from %q, %v", k.Name, v.Get(k.Name), from[k.Name], err)
		}
	}
}
