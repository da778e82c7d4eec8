package seccomp

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/internal/errdef"
)

const (
	allow = uint32(unix.SECCOMP_RET_ALLOW)
	eperm = uint32(unix.SECCOMP_RET_ERRNO) | uint32(unix.EPERM)
	kill  = uint32(unix.SECCOMP_RET_KILL_THREAD)
	trap  = uint32(unix.SECCOMP_RET_TRAP)
)

// rules is a profile that answers EPERM to what rules do not allow.
func rules(rules ...specs.LinuxSyscall) *specs.LinuxSeccomp {
	return &specs.LinuxSeccomp{
		DefaultAction: specs.ActErrno, Architectures: []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32, specs.ArchAARCH64, specs.ArchARM},
		Syscalls: append([]specs.LinuxSyscall{allowed("rseq_slice_yield")}, rules...),
	}
}

func allowed(name string, args ...specs.LinuxSeccompArg) specs.LinuxSyscall {
	return specs.LinuxSyscall{Names: []string{name}, Action: specs.ActAllow, Args: args}
}

func with(action specs.LinuxSeccompAction, name string, args ...specs.LinuxSeccompArg) specs.LinuxSyscall {
	return specs.LinuxSyscall{Names: []string{name}, Action: action, Args: args}
}

func arg(index uint, op specs.LinuxSeccompOperator, value uint64) specs.LinuxSeccompArg {
	return specs.LinuxSeccompArg{Index: index, Op: op, Value: value}
}

