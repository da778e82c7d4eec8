package container

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"berth/internal/errdef"
)

// refusal is what a wrong form leads to.
func refusal(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want an error with %q", err, want)
	} else if k := errdef.KindOf(err); k != errdef.Invalid {
		t.Errorf("%v is of kind %v", err, k)
	}
}

func TestParseVolume(t *testing.T) {
	for _, c := range []struct {
		in   string
		want Mount
		fail string
	}{
		{in: "/data", want: Mount{Type: MountVolume, Target: "/data", Anonymous: true}},
		{in: "/data/../x/", want: Mount{Type: MountVolume, Target: "/x", Anonymous: true}},
		{in: "vol:/data", want: Mount{Type: MountVolume, Source: "vol", Target: "/data"}},
		{in: "vol:/data:ro,nocopy", want: Mount{Type: MountVolume, Source: "vol", Target: "/data", ReadOnly: true, NoCopy: true}},
		{in: "/a//b/:/data", want: Mount{Type: MountBind, Source: "/a/b", Target: "/data", MakeSource: true}},
		{in: "/a:/data:ro", want: Mount{Type: MountBind, Source: "/a", Target: "/data", ReadOnly: true, MakeSource: true}},
		{in: "/a:/data:rw,z", want: Mount{Type: MountBind, Source: "/a", Target: "/data", MakeSource: true}},
		{in: "/a:/data:rshared,bind", want: Mount{Type: MountBind, Source: "/a", Target: "/data", MakeSource: true, Propagation: "rshared", NoRecursive: true}},
		{in: ".:/data", want: Mount{Type: MountBind, Source: "/here", Target: "/data", MakeSource: true}},
		{in: "./a:/data", want: Mount{Type: MountBind, Source: "/here/a", Target: "/data", MakeSource: true}},
		{in: "../a:/data", want: Mount{Type: MountBind, Source: "/a", Target: "/data", MakeSource: true}},
		{in: "", fail: "must be absolute"},
		{in: "data", fail: "must be absolute"},
		{in: "/a:ro", fail: "must be absolute"},
		{in: ":/data", fail: "empty source"},
		{in: "/a:/", fail: "root cannot be a mount"},
		{in: "/a:/x/..", fail: "root cannot be a mount"},
		{in: "/a:/b:ro:x", fail: "too many colons"},
		{in: "~/a:/b", fail: "the shell did not expand"},
		{in: "a/b:/b", fail: "Invalid volume name (a/b)"},
		{in: ".hidden:/b", fail: "Invalid volume name"},
		{in: "x:/b", fail: "Invalid volume name"},
		{in: "/a:/b:fast", fail: "invalid mode: fast"},
		{in: "vol:/b:rshared", fail: "only a bind mount"},
	} {
		t.Run(c.in, func(t *testing.T) {
			got, err := ParseVolume(c.in, "/here")
			if c.fail != "" {
				refusal(t, err, c.fail)
				return
			}
			c.want.Origin = "-v " + c.in
			if err != nil || !reflect.DeepEqual(got, c.want) {
				t.Errorf("got  %+v (%v)\nwant %+v", got, err, c.want)
			}
		})
	}
}

