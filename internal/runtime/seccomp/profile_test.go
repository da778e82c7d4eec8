package seccomp

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	moby "github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"berth/internal/errdef"
	"berth/internal/host"
)

func TestLoadResolvesConditions(t *testing.T) {
	const text = `{
		"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "comment": "docker ignores what it does not know",
		"archMap": [
			{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
			{"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]}],
		"syscalls": [
			{"names": ["always"], "action": "SCMP_ACT_ALLOW", "includes": {}, "excludes": {}},
			{"name": "old_form", "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "args": null},
			{"names": ["both_caps"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_A", "CAP_B"]}},
			{"names": ["cap_a"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_A"]}},
			{"names": ["not_cap_a"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_C", "CAP_A"]}},
			{"names": ["amd64"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["amd64", "x32"]}},
			{"names": ["not_amd64"], "action": "SCMP_ACT_ALLOW", "excludes": {"arches": ["amd64"]}},
			{"names": ["since_5_9"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "5.9"}},
			{"names": ["until_5_9"], "action": "SCMP_ACT_ALLOW", "excludes": {"minKernel": "5.9"}},
			{"names": ["any_kernel"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": ""}, "comment": "x"}
		]}`
	for _, test := range []struct {
		caps   []string
		arch   string
		kernel host.Version
		archs  []specs.Arch
		want   string
	}{
		{[]string{"CAP_A"}, "amd64", host.Version{Major: 5, Minor: 10}, []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32}, "always old_form cap_a amd64 since_5_9 any_kernel"},
		{[]string{"CAP_B", "CAP_A"}, "arm64", host.Version{Major: 5, Minor: 8}, []specs.Arch{specs.ArchAARCH64, specs.ArchARM}, "always old_form both_caps cap_a not_amd64 until_5_9 any_kernel"},
		{nil, "amd64", host.Version{Major: 4, Minor: 19}, []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32}, "always old_form not_cap_a amd64 until_5_9 any_kernel"},
	} {
		p, err := Load([]byte(text), test.caps, test.arch, test.kernel)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, rule := range p.Syscalls {
			names = append(names, rule.Names...)
		}
		if got := strings.Join(names, " "); got != test.want {
			t.Errorf("%v %s %v: rules for %s, want %s", test.caps, test.arch, test.kernel, got, test.want)
		}
		if !slices.Equal(p.Architectures, test.archs) {
			t.Errorf("%s: architectures %v, want %v", test.arch, p.Architectures, test.archs)
		}
		if p.DefaultErrnoRet == nil || *p.DefaultErrnoRet != 38 || *p.Syscalls[1].ErrnoRet != 1 {
			t.Errorf("errnos are lost: %+v", p)
		}
	}
}

func TestLoadReadsWhatTheDefaultProfileIsWrittenAs(t *testing.T) {
	data, err := json.Marshal(moby.DefaultProfile())
	if err != nil {
		t.Fatal(err)
	}
	for _, arch := range []string{"amd64", "arm64"} {
		p, err := Load(data, dockerCaps, arch, modern)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := text(t, p), text(t, Default(dockerCaps, arch, modern)); got != want {
			t.Errorf("read from JSON for %s, the default profile is\n%s\nwant\n%s", arch, got, want)
		}
	}
}

func TestLoadWithoutAnythingAsksForNoFilter(t *testing.T) {
	if p, err := Load([]byte(`{"archMap": []}`), nil, "amd64", modern); p != nil || err != nil {
		t.Errorf("%v, %v", p, err)
	}
}

func TestLoadSaysWhatIsWrong(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{``, "unexpected end"},
		{`{"defaultAction": 3}`, "defaultAction"},
		{`{"defaultAction": "SCMP_ACT_ALLOW"} trailing`, "invalid character 't'"},
		{`{"syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]}`, "no defaultAction"},
		{`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [null]}`, "rule 0 of syscalls is null"},
		{`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"action": "SCMP_ACT_ALLOW"}]}`, "rule 0 of syscalls names no system call"},
		{`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": [""], "action": "SCMP_ACT_ALLOW"}]}`, "rule 0 of syscalls has an empty name"},
		{`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "name": "write", "action": "SCMP_ACT_ALLOW"}]}`, `both name "write" and names`},
		{`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read", "write"]}]}`, "rule 0 of syscalls (read write) has no action"},
		{`{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"], "archMap": [{"architecture": "SCMP_ARCH_X86_64"}]}`, "both architectures and archMap"},
		{`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "x", "includes": {"minKernel": "five"}}]}`, `minKernel "five"`},
		{`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "x", "includes": {"minKernel": "5.9.1"}}]}`, `minKernel "5.9.1"`},
		{`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "x", "includes": {"minKernel": 5.9}}]}`, "minKernel 5.9"},
	} {
		_, err := Load([]byte(test.text), nil, "amd64", modern)
		if err == nil || !strings.Contains(err.Error(), test.want) || !strings.HasPrefix(err.Error(), "cannot ") || !errdef.Is(err, errdef.Invalid) {
			t.Errorf("%s\nerror %v, want one that says %q", test.text, err, test.want)
		}
	}
}

func FuzzLoadAndCompile(f *testing.F) {
	data, err := json.Marshal(moby.DefaultProfile())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data, true)
	f.Add([]byte(`{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"],"syscalls":[{"names":["socket"],"action":"SCMP_ACT_ERRNO","args":[{"index":0,"value":38,"op":"SCMP_CMP_EQ"}]}]}`), false)
	f.Add([]byte(`{"defaultAction":"SCMP_ACT_KILL","syscalls":[{"name":"clone","action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":2114060288,"valueTwo":0,"op":"SCMP_CMP_MASKED_EQ"}],"includes":{"minKernel":"4.8"}}]}`), true)
	f.Add([]byte(`{"defaultAction":"SCMP_ACT_ERRNO","listenerPath":"/a","flags":["SECCOMP_FILTER_FLAG_LOG"],"syscalls":[{"names":["ipc","semop"],"action":"SCMP_ACT_NOTIFY","args":[{"index":5,"value":4294967296,"op":"SCMP_CMP_GE"},{"index":5,"value":1,"op":"SCMP_CMP_LT"}]}]}`), false)
	f.Fuzz(func(t *testing.T, data []byte, trust bool) {
		for _, arch := range []string{"amd64", "arm64"} {
			p, err := Load(data, dockerCaps, arch, modern)
			if err != nil || p == nil {
				continue
			}
			filter, err := Compile(p, Options{Arch: arch, TrustSocketcall: trust})
			if err != nil {
				continue
			}
			if err := check(filter.Program); err != nil {
				t.Fatal(err)
			}
			filter.Summary()
		}
	})
}

func FuzzCompileMeansWhatTheProfileSays(f *testing.F) {
	f.Add(uint64(1), uint64(2))
	f.Fuzz(func(t *testing.T, seed, input uint64) { compareRandom(t, seed, input, 20) })
}