func TestVerdicts(t *testing.T) {
	const big = 0x1_00000005
	socketcalls := []specs.LinuxSyscall{allowed("socketcall"), allowed("socket", arg(0, specs.OpLessThan, 38)), allowed("accept")}
	denied := specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow, Architectures: []specs.Arch{specs.ArchX86},
		Syscalls: []specs.LinuxSyscall{with(specs.ActTrap, "socket", arg(0, specs.OpEqualTo, 38)), with(specs.ActTrap, "semget")},
	}
	for _, test := range []struct {
		summary string
		profile *specs.LinuxSeccomp
		opt     Options
		arch    arch
		call    string
		args    []uint64
		want    uint32
	}{
		{"arguments are ANDed", rules(allowed("mmap", arg(0, specs.OpEqualTo, 1), arg(1, specs.OpEqualTo, 2))), Options{}, amd64, "mmap", []uint64{1, 3}, eperm},
		{"one argument twice is ORed", rules(allowed("mmap", arg(0, specs.OpEqualTo, 1), arg(0, specs.OpEqualTo, 2))), Options{}, amd64, "mmap", []uint64{2}, allow},
		{"with another beside it, too", rules(allowed("mmap", arg(0, specs.OpEqualTo, 1), arg(0, specs.OpEqualTo, 2), arg(3, specs.OpEqualTo, 9))), Options{}, amd64, "mmap", []uint64{0, 0, 0, 9}, allow},
		{"rules are ORed", rules(allowed("mmap", arg(0, specs.OpEqualTo, 1)), allowed("mmap", arg(1, specs.OpEqualTo, 2))), Options{}, amd64, "mmap", []uint64{0, 2}, allow},
		{"all 64 bits are compared", rules(allowed("mmap", arg(0, specs.OpEqualTo, 5))), Options{}, amd64, "mmap", []uint64{big}, eperm},
		{"32 on a 32-bit architecture", rules(allowed("munmap", arg(0, specs.OpEqualTo, big))), Options{}, i386, "munmap", []uint64{5}, allow},
		{"64 on x32 for a long", rules(allowed("munmap", arg(0, specs.OpEqualTo, 5))), Options{}, x32, "munmap", []uint64{big}, eperm},
		{"32 on x32 for a call of its own", rules(allowed("vmsplice", arg(1, specs.OpEqualTo, 5))), Options{}, x32, "vmsplice", []uint64{0, big}, allow},
		{"the kernel takes ioctl's command as 32 bits", rules(with(specs.ActTrap, "ioctl", arg(1, specs.OpEqualTo, unix.TIOCSTI)), allowed("ioctl", arg(0, specs.OpLessThan, 99))), Options{}, arm64, "ioctl", []uint64{0, 1<<32 | unix.TIOCSTI}, trap},
		{"an int may be written with its sign", rules(allowed("socket", arg(0, specs.OpEqualTo, 1<<64-1))), Options{}, amd64, "socket", []uint64{0xffffffff}, allow},
		{"and come with its sign", rules(allowed("socket", arg(0, specs.OpEqualTo, 1<<32-1))), Options{}, amd64, "socket", []uint64{1<<64 - 1}, allow},
		{"an int is always less than more than an int", rules(allowed("socket", arg(0, specs.OpLessThan, 1<<32))), Options{}, amd64, "socket", []uint64{1<<64 - 1}, allow},
		{"and never greater", rules(allowed("socket", arg(0, specs.OpGreaterThan, 1<<32))), Options{}, amd64, "socket", []uint64{1<<64 - 1}, eperm},
		{"a mask of nothing is no condition", rules(allowed("mmap", specs.LinuxSeccompArg{Index: 0, Op: specs.OpMaskedEqual, Value: 0, ValueTwo: 7})), Options{}, amd64, "mmap", []uint64{8}, allow},
		{"the mask is laid on both sides", rules(allowed("mmap", specs.LinuxSeccompArg{Index: 0, Op: specs.OpMaskedEqual, Value: 0xf, ValueTwo: 0xf7})), Options{}, amd64, "mmap", []uint64{0x107}, allow},
		{"a rule without conditions beats those before", rules(with(specs.ActTrap, "mmap", arg(0, specs.OpEqualTo, 1)), allowed("mmap")), Options{}, amd64, "mmap", []uint64{1}, allow},
		{"and those after", rules(allowed("mmap"), with(specs.ActTrap, "mmap", arg(0, specs.OpEqualTo, 1))), Options{}, amd64, "mmap", []uint64{1}, allow},
		{"of two without conditions the first counts", rules(with(specs.ActTrap, "mmap"), allowed("mmap")), Options{}, amd64, "mmap", nil, trap},
		{"the default's action in a rule says nothing", rules(with(specs.ActErrno, "mmap"), allowed("mmap")), Options{}, amd64, "mmap", nil, allow},
		{"the more exact clause counts", rules(allowed("mmap", arg(0, specs.OpGreaterEqual, 1)), with(specs.ActTrap, "mmap", arg(0, specs.OpEqualTo, 3))), Options{}, amd64, "mmap", []uint64{3}, trap},
		{"private calls of ARM have rules", rules(allowed("set_tls")), Options{}, arm, "set_tls", nil, allow},

		{"socketcall makes no filtered socket", rules(socketcalls...), Options{}, i386, "socketcall", []uint64{1}, eperm},
		{"and accepts what is not filtered", rules(socketcalls...), Options{}, i386, "socketcall", []uint64{5}, allow},
		{"and does what no rule names", rules(socketcalls...), Options{}, i386, "socketcall", []uint64{2}, allow},
		{"the direct call works", rules(socketcalls...), Options{}, i386, "socket", []uint64{1}, allow},
		{"a trusted socketcall makes sockets", rules(socketcalls...), Options{TrustSocketcall: true}, i386, "socketcall", []uint64{1}, allow},
		{"a rule for socket is one for socketcall", rules(allowed("socket")), Options{}, i386, "socketcall", []uint64{1}, allow},
		{"but not for all of it", rules(allowed("socket")), Options{}, i386, "socketcall", []uint64{2}, eperm},
		{"upper bits do not hide the code of socketcall", rules(allowed("socketcall"), with(specs.ActTrap, "socket")), Options{}, i386, "socketcall", []uint64{1<<32 | 1}, trap},
		{"a forbidden family forbids all through socketcall", &denied, Options{}, i386, "socketcall", []uint64{1}, trap},
		{"the version does not hide the code of ipc", &denied, Options{}, i386, "ipc", []uint64{0x10002}, trap},
		{"other codes pass", &denied, Options{}, i386, "ipc", []uint64{3}, allow},
		{"a rule on socketcall's code does not undo the one on socket", rules(allowed("socketcall", arg(0, specs.OpLessThan, 9)), allowed("socket", arg(0, specs.OpEqualTo, 1))), Options{}, i386, "socketcall", []uint64{1}, eperm},
	} {
		t.Run(test.summary, func(t *testing.T) {
			test.opt.Arch = "amd64"
			filter := mustCompile(t, test.profile, test.opt)
			if got := verdictOf(t, filter, test.arch, test.call, test.args...); got != test.want {
				t.Errorf("%s, want %s\n%s", verdictName(got), verdictName(test.want), describe(test.profile))
			}
		})
	}
}