func TestParseMount(t *testing.T) {
	mode := uint32(0o700)
	for _, c := range []struct {
		in   string
		want Mount
		fail string
	}{
		{in: "type=bind,source=/a,target=/b", want: Mount{Type: MountBind, Source: "/a", Target: "/b"}},
		{in: "type=bind,src=a/./b,dst=/b/,readonly", want: Mount{Type: MountBind, Source: "/here/a/b", Target: "/b", ReadOnly: true}},
		{in: "TYPE=bind,src=/a,destination=/b,ro=false,bind-propagation=rslave", want: Mount{Type: MountBind, Source: "/a", Target: "/b", Propagation: "rslave"}},
		{in: "type=bind,src=/a,dst=/b,bind-recursive=disabled", want: Mount{Type: MountBind, Source: "/a", Target: "/b", NoRecursive: true}},
		{in: `type=bind,"src=/a,b",dst=/b`, want: Mount{Type: MountBind, Source: "/a,b", Target: "/b"}},
		{in: "dst=/b", want: Mount{Type: MountVolume, Target: "/b", Anonymous: true}},
		{in: "src=vol,dst=/b,volume-nocopy,volume-label=a=b=c", want: Mount{Type: MountVolume, Source: "vol", Target: "/b", NoCopy: true, Labels: map[string]string{"a": "b=c"}}},
		{in: "type=tmpfs,dst=/b,tmpfs-size=1m,tmpfs-mode=700", want: Mount{Type: MountTmpfs, Target: "/b", TmpfsBytes: 1 << 20, TmpfsMode: &mode}},
		{in: "", fail: "invalid mount"},
		{in: "type=bind,src=/a", fail: "target is required"},
		{in: "type=bind,dst=/b", fail: "field Source must not be empty"},
		{in: "type=bind,src=/a,dst=b", fail: "must be an absolute path"},
		{in: "type=bind,src=/a,dst=/", fail: "root cannot be a mount"},
		{in: "type=bind,src=/a,dst=/b,readonly=maybe", fail: "invalid value for readonly: maybe"},
		{in: "type=bind,src=/a,dst=/b,bind-propagation=wide", fail: `invalid propagation "wide"`},
		{in: "type=bind,src=/a,dst=/b,bind-recursive=x", fail: "bind-recursive"},
		{in: "type=bind,src=/a,dst=/b,volume-nocopy", fail: "volume options go with type=volume"},
		{in: "type=bind,src=/a,dst=/b,tmpfs-size=1m", fail: "tmpfs options go with type=tmpfs"},
		{in: "src=vol,dst=/b,bind-propagation=shared", fail: "bind options go with type=bind"},
		{in: "src=v/l,dst=/b", fail: "Invalid volume name"},
		{in: "type=tmpfs,src=/a,dst=/b", fail: "a tmpfs has no source"},
		{in: "type=tmpfs,dst=/b,tmpfs-mode=9", fail: "invalid value for tmpfs-"},
		{in: "type=tmpfs,dst=/b,tmpfs-size=big", fail: "invalid value for tmpfs-"},
		{in: "type=npipe,dst=/b", fail: `mount type unknown: "npipe"`},
		{in: "nonsense", fail: "must be a key=value pair"},
		{in: "color=red,dst=/b", fail: "unexpected key 'color'"},
		{in: `"open`, fail: "invalid mount"},
	} {
		t.Run(c.in, func(t *testing.T) {
			got, err := ParseMount(c.in, "/here")
			if c.fail != "" {
				refusal(t, err, c.fail)
				return
			}
			c.want.Origin = "--mount " + c.in
			if err != nil || !reflect.DeepEqual(got, c.want) {
				t.Errorf("got  %+v (%v)\nwant %+v", got, err, c.want)
			}
		})
	}
}

func TestParseTmpfs(t *testing.T) {
	mode := uint32(0o1770)
	for _, c := range []struct {
		in   string
		want Mount
		fail string
	}{
		{in: "/run", want: Mount{Target: "/run"}},
		{in: "/run/:rw,size=64m,mode=1770,exec,uid=5", want: Mount{Target: "/run", TmpfsBytes: 64 << 20, TmpfsMode: &mode, Options: []string{"rw", "exec", "uid=5"}}},
		{in: "/run:ro", want: Mount{Target: "/run", ReadOnly: true}},
		{in: "run", fail: "absolute path"},
		{in: "/", fail: "absolute path"},
		{in: "/run:size=0", fail: `invalid size "0"`},
		{in: "/run:size=", fail: "invalid size"},
		{in: "/run:mode=x", fail: `invalid mode "x"`},
		{in: "/run:uid", fail: "uid needs a value"},
		{in: "/run:gid=", fail: "gid needs a value"},
		{in: "/run:lowerdir=/", fail: "invalid tmpfs option"},
	} {
		t.Run(c.in, func(t *testing.T) {
			got, err := ParseTmpfs(c.in)
			if c.fail != "" {
				refusal(t, err, c.fail)
				return
			}
			c.want.Type, c.want.Origin = MountTmpfs, "--tmpfs "+c.in
			if err != nil || !reflect.DeepEqual(got, c.want) {
				t.Errorf("got  %+v (%v)\nwant %+v", got, err, c.want)
			}
		})
	}
}

func TestParseRestart(t *testing.T) {
	for in, want := range map[string]RestartPolicy{
		"": {}, "no": {}, "always": {Name: RestartAlways}, "unless-stopped": {Name: RestartUnlessStopped},
		"on-failure": {Name: RestartOnFailure}, "on-failure:3": {Name: RestartOnFailure, Retries: 3}, "on-failure:0": {Name: RestartOnFailure},
	} {
		if got, err := ParseRestart(in); err != nil || got != want {
			t.Errorf("%q: %+v, %v", in, got, err)
		}
	}
	for in, want := range map[string]string{
		"never": "unknown policy 'never'", "always:3": "only be used with 'on-failure'", "no:1": "only be used with 'on-failure'",
		"on-failure:-1": "positive integer", "on-failure:x": "positive integer", "on-failure:": "positive integer",
	} {
		_, err := ParseRestart(in)
		refusal(t, err, want)
	}
}

