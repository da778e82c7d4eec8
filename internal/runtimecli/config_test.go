package runtimecli

import (
	"encoding/json"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"berth/internal/host"
	"berth/internal/ownjson"
	"berth/internal/runtime/lifecycle"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// fill gives everything in v a value, now and then a zero one.
func fill(r *rand.Rand, v reflect.Value, depth int) {
	if r.IntN(8) == 0 {
		return
	}
	switch v.Type() {
	case reflect.TypeFor[time.Time]():
		v.Set(reflect.ValueOf(time.Unix(r.Int64N(1<<32), r.Int64N(1e9)).UTC()))
		return
	case reflect.TypeFor[json.RawMessage]():
		v.Set(reflect.ValueOf(json.RawMessage(`{"a":[1,null]}`)))
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(r, v.Elem(), depth+1)
	case reflect.Struct:
		for i := range v.NumField() {
			fill(r, v.Field(i), depth+1)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), r.IntN(3), 3))
		for i := range v.Len() {
			fill(r, v.Index(i), depth+1)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for range r.IntN(3) {
			key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			fill(r, key, depth+1)
			fill(r, value, depth+1)
			v.SetMapIndex(key, value)
		}
	case reflect.String:
		v.SetString([]string{"", "a", "ä\"\\\n", "<&>\u2028", strings.Repeat("x", r.IntN(40))}[r.IntN(5)])
	case reflect.Bool:
		v.SetBool(r.IntN(2) == 0)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(r.Int64() >> (64 - v.Type().Bits()) * int64(1-2*r.IntN(2)))
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		v.SetUint(r.Uint64() >> (64 - v.Type().Bits()))
	default:
		panic(v.Type().String())
	}
}

func TestRecordIsWhatEncodingJSONMakesOfIt(t *testing.T) {
	r := rand.New(rand.NewPCG(8, 8))
	for range 300 {
		var one, back record
		fill(r, reflect.ValueOf(&one).Elem(), 0)
		want, err := json.Marshal(one)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ownjson.Marshal(&one)
		if err != nil || string(got) != string(want) {
			t.Fatalf("%s, %v; encoding/json has %s", got, err, want)
		}
		if err := ownjson.Unmarshal(got, &back); err != nil {
			t.Fatal(err)
		}
		if again, err := json.Marshal(back); err != nil || string(again) != string(want) {
			t.Fatalf("read back: %s, %v; written: %s", again, err, want)
		}
	}
}

func TestConfigIsReadAsEncodingJSONReadsIt(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	for n := range 300 {
		var c config
		fill(r, reflect.ValueOf(&c).Elem(), 0)
		data, err := json.MarshalIndent(c, "", "\t")
		if err != nil {
			t.Fatal(err)
		}
		compare(t, n, data)
	}
}

func compare(t *testing.T, n int, data []byte) {
	t.Helper()
	want := new(specs.Spec)
	if err := json.Unmarshal(data, want); err != nil {
		t.Fatalf("round %d: %v", n, err)
	}
	got, err := parseConfig(data)
	if err != nil {
		t.Fatalf("round %d: %v in\n%s", n, err, data)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Fatalf("round %d:\n%s\nof\n%s", n, d, data)
	}
}

func TestConfigMayHoldWhatNobodyKnows(t *testing.T) {
	compare(t, 0, []byte(`{"ociVersion": "1.2.0", "new": [{"a": [1, 2.5e3, null, {"b": "}"}]}], "plan9": {"layers": ["x"]},
		"process": {"args": ["a"], "cwd": "/", "user": {"uid": 1, "else": {}}, "terminal": null}, "linux": null, "mounts": []}`))
}

func TestConfigThatIsNoJSONIsRefused(t *testing.T) {
	for _, text := range []string{
		``, `{`, `[]`, `{"process": 5}`, `{"mounts": {}}`, `{"linux": {"resources": {"pids": {"limit": "5"}}}}`, `{} {}`, `{"ociVersion": "a",}`,
		`{"process": {"user": {"uid": -1}}}`, `{"process": {"user": {"uid": 4294967296}}}`, "\x00",
	} {
		if s, err := parseConfig([]byte(text)); err == nil {
			t.Errorf("%s is taken for %+v", text, s)
		}
	}
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte(`{"ociVersion": "1.2.0", "process": {"args": ["a"], "cwd": "/"}, "root": {"path": "rootfs"}, "linux": {"maskedPaths": ["/proc/kcore"]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := parseConfig(data)
		if err == nil && s == nil {
			t.Error("neither a spec nor an error")
		}
	})
}

// FuzzComplete: a config.json, whatever it holds, is read or refused, and what was read is read again as the same; what the runtime adds to
// it then panics on none.
func FuzzComplete(f *testing.F) {
	for _, rootless := range []bool{false, true} {
		data, err := json.Marshal(example(rootless, 1000, 1000))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(`{"ociVersion":"1.3.0","process":{"args":["a"],"capabilities":{"bounding":["CAP_X"]}},"root":{},"linux":{"resources":{"devices":[{}],"unified":{"a.b":"c"}},"netDevices":{"a":{}},"seccomp":{"syscalls":[{"action":"SCMP_ACT_NOTIFY","names":["sendmsg"]}]}}}`))
	r := rand.New(rand.NewPCG(8, 8))
	for range 20 {
		var c config
		fill(r, reflect.ValueOf(&c).Elem(), 0)
		if data, err := json.Marshal(c); err == nil {
			f.Add(data)
		}
	}
	root := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := parseConfig(data)
		if err != nil {
			return
		}
		again, err := json.Marshal(s)
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		s2, err := parseConfig(again)
		if err != nil {
			t.Fatalf("what was written cannot be read: %v\n%s", err, again)
		}
		third, err := json.Marshal(s2)
		if err != nil || utf8.Valid(data) && string(third) != string(again) {
			t.Fatalf("it is read again as something else (%v):\n%s\n%s", err, again, third)
		}
		if s.Root == nil || s.Process == nil || s.Linux == nil {
			return
		}
		s.Root.Path = root
		for _, h := range []host.Facts{{Bounding: 1<<41 - 1, LastCap: 40, Cgroup: host.CgroupNone}, {UID: 1000, Cgroup: host.CgroupNone}} {
			b := &bundle{dir: root, in: lifecycle.Input{ID: "x", Spec: s, Host: h}}
			if b.complete(Store{}) == nil && checkHooks(s.Hooks) == nil && b.in.Maps.Single && len(s.Process.User.AdditionalGids) > 0 {
				t.Fatal("groups that a user may not have are let pass")
			}
		}
	})
}