func TestNumbersThatNoRuleNames(t *testing.T) {
	enosys := retENOSYS
	profile := func(action specs.LinuxSeccompAction, archs ...specs.Arch) *specs.LinuxSeccomp {
		return &specs.LinuxSeccomp{DefaultAction: action, Architectures: archs, Syscalls: []specs.LinuxSyscall{with(specs.ActTrap, "openat2"), with(specs.ActTrap, "set_tls")}}
	}
	const highest = 437 // openat2, everywhere
	for _, test := range []struct {
		summary string
		profile *specs.LinuxSeccomp
		arch    uint32
		number  uint32
		want    uint32
	}{
		{"known to the profile's time", profile(specs.ActErrno), unix.AUDIT_ARCH_X86_64, highest - 1, eperm},
		{"newer", profile(specs.ActErrno), unix.AUDIT_ARCH_X86_64, highest + 1, enosys},
		{"newer, and the default kills", profile(specs.ActKillProcess), unix.AUDIT_ARCH_X86_64, highest + 1, enosys},
		{"newer, and the default allows", profile(specs.ActAllow), unix.AUDIT_ARCH_X86_64, highest + 1, allow},
		{"newer, and the default logs", profile(specs.ActLog), unix.AUDIT_ARCH_X86_64, highest + 1, unix.SECCOMP_RET_LOG},
		{"newer, and the default traces", profile(specs.ActTrace), unix.AUDIT_ARCH_X86_64, highest + 1, unix.SECCOMP_RET_TRACE | uint32(unix.EPERM)},
		{"newer on ARM, whose private calls are far above", profile(specs.ActErrno, specs.ArchARM), unix.AUDIT_ARCH_ARM, highest + 1, enosys},
		{"a private call of ARM without a rule", profile(specs.ActErrno, specs.ArchARM), unix.AUDIT_ARCH_ARM, 0xf0001, eperm},
		{"far above them", profile(specs.ActErrno, specs.ArchARM), unix.AUDIT_ARCH_ARM, 0xf0100, enosys},
		{"x32 when it is not listed", profile(specs.ActErrno), unix.AUDIT_ARCH_X86_64, x32Bit | highest, kill},
		{"x32 when the default allows", profile(specs.ActAllow), unix.AUDIT_ARCH_X86_64, x32Bit | 1, kill},
		{"x32 when it is listed", profile(specs.ActErrno, specs.ArchX32), unix.AUDIT_ARCH_X86_64, x32Bit | highest, trap},
		{"newer on x32", profile(specs.ActErrno, specs.ArchX32), unix.AUDIT_ARCH_X86_64, x32Bit | highest + 1, enosys},
		{"the number that skips a call", profile(specs.ActErrno), unix.AUDIT_ARCH_X86_64, 0xffffffff, eperm},
		{"i386 when it is not listed", profile(specs.ActErrno), unix.AUDIT_ARCH_I386, highest, kill},
		{"an architecture of other machines", profile(specs.ActAllow), unix.AUDIT_ARCH_S390X, 1, kill},
		{"no rules at all", &specs.LinuxSeccomp{DefaultAction: specs.ActErrno}, unix.AUDIT_ARCH_X86_64, 100000, eperm},
	} {
		t.Run(test.summary, func(t *testing.T) {
			got, err := run(mustCompile(t, test.profile, Options{Arch: "amd64"}).Program, data{number: test.number, arch: test.arch})
			if err != nil {
				t.Fatal(err)
			}
			if got != test.want {
				t.Errorf("%s, want %s", verdictName(got), verdictName(test.want))
			}
		})
	}
}

