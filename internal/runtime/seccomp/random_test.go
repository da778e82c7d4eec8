package seccomp

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// interesting are argument values at which comparisons of halves go wrong.
var interesting = []uint64{
	0, 1, 2, 3, 38, 39, 40, 0x7f, 0xff, 0x1ff, 0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff, 0x100000000, 0x100000001,
	0x1_00000026, 0x1_ffffffff, 0x7fffffff_ffffffff, 0x80000000_00000000, 0xffffffff_00000000, 0xffffffff_fffffffe, 0xffffffff_ffffffff,
}

func pick[T any](r *rand.Rand, from ...T) T { return from[r.IntN(len(from))] }

// randomProfile makes a profile whose rules with conditions have one action, so that their order does not matter.
func randomProfile(r *rand.Rand) *specs.LinuxSeccomp {
	errno := func() *uint { return new(uint(r.IntN(200))) }
	p := &specs.LinuxSeccomp{
		DefaultAction: pick(r, specs.ActErrno, specs.ActErrno, specs.ActAllow, specs.ActKill, specs.ActKillProcess, specs.ActTrap, specs.ActLog, specs.ActTrace),
		ListenerPath:  "/run/agent",
	}
	if p.DefaultAction == specs.ActErrno && r.IntN(2) == 0 {
		p.DefaultErrnoRet = errno()
	}
	for _, a := range []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32, specs.ArchAARCH64, specs.ArchARM} {
		if r.IntN(3) > 0 {
			p.Architectures = append(p.Architectures, a)
		}
	}
	// A few calls, so that rules meet; those behind multiplexers often.
	var names []string
	for range 2 + r.IntN(12) {
		names = append(names, calls[r.IntN(len(calls))].name)
	}
	names = append(names, pick(r, "socket", "socketpair", "semop", "shmat", "accept"), pick(r, "socketcall", "ipc", "getpid"), pick(r, "set_tls", "clone", "personality"))
	actions := []specs.LinuxSeccompAction{specs.ActErrno, specs.ActAllow, specs.ActAllow, specs.ActKillProcess, specs.ActKillThread, specs.ActTrap, specs.ActLog, specs.ActTrace, specs.ActNotify}
	conditional := specs.LinuxSyscall{Action: pick(r, actions...)}
	if conditional.Action == specs.ActErrno && r.IntN(2) == 0 {
		conditional.ErrnoRet = errno()
	}
	for range r.IntN(30) {
		rule := specs.LinuxSyscall{Action: pick(r, actions...)}
		if r.IntN(3) > 0 {
			rule = conditional
			for range 1 + r.IntN(3) {
				rule.Args = append(rule.Args, randomArg(r))
			}
		} else if rule.Action == specs.ActErrno && r.IntN(2) == 0 {
			rule.ErrnoRet = errno()
		}
		for range 1 + r.IntN(3) {
			name := pick(r, names...)
			if name == "write" && rule.Action == specs.ActNotify {
				continue
			}
			rule.Names = append(rule.Names, name)
		}
		if len(rule.Names) > 0 {
			p.Syscalls = append(p.Syscalls, rule)
		}
	}
	return p
}

func randomArg(r *rand.Rand) specs.LinuxSeccompArg {
	arg := specs.LinuxSeccompArg{Index: uint(r.IntN(6)), Value: randomValue(r)}
	arg.Op = pick(r, specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpEqualTo, specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpMaskedEqual)
	if arg.Op == specs.OpMaskedEqual {
		arg.Value |= 1 << r.IntN(64)
		arg.ValueTwo = randomValue(r)
		if r.IntN(2) == 0 {
			arg.ValueTwo &= arg.Value
		}
	}
	return arg
}

func randomValue(r *rand.Rand) uint64 {
	switch r.IntN(6) {
	case 0:
		return r.Uint64()
	case 1:
		return uint64(r.Uint32())
	case 2:
		return uint64(r.IntN(64))
	}
	return pick(r, interesting...)
}

