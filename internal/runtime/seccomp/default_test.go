package seccomp

import (
	"encoding/json"
	"runtime"
	"slices"
	"testing"

	moby "github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/internal/host"
)

var modern = host.Version{Major: 6, Minor: 18}

// dockerCaps is what docker gives a container by default.
var dockerCaps = []string{
	"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD", "CAP_NET_BIND_SERVICE",
	"CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
}

func TestDefaultIsDockersProfile(t *testing.T) {
	if runtime.GOARCH != "amd64" && runtime.GOARCH != "arm64" {
		t.Skip("docker's module resolves the profile for the architecture it runs on")
	}
	everything := []string{
		"CAP_DAC_READ_SEARCH", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_CHROOT", "CAP_SYS_MODULE", "CAP_SYS_PACCT", "CAP_SYS_PTRACE",
		"CAP_SYS_RAWIO", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_SYS_NICE", "CAP_SYSLOG", "CAP_BPF", "CAP_PERFMON",
	}
	sets := [][]string{nil, dockerCaps, everything}
	for _, name := range everything {
		sets = append(sets, []string{name})
	}
	for _, caps := range sets {
		theirs, err := moby.GetDefaultProfile(&specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: caps}}})
		if err != nil {
			t.Fatal(err)
		}
		if got, want := text(t, Default(caps, runtime.GOARCH, modern)), text(t, theirs); got != want {
			t.Errorf("with %v the profile is\n%s\nand docker's\n%s", caps, got, want)
		}
	}
}

func TestDefaultIsTheCallersOwn(t *testing.T) {
	before := text(t, Default(nil, "amd64", modern))
	p := Default(nil, "amd64", modern)
	*p.DefaultErrnoRet = 99
	p.Architectures[0] = "changed"
	for i := range p.Syscalls {
		if p.Syscalls[i].ErrnoRet != nil {
			*p.Syscalls[i].ErrnoRet = 99
		}
		for j := range p.Syscalls[i].Args {
			p.Syscalls[i].Args[j].Value = 99
		}
		p.Syscalls[i].Names = append(p.Syscalls[i].Names, "added")
		p.Syscalls[i].Action = specs.ActKill
	}
	if after := text(t, Default(nil, "amd64", modern)); after != before {
		t.Errorf("changing one caller's profile changed the next one's:\n%s", after)
	}
}

func TestDefaultForOldKernelHasNoPtrace(t *testing.T) {
	// Before 4.8 ptrace could be used to get around seccomp.
	for _, test := range []struct {
		kernel host.Version
		want   uint32
	}{
		{host.Version{Major: 4, Minor: 7}, unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)},
		{host.Version{Major: 4, Minor: 8}, unix.SECCOMP_RET_ALLOW},
	} {
		filter := mustCompile(t, Default(nil, "amd64", test.kernel), Options{Arch: "amd64"})
		if got := verdictOf(t, filter, amd64, "ptrace"); got != test.want {
			t.Errorf("ptrace on %v: %s, want %s", test.kernel, verdictName(got), verdictName(test.want))
		}
	}
}

func TestDefaultIsSmall(t *testing.T) {
	for _, arch := range []string{"amd64", "arm64"} {
		filter := mustCompile(t, Default(dockerCaps, arch, modern), Options{Arch: arch})
		t.Logf("%s: %s", arch, filter.Summary())
		if len(filter.Program) > 450 {
			t.Errorf("the default filter for %s has %d instructions", arch, len(filter.Program))
		}
		if err := check(filter.Program); err != nil {
			t.Error(err)
		}
		if !slices.Contains(filter.Unknown, "riscv_hwprobe") {
			t.Errorf("%v does not name the call of another architecture", filter.Unknown)
		}
	}
}

func text(t *testing.T, p *specs.LinuxSeccomp) string {
	t.Helper()
	data, err := json.MarshalIndent(p, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func mustCompile(t testing.TB, p *specs.LinuxSeccomp, opt Options) Filter {
	t.Helper()
	filter, err := Compile(p, opt)
	if err != nil {
		t.Fatal(err)
	}
	return filter
}

// verdictOf runs filter for the named call.
func verdictOf(t testing.TB, filter Filter, a arch, name string, args ...uint64) uint32 {
	t.Helper()
	row := lookup(name)
	if row == nil || row.numbers[a] < 0 {
		t.Fatalf("%s has no call %s", a, name)
	}
	d := data{number: uint32(row.numbers[a]), arch: a.audit()}
	if a == x32 {
		d.number |= x32Bit
	}
	copy(d.args[:], args)
	ret, err := run(filter.Program, d)
	if err != nil {
		t.Fatal(err)
	}
	return ret
}

func BenchmarkCompileDefault(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Compile(Default(dockerCaps, "amd64", modern), Options{Arch: "amd64"}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDefault(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		Default(dockerCaps, "amd64", modern)
	}
}