func TestActions(t *testing.T) {
	for _, test := range []struct {
		action specs.LinuxSeccompAction
		errno  *uint
		want   uint32
	}{
		{specs.ActKill, nil, unix.SECCOMP_RET_KILL_THREAD},
		{specs.ActKillThread, nil, unix.SECCOMP_RET_KILL_THREAD},
		{specs.ActKillProcess, nil, unix.SECCOMP_RET_KILL_PROCESS},
		{specs.ActTrap, nil, unix.SECCOMP_RET_TRAP},
		{specs.ActErrno, nil, eperm},
		{specs.ActErrno, new(uint(0)), unix.SECCOMP_RET_ERRNO},
		{specs.ActErrno, new(uint(38)), retENOSYS},
		{specs.ActTrace, nil, unix.SECCOMP_RET_TRACE | uint32(unix.EPERM)},
		{specs.ActTrace, new(uint(0xffff)), unix.SECCOMP_RET_TRACE | 0xffff},
		{specs.ActAllow, nil, allow},
		{specs.ActLog, nil, unix.SECCOMP_RET_LOG},
		{specs.ActNotify, nil, unix.SECCOMP_RET_USER_NOTIF},
	} {
		p := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, DefaultErrnoRet: new(uint(7)), ListenerPath: "/run/agent"}
		p.Syscalls = []specs.LinuxSyscall{{Names: []string{"getpid"}, Action: test.action, ErrnoRet: test.errno}}
		filter := mustCompile(t, p, Options{Arch: "arm64"})
		if got := verdictOf(t, filter, arm64, "getpid"); got != test.want {
			t.Errorf("%s: %#x, want %#x", test.action, got, test.want)
		}
		if listens := filter.Flags&unix.SECCOMP_FILTER_FLAG_NEW_LISTENER != 0; listens != (test.action == specs.ActNotify) {
			t.Errorf("%s: listener %v", test.action, listens)
		}
	}
}

func TestFlags(t *testing.T) {
	notify := []specs.LinuxSyscall{with(specs.ActNotify, "mkdir")}
	for _, test := range []struct {
		summary string
		profile specs.LinuxSeccomp
		want    uint
	}{
		{"none given", specs.LinuxSeccomp{}, unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW},
		{"an empty list", specs.LinuxSeccomp{Flags: []specs.LinuxSeccompFlag{}}, 0},
		{"log", specs.LinuxSeccomp{Flags: []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagLog}}, unix.SECCOMP_FILTER_FLAG_LOG},
		{"never tsync", specs.LinuxSeccomp{Flags: []specs.LinuxSeccompFlag{"SECCOMP_FILTER_FLAG_TSYNC"}}, 0},
		{"a listener that nobody needs", specs.LinuxSeccomp{Flags: []specs.LinuxSeccompFlag{}, ListenerPath: "/run/agent"}, 0},
		{"a listener", specs.LinuxSeccomp{Flags: []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagWaitKillableRecv}, ListenerPath: "/run/agent", Syscalls: notify}, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV},
	} {
		test.profile.DefaultAction = specs.ActAllow
		if got := mustCompile(t, &test.profile, Options{Arch: "amd64"}).Flags; got != test.want {
			t.Errorf("%s: %#x, want %#x", test.summary, got, test.want)
		}
	}
}