// randomData makes a call that the rules of p speak of, or one beside it.
func randomData(r *rand.Rand, p *specs.LinuxSeccomp) data {
	a := arch(r.IntN(int(archCount)))
	d := data{arch: a.audit()}
	if r.IntN(50) == 0 {
		d.arch = pick(r, unix.AUDIT_ARCH_S390X, unix.AUDIT_ARCH_RISCV64, r.Uint32())
	}
	var rule specs.LinuxSyscall
	if len(p.Syscalls) > 0 {
		rule = pick(r, p.Syscalls...)
	} else {
		rule.Names = []string{"read"}
	}
	if row := lookup(pick(r, rule.Names...)); row != nil && row.numbers[a] >= 0 {
		d.number = uint32(row.numbers[a])
	}
	switch r.IntN(8) {
	case 0:
		d.number += uint32(r.IntN(3)) - 1
	case 1:
		d.number = uint32(r.IntN(620))
	case 2:
		d.number = pick(r, 0xffffffff, 0x80000000, 0xbfffffff, 0xc0000000, 0xc0000001, 0x7fffffff, 0x40000000, 0x3fffffff, 0xf0000, 0xf0005, 0xf000f, 0xf0010, r.Uint32())
	case 3:
		d.number = 102
	case 4:
		d.number = 117
	}
	if a == x32 && r.IntN(4) > 0 {
		d.number |= x32Bit
	}
	for i := range d.args {
		d.args[i] = randomValue(r)
	}
	if d.arch == unix.AUDIT_ARCH_I386 && r.IntN(2) == 0 {
		d.args[0] = uint64(r.IntN(26))
	}
	for _, arg := range rule.Args {
		switch r.IntN(6) {
		case 0, 1:
			d.args[arg.Index] = arg.Value
		case 2:
			d.args[arg.Index] = arg.ValueTwo
		case 3:
			d.args[arg.Index] = arg.Value + uint64(r.IntN(3)) - 1
		case 4:
			d.args[arg.Index] = arg.Value ^ 1<<r.IntN(64)
		}
	}
	return d
}

func describe(p *specs.LinuxSeccomp) string {
	var out strings.Builder
	fmt.Fprintf(&out, "default %s %v\n", p.DefaultAction, p.Architectures)
	for _, rule := range p.Syscalls {
		fmt.Fprintf(&out, "  %s %v", rule.Action, rule.Names)
		if rule.ErrnoRet != nil {
			fmt.Fprintf(&out, " errno %d", *rule.ErrnoRet)
		}
		for _, arg := range rule.Args {
			fmt.Fprintf(&out, " [%d %s %#x %#x]", arg.Index, arg.Op, arg.Value, arg.ValueTwo)
		}
		out.WriteByte('\n')
	}
	return out.String()
}

func TestCompiledFilterMeansWhatTheProfileSays(t *testing.T) {
	seeds := uint64(500)
	if testing.Short() {
		seeds = 50
	}
	for seed := range seeds {
		compareRandom(t, seed, seed, 200)
	}
}

// compareRandom compiles one random profile and compares the program with the naive evaluator on some calls.
func compareRandom(t *testing.T, seed, input uint64, calls int) {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 11))
	p := randomProfile(r)
	opt := Options{Arch: pick(r, "amd64", "arm64"), TrustSocketcall: r.IntN(3) == 0}
	filter, err := Compile(p, opt)
	if err != nil {
		t.Fatalf("seed %d: %v\n%s", seed, err, describe(p))
	}
	if err := check(filter.Program); err != nil {
		t.Fatalf("seed %d: the kernel would refuse the program: %v", seed, err)
	}
	r = rand.New(rand.NewPCG(input, 14))
	for range calls {
		d := randomData(r, p)
		got, err := run(filter.Program, d)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if want := evaluate(p, opt, false, d); got != want {
			t.Fatalf("seed %d, %+v: %s\nprogram: %s (%#x)\nprofile: %s (%#x)\n%s", seed, opt, d, verdictName(got), got, verdictName(want), want, describe(p))
		}
	}
}
