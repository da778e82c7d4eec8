package cdi

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"berth/internal/container"

	"github.com/google/go-cmp/cmp"
)

// generated is as nvidia-ctk writes it, but for the hooks.
const generated = `---
cdiVersion: 0.5.0
containerEdits:
  deviceNodes:
  - path: /dev/nvidiactl
  env:
  - NVIDIA_VISIBLE_DEVICES=void # none but these
  mounts:
  - containerPath: /lib/libcuda.so.1
    hostPath: "/lib/libcuda.so.1"
    options:
    - ro
    - bind
devices:
- containerEdits:
    deviceNodes:
    - path: /dev/nvidia0
      fileMode: 0666
      uid: 5
      permissions: 'rw'
    additionalGids: [44, 0]
  name: "0"
-
  name: all
  containerEdits: {env: ["A=it's, # no comment", B=2], deviceNodes: []}
kind: nvidia.com/gpu
`

func TestSpecificationInYAML(t *testing.T) {
	s, err := parse([]byte(generated), true)
	if err != nil {
		t.Fatal(err)
	}
	mode, uid := Number(0o666), Number(5)
	want := Edits{
		Env: []string{"NVIDIA_VISIBLE_DEVICES=void"}, Nodes: []Node{{Path: "/dev/nvidiactl"}},
		Mounts: []Mount{{HostPath: "/lib/libcuda.so.1", ContainerPath: "/lib/libcuda.so.1", Options: []string{"ro", "bind"}}},
	}
	if d := cmp.Diff(want, s.Edits); d != "" {
		t.Error(d)
	}
	want = Edits{Nodes: []Node{{Path: "/dev/nvidia0", FileMode: &mode, UID: &uid, Permissions: "rw"}}, AdditionalGIDs: []Number{44, 0}}
	if d := cmp.Diff(want, s.Devices[0].Edits); d != "" || s.Devices[0].Name != "0" {
		t.Error(s.Devices[0].Name, d)
	}
	if d := cmp.Diff([]string{"A=it's, # no comment", "B=2"}, s.Devices[1].Edits.Env); d != "" || s.Devices[1].Name != "all" {
		t.Error(s.Devices[1].Name, d)
	}
}

func TestYAMLThatIsNotReadIsRefused(t *testing.T) {
	for _, text := range []string{
		"a: &x b", "a: *x", "a: !!str b", "a: |\n  b", "a: >\n  b", "a: [b", "a: {b: c", "a: \"b", "a: 'b", "\ta: b", "a: b\na: c", "a: b\n---\nc: d", "%YAML 1.2",
		"a: [b]c", "a: \"\\x41\"", "- a\nb: c", "a: {b}", "a:\n  b: c\n d: e", "a: \xff", strings.Repeat("- ", 100) + "a", "a: " + strings.Repeat("[", 100),
	} {
		if got, err := toJSON([]byte(text)); err == nil {
			t.Errorf("%q is read as %s", text, got)
		}
	}
}

func TestYAML(t *testing.T) {
	for text, want := range map[string]string{
		"":                               `null`,
		"a:":                             `{"a":null}`,
		"a: ~":                           `{"a":null}`,
		"a: b # c":                       `{"a":"b"}`,
		"a: b#c":                         `{"a":"b#c"}`,
		"a: b: c":                        `{"a":"b: c"}`,
		"a: http://b":                    `{"a":"http://b"}`,
		"a: b\n  c\n  d\ne: f":           `{"a":"b c d","e":"f"}`,
		"- a\n- - b\n  - c\n-\n  d: e":   `["a",["b","c"],{"d":"e"}]`,
		"a:\n- b\n- c: d\n  e:\n  - f":   `{"a":["b",{"c":"d","e":["f"]}]}`,
		"'a b': 'it''s'\n\"c\": \"\\n\"": `{"a b":"it's","c":"\n"}`,
		"a: {b: [c, 'd, e'], f: {}}":     `{"a":{"b":["c","d, e"],"f":{}}}`,
	} {
		if got, err := toJSON([]byte(text)); err != nil || string(got) != want {
			t.Errorf("%q is %s, %v; want %s", text, got, err, want)
		}
	}
}

func FuzzYAML(f *testing.F) {
	f.Add([]byte(generated))
	f.Fuzz(func(t *testing.T, data []byte) { _, _ = toJSON(data) })
}

func TestDevicesAreResolved(t *testing.T) {
	first, second := t.TempDir(), t.TempDir()
	write := func(dir, name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(first, "a.json", `{"cdiVersion":"0.6.0","kind":"v.com/c","containerEdits":{"env":["SPEC=1"]},"devices":[{"name":"x","containerEdits":{"env":["X=first"]}},{"name":"y","containerEdits":{"env":["Y=1"],"additionalGids":[7,7]}}]}`)
	write(second, "a.yaml", "cdiVersion: 0.6.0\nkind: v.com/c\ndevices:\n- name: x\n  containerEdits:\n    env: [X=second]\n")
	write(second, "broken.json", "{")
	write(second, "gpu.yaml", "cdiVersion: 0.6.0\nkind: nvidia.com/gpu\ndevices:\n- {name: '10', containerEdits: {env: [G=10]}}\n- {name: '9', containerEdits: {env: [G=9]}}\n- {name: all, containerEdits: {env: [G=all]}}\n- {name: hooked, containerEdits: {hooks: [{hookName: createContainer, path: /h}]}}\n")
	cdi := func(names ...string) container.DeviceRequest {
		return container.DeviceRequest{Driver: container.DriverCDI, IDs: names}
	}
	for _, c := range []struct {
		summary string
		request container.DeviceRequest
		want    string // environment, or the end of an error
	}{
		{"A later directory counts", cdi("v.com/c=x"), "X=second"},
		{"What the specification says of all comes once, each device once", cdi("v.com/c=y", "v.com/c=y"), "SPEC=1 Y=1"},
		{"All GPUs", container.DeviceRequest{Count: -1}, "G=all"},
		{"As many GPUs as asked for, in the order of their numbers", container.DeviceRequest{Count: 1}, "G=9"},
		{"GPUs by name", container.DeviceRequest{IDs: []string{"10", "9"}}, "G=10 G=9"},
		{"More GPUs than there are", container.DeviceRequest{Count: 3}, "error: cannot give the container 3 GPUs: CDI describes 2"},
		{"A device that is not there", cdi("v.com/c=z"), "error: CDI device injection failed: unresolvable CDI devices v.com/c=z"},
		{"No hook is run", container.DeviceRequest{IDs: []string{"hooked"}}, "error: cannot give the container the devices that CDI describes: they need the hook createContainer (/h)"},
	} {
		e, err := Resolve([]string{first, second, first + "/none"}, []container.DeviceRequest{c.request})
		got := strings.Join(e.Env, " ")
		if err != nil {
			got = "error: " + err.Error()
		}
		if ok := got == c.want || err != nil && strings.HasPrefix(got, c.want); !ok {
			t.Errorf("%s: %s, want %s", c.summary, got, c.want)
		}
	}
	if _, err := Resolve([]string{second}, []container.DeviceRequest{cdi("a.com/b=c")}); err == nil || !strings.Contains(err.Error(), "broken.json") {
		t.Errorf("what cannot be read is not named: %v", err)
	}
	write(first, "b.json", `{"cdiVersion":"0.6.0","kind":"v.com/c","devices":[{"name":"y"}]}`)
	if _, err := Resolve([]string{first}, []container.DeviceRequest{cdi("v.com/c=y")}); err == nil || !strings.Contains(err.Error(), "is in both") {
		t.Errorf("a conflict is not seen: %v", err)
	}
}