func TestSenselessProfilesAreErrors(t *testing.T) {
	one := func(rule specs.LinuxSyscall) specs.LinuxSeccomp {
		return specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{rule}}
	}
	for _, test := range []struct {
		summary string
		profile specs.LinuxSeccomp
		arch    string
		kind    errdef.Kind
		want    string
	}{
		{"no default action", specs.LinuxSeccomp{}, "amd64", errdef.Invalid, `"" is not a seccomp action`},
		{"unknown action", one(with("SCMP_ACT_MAYBE", "read")), "amd64", errdef.Invalid, `rule for read: "SCMP_ACT_MAYBE" is not`},
		{"unknown comparison", one(allowed("read", arg(0, "SCMP_CMP_LIKE", 1))), "amd64", errdef.Invalid, `"SCMP_CMP_LIKE" is not a comparison`},
		{"seventh argument", one(allowed("read", arg(6, specs.OpEqualTo, 1))), "amd64", errdef.Invalid, "no argument 6"},
		{"foreign architecture", specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Architectures: []specs.Arch{specs.ArchS390X}}, "amd64", errdef.Unsupported, `"SCMP_ARCH_S390X"`},
		{"foreign host", specs.LinuxSeccomp{DefaultAction: specs.ActAllow}, "riscv64", errdef.Unsupported, `"riscv64"`},
		{"rule without names", one(specs.LinuxSyscall{Action: specs.ActAllow}), "amd64", errdef.Invalid, "names no system call"},
		{"empty name", one(allowed("")), "amd64", errdef.Invalid, "empty system call name"},
		{"errno for an action that has none", one(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActAllow, ErrnoRet: new(uint(1))}), "amd64", errdef.Invalid, "takes no errno"},
		{"errno that is none", specs.LinuxSeccomp{DefaultAction: specs.ActErrno, DefaultErrnoRet: new(uint(4096))}, "amd64", errdef.Invalid, "larger than 4095"},
		{"unknown flag", specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{"SECCOMP_FILTER_FLAG_FAST"}}, "amd64", errdef.Invalid, "is not a seccomp flag"},
		{"waiting without a listener", specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagWaitKillableRecv}}, "amd64", errdef.Invalid, "only for profiles that use"},
		{"notify as default", specs.LinuxSeccomp{DefaultAction: specs.ActNotify}, "amd64", errdef.Invalid, "cannot be the default"},
		{"notify for write", one(with(specs.ActNotify, "write")), "amd64", errdef.Invalid, "for the write syscall"},
		{"notify and nobody listens", one(with(specs.ActNotify, "mkdir")), "amd64", errdef.Invalid, "needs a listenerPath"},
		{"metadata for nobody", specs.LinuxSeccomp{DefaultAction: specs.ActAllow, ListenerMetadata: "x"}, "amd64", errdef.Invalid, "listenerMetadata"},
		{"a contradiction", specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{allowed("read", arg(0, specs.OpEqualTo, 1)), with(specs.ActTrap, "read", arg(0, specs.OpEqualTo, 1))}}, "amd64", errdef.Invalid, "read: two rules have the same conditions"},
		{"too large", *largeProfile(2000), "amd64", errdef.Invalid, "needs more than the 4096"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			_, err := Compile(&test.profile, Options{Arch: test.arch})
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.HasPrefix(err.Error(), "cannot compile the seccomp profile: ") {
				t.Fatalf("error %v, want one that says %q", err, test.want)
			}
			if kind := errdef.KindOf(err); kind != test.kind {
				t.Errorf("%v is of kind %v, want %v", err, kind, test.kind)
			}
		})
	}
}