func TestParseCPUs(t *testing.T) {
	for in, want := range map[string]int64{"1": 1e9, "0.5": 5e8, "1.5": 15e8, "0": 0, ".25": 25e7, "0.000000001": 1} {
		if got, err := ParseCPUs(in); err != nil || got != want {
			t.Errorf("%q: %d, %v", in, got, err)
		}
	}
	for in, want := range map[string]string{"": "invalid", "x": "invalid", "-1": "invalid", "NaN": "invalid", "inf": "invalid", "1e30": "invalid", "0.0000000001": "too precise"} {
		_, err := ParseCPUs(in)
		refusal(t, err, want)
	}
}

func TestParseBytes(t *testing.T) {
	for in, want := range map[string]int64{"0": 0, "1": 1, "1b": 1, "1k": 1 << 10, "2m": 2 << 20, "1.5g": 3 << 29, "1G": 1 << 30} {
		if got, err := ParseBytes(in); err != nil || got != want {
			t.Errorf("%q: %d, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "x", "-1", "1x", "1 2"} {
		_, err := ParseBytes(in)
		refusal(t, err, "invalid size")
	}
}

func TestParseUlimit(t *testing.T) {
	for in, want := range map[string]Ulimit{
		"nofile=1024": {"nofile", 1024, 1024}, "nofile=10:20": {"nofile", 10, 20}, "core=-1": {"core", -1, -1},
	} {
		if got, err := ParseUlimit(in); err != nil || got != want {
			t.Errorf("%q: %+v, %v", in, got, err)
		}
	}
	for _, in := range []string{"nofile", "fun=1", "nofile=20:10", "nofile=x"} {
		_, err := ParseUlimit(in)
		refusal(t, err, "invalid ulimit")
	}
}

func TestParseSecurity(t *testing.T) {
	read := func(name string) ([]byte, error) {
		if name == "/profile" {
			return []byte("{}"), nil
		}
		return nil, errors.New("no such file")
	}
	for _, c := range []struct {
		in   []string
		want Security
	}{
		{[]string{"no-new-privileges"}, Security{NoNewPrivileges: true}},
		{[]string{"no-new-privileges:true"}, Security{NoNewPrivileges: true}},
		{[]string{"no-new-privileges", "no-new-privileges=false"}, Security{}},
		{[]string{"seccomp=unconfined"}, Security{Seccomp: "unconfined"}},
		{[]string{"seccomp:unconfined", "seccomp=builtin"}, Security{}},
		{[]string{"seccomp=/profile"}, Security{Seccomp: "{}"}},
		{[]string{"apparmor=mine"}, Security{AppArmor: "mine"}},
		{[]string{"systempaths=unconfined"}, Security{UnmaskAll: true}},
		{[]string{"label=disable"}, Security{}},
	} {
		var got Security
		for _, s := range c.in {
			if err := ParseSecurity(&got, s, read); err != nil {
				t.Errorf("%s: %v", s, err)
			}
		}
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%q: %+v", c.in, got)
		}
	}
	for in, want := range map[string]string{
		"no-new-privileges=perhaps": "neither true nor false", "seccomp=/none": "no such file", "apparmor=": "invalid", "systempaths=x": "invalid", "magic": "invalid",
	} {
		refusal(t, ParseSecurity(new(Security), in, read), want)
	}
	if err := ParseSecurity(new(Security), "label=user:x", read); !errdef.Is(err, errdef.Unsupported) {
		t.Errorf("a label without SELinux: %v", err)
	}
}

func TestCheckName(t *testing.T) {
	for name, ok := range map[string]bool{
		"ab": true, "a1_.-": true, "0a": true, "": false, "a": false, "-a": false, ".a": false, "_a": false, "a/b": false, "a b": false, "..": false,
		"a\x00": false, "ä1": false, strings.Repeat("a", 255): true, strings.Repeat("a", 256): false,
	} {
		if err := CheckName(name); (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func FuzzMountForms(f *testing.F) {
	for _, s := range []string{"/a:/b:ro", "vol:/b", "type=bind,src=/a,dst=/b", "/run:size=1m,mode=700", "dst=/x/../.."} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		check := func(m Mount, err error) {
			if err != nil {
				return
			}
			if cleanTarget(m.Target) != m.Target || m.Target == "/" {
				t.Errorf("%q is mounted at %q", s, m.Target)
			}
			if m.Type == MountBind && (m.Source == "" || m.Source[0] != '/') {
				t.Errorf("%q binds %q", s, m.Source)
			}
			if m.Type == MountVolume && m.Source != "" && CheckVolumeName(m.Source) != nil {
				t.Errorf("%q is the volume %q", s, m.Source)
			}
		}
		check(ParseVolume(s, "/here"))
		check(ParseMount(s, "/here"))
		check(ParseTmpfs(s))
	})
}