func TestUnknownNamesAreLeftOutAndSaid(t *testing.T) {
	p := rules(specs.LinuxSyscall{Names: []string{"not_yet", "read", "s390_runtime_instr"}, Action: specs.ActAllow})
	filter := mustCompile(t, p, Options{Arch: "amd64"})
	if want := []string{"not_yet", "s390_runtime_instr"}; !slices.Equal(filter.Unknown, want) {
		t.Errorf("unknown: %q, want %q", filter.Unknown, want)
	}
	if got := verdictOf(t, filter, amd64, "read"); got != allow {
		t.Errorf("read beside them: %s", verdictName(got))
	}
}

// largeProfile has many clauses for one call and, when it fits, jumps that are longer than 255.
func largeProfile(clauses int) *specs.LinuxSeccomp {
	p := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{with(specs.ActErrno, "keyctl")}}
	for i := range clauses {
		rule := with(specs.ActErrno, calls[i%300].name, arg(0, specs.OpEqualTo, uint64(i)<<33|uint64(i)), arg(1, specs.OpNotEqual, uint64(i)))
		rule.ErrnoRet = new(uint(i % 40))
		if i%3 == 0 {
			rule.Args = rule.Args[:1]
		}
		if name := rule.Names[0]; name != "keyctl" && !slices.Contains(needed, name) {
			p.Syscalls = append(p.Syscalls, rule)
		}
	}
	return p
}

// needed are calls that a Go program makes while the largest filter is on one of its threads.
var needed = []string{"close", "exit", "exit_group", "epoll_ctl", "clone", "clone3", "fcntl", "futex", "getpid"}

func TestLongJumpsLeadWhereShortOnesDo(t *testing.T) {
	p := largeProfile(1000)
	for _, a := range []string{"amd64", "arm64"} {
		opt := Options{Arch: a}
		filter := mustCompile(t, p, opt)
		if err := check(filter.Program); err != nil {
			t.Fatal(err)
		}
		long := slices.ContainsFunc(filter.Program, func(in unix.SockFilter) bool { return in.Code == unix.BPF_JMP|unix.BPF_JA && in.K > 255 })
		if !long || len(filter.Program) < 2000 {
			t.Errorf("%d instructions, long jumps: %v", len(filter.Program), long)
		}
		native, err := nativeArch(a)
		if err != nil {
			t.Fatal(err)
		}
		for i, rule := range p.Syscalls {
			row := lookup(rule.Names[0])
			if row.numbers[native] < 0 || len(rule.Args) == 0 {
				continue
			}
			for _, second := range []uint64{uint64(i), rule.Args[0].Value >> 33, 0} {
				for _, first := range []uint64{rule.Args[0].Value, 0} {
					d := data{number: uint32(row.numbers[native]), arch: native.audit(), args: [6]uint64{first, second}}
					got, err := run(filter.Program, d)
					if err != nil {
						t.Fatal(err)
					}
					if want := evaluate(p, opt, false, d); got != want {
						t.Fatalf("%s: %s, want %s", d, verdictName(got), verdictName(want))
					}
				}
			}
		}
	}
}

func TestSummary(t *testing.T) {
	p := rules(allowed("read"), allowed("personality", arg(0, specs.OpEqualTo, 8)), with(specs.ActKillProcess, "reboot"))
	p.Architectures = []specs.Arch{specs.ArchX86}
	filter := mustCompile(t, p, Options{Arch: "amd64"})
	want := fmt.Sprintf(`%d instructions; other system calls: errno EPERM; other architectures: kill thread
amd64: 2 allow, 1 kill process, 1 by argument; above 471: errno ENOSYS
386: 2 allow, 1 kill process, 1 by argument; above 471: errno ENOSYS
`, len(filter.Program))
	if got := filter.Summary(); got != want {
		t.Errorf("summary\n%s\nwant\n%s", got, want)
	}
	if got := (Filter{}).Summary(); got != "no filter\n" {
		t.Errorf("the zero filter: %q", got)
	}
}
