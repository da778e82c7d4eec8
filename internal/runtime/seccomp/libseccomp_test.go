package seccomp

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"math/rand/v2"
	"os/exec"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// job is a filter for testdata/libseccomp.py.
type job struct {
	Default  uint32       `json:"default"`
	Archs    []specs.Arch `json:"archs"`
	Optimize bool         `json:"optimize"`
	Rules    []jobRule    `json:"rules"`
}

type jobRule struct {
	Action uint32   `json:"action"`
	Name   string   `json:"name"`
	Args   [][4]any `json:"args"`
}

// runcJob says what runc asks of libseccomp for a profile (libcontainer/seccomp/seccomp_linux.go of runc 1.5).
func runcJob(p *specs.LinuxSeccomp) job {
	j := job{Default: evaluateAction(p.DefaultAction, p.DefaultErrnoRet), Archs: append([]specs.Arch{}, p.Architectures...), Rules: []jobRule{}}
	for _, rule := range p.Syscalls {
		action := evaluateAction(rule.Action, rule.ErrnoRet)
		if action == j.Default {
			continue
		}
		var seen [6]int
		args := [][4]any{}
		for _, arg := range rule.Args {
			seen[arg.Index]++
			args = append(args, [4]any{arg.Index, arg.Op, arg.Value, arg.ValueTwo})
		}
		for _, name := range rule.Names {
			if slices.Max(seen[:]) > 1 {
				for i := range args {
					j.Rules = append(j.Rules, jobRule{action, name, args[i : i+1]})
				}
				continue
			}
			j.Rules = append(j.Rules, jobRule{action, name, args})
		}
	}
	j.Optimize = len(j.Rules) > 32
	return j
}

type libseccompResult struct {
	program []unix.SockFilter
	err     string
	died    int // the signal that ended the library: it crashes or never returns for some sets of rules
}

// libseccomp builds filters with the host's library; the test is skipped where there is none.
func libseccomp(t *testing.T, jobs []job) []libseccompResult {
	t.Helper()
	const python = "/usr/bin/python3"
	if runtime.GOARCH != "amd64" {
		t.Skip("the comparison with libseccomp runs on amd64 alone: the library always adds the native architecture")
	}
	if err := exec.Command(python, "-c", "import seccomp").Run(); err != nil {
		t.Skip("no Python bindings of libseccomp (Debian: python3-seccomp) to compare with")
	}
	input, err := json.Marshal(jobs)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, python, "testdata/libseccomp.py")
	cmd.Stdin = bytes.NewReader(input)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	output, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, &stderr)
	}
	var raw []struct {
		Program, Error string
		Died           int
	}
	if err := json.Unmarshal(output, &raw); err != nil {
		t.Fatal(err)
	}
	results := make([]libseccompResult, len(raw))
	for i, r := range raw {
		code, err := hex.DecodeString(r.Program)
		if err != nil {
			t.Fatal(err)
		}
		results[i].err, results[i].died = r.Error, r.Died
		for ; len(code) >= 8; code = code[8:] {
			results[i].program = append(results[i].program, unix.SockFilter{
				Code: binary.NativeEndian.Uint16(code), Jt: code[2], Jf: code[3], K: binary.NativeEndian.Uint32(code[4:]),
			})
		}
	}
	return results
}

// runc says what runc's filter does: the program of libseccomp behind the ENOSYS stub of runc
// (libcontainer/seccomp/patchbpf/enosys_linux.go).
func runc(t testing.TB, p *specs.LinuxSeccomp, highests [archCount]int32, program []unix.SockFilter, d data) uint32 {
	t.Helper()
	stub := p.DefaultAction != specs.ActAllow && p.DefaultAction != specs.ActLog && p.DefaultAction != specs.ActTrace
	var a arch
	known := true
	switch {
	case d.arch == unix.AUDIT_ARCH_X86_64 && d.number&x32Bit != 0:
		a, known = x32, slices.Contains(p.Architectures, specs.ArchX32)
	case d.arch == unix.AUDIT_ARCH_X86_64:
		a = amd64
	case d.arch == unix.AUDIT_ARCH_I386:
		a, known = i386, slices.Contains(p.Architectures, specs.ArchX86)
	case d.arch == unix.AUDIT_ARCH_AARCH64:
		a, known = arm64, slices.Contains(p.Architectures, specs.ArchAARCH64)
	case d.arch == unix.AUDIT_ARCH_ARM:
		a, known = arm, slices.Contains(p.Architectures, specs.ArchARM)
	default:
		known = false
	}
	if known && stub {
		highest, number := uint32(highests[a]), d.number
		if a == x32 {
			highest |= x32Bit
		}
		// Here we differ: runc counts ARM's private calls.
		private := a == arm && number >= armPrivate && number < armPrivate+privateCount
		if highest&^x32Bit > 0 && number > highest && !private {
			return retENOSYS
		}
	}
	ret, err := run(program, d)
	if err != nil {
		t.Fatal(err)
	}
	return ret
}

// libseccompMistakes reports whether p has a rule that libseccomp 2.5 compiles wrongly for 32-bit architectures:
// _db_rule_gen_arg_32 forgets for "less or equal" that the rule goes on where the comparison is false.
func libseccompMistakes(p *specs.LinuxSeccomp) bool {
	return slices.ContainsFunc(p.Syscalls, func(rule specs.LinuxSyscall) bool {
		return len(rule.Args) > 1 && slices.ContainsFunc(rule.Args, func(arg specs.LinuxSeccompArg) bool { return arg.Op == specs.OpLessEqual })
	})
}

func TestCompiledFilterDoesWhatLibseccompsDoes(t *testing.T) {
	const profiles, inputs = 300, 400
	var all []*specs.LinuxSeccomp
	var jobs []job
	for seed := range uint64(profiles) {
		r := rand.New(rand.NewPCG(seed, 12))
		p := randomProfile(r)
		keepKnown(p)
		if seed%2 == 0 {
			keepOneClause(p)
		}
		all, jobs = append(all, p), append(jobs, runcJob(p))
	}
	start := time.Now()
	results := libseccomp(t, jobs)
	t.Logf("libseccomp built %d filters in %v", len(jobs), time.Since(start))
	compared, failed, died, refused, forgot, mistaken := 0, 0, 0, 0, 0, 0
	for i, p := range all {
		if results[i].died != 0 {
			died++
			t.Logf("profile %d: libseccomp ended with signal %d\n%s", i, results[i].died, describe(p))
			continue
		}
		if results[i].err != "" {
			refused++
			continue
		}
		if forgetsNumber(results[i].program) {
			forgot++
			continue
		}
		// What is stricter on purpose is turned off.
		opt := Options{Arch: "amd64", TrustSocketcall: true}
		filter, err := compile(p, opt, true)
		if err != nil {
			t.Fatalf("profile %d: %v", i, err)
		}
		r, highests := rand.New(rand.NewPCG(uint64(i), 13)), evaluateHighests(p)
		for range inputs {
			d := randomData(r, p)
			if d.arch == unix.AUDIT_ARCH_I386 && d.number == 117 {
				d.args[0] &= 0xffff // the version of ipc, which libseccomp compares
			}
			if (d.arch == unix.AUDIT_ARCH_I386 || d.arch == unix.AUDIT_ARCH_ARM || d.number&x32Bit != 0) && libseccompMistakes(p) {
				continue
			}
			if d.arch == unix.AUDIT_ARCH_I386 && (d.number == 102 || d.number == 117) && comparesPointers(p) {
				continue
			}
			got, err := run(filter.Program, d)
			if err != nil {
				t.Fatal(err)
			}
			compared++
			if want := runc(t, p, highests, results[i].program, d); got != want {
				if severalClauses(p, d) && got == evaluate(p, opt, true, d) {
					mistaken++
					break
				}
				failed++
				t.Errorf("profile %d: %s\nwe: %s (%#x)\nlibseccomp: %s (%#x)\n%s", i, d, verdictName(got), got, verdictName(want), want, describe(p))
				break
			}
		}
		if failed > 5 {
			break
		}
	}
	t.Logf("%d comparisons; of %d profiles libseccomp refused %d, did not come back for %d, forgot to load the number in %d, mistook clauses in %d",
		compared, profiles, refused, died, forgot, mistaken)
	if mistaken > profiles/20 || compared < profiles*inputs/3 {
		t.Error("that is too many, or too few comparisons, to prove anything")
	}
}

// comparesPointers reports whether p has conditions on other arguments than the first for a call behind socketcall or
// ipc. libseccomp compares the multiplexer's own arguments with them: a pointer, or what is the neighbour's.
func comparesPointers(p *specs.LinuxSeccomp) bool {
	return slices.ContainsFunc(p.Syscalls, func(rule specs.LinuxSyscall) bool {
		return slices.ContainsFunc(rule.Names, func(name string) bool {
			_, _, ok := multiplexed(name)
			return ok
		}) && slices.ContainsFunc(rule.Args, func(arg specs.LinuxSeccompArg) bool { return arg.Index != 0 })
	})
}

// severalClauses reports whether libseccomp has more than one clause for the call of d. Then its program sometimes
// compares a word that it has not loaded: it takes for granted what stands in the accumulator after another clause, and
// of two ranges of one argument it can lose one. Where it differs from us there, the naive evaluator must agree with us.
func severalClauses(p *specs.LinuxSeccomp, d data) bool {
	clauses := 0
	for _, rule := range p.Syscalls {
		for _, name := range rule.Names {
			row := lookup(name)
			for a, number := range row.numbers {
				if arch(a).audit() == d.arch && number >= 0 && uint32(number) == d.number&^x32Bit {
					clauses += min(len(rule.Args), 1)
				}
			}
		}
	}
	return clauses > 1
}

// forgetsNumber reports whether libseccomp 2.5 has compared the architecture's constant as if it were a system call
// number: it leaves out the load of the number in front of some sections, so that all their rules are dead.
func forgetsNumber(program []unix.SockFilter) bool {
	for pc, in := range program {
		isArch := in.K == unix.AUDIT_ARCH_X86_64 || in.K == unix.AUDIT_ARCH_I386 || in.K == unix.AUDIT_ARCH_AARCH64 || in.K == unix.AUDIT_ARCH_ARM
		if in.Code != unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K || !isArch {
			continue
		}
		at := pc + 1 + int(in.Jt)
		for program[at].Code == unix.BPF_JMP|unix.BPF_JA {
			at += 1 + int(program[at].K)
		}
		if load := program[at]; load.Code != unix.BPF_RET|unix.BPF_K && (load.Code != unix.BPF_LD|unix.BPF_W|unix.BPF_ABS || load.K != offsetNumber) {
			return true
		}
	}
	return false
}

// Two rules for one call that overlap and have different actions: which one counts is nowhere written but in
// libseccomp's code.
func TestOverlappingClausesAreTriedAsLibseccompTriesThem(t *testing.T) {
	ops := []specs.LinuxSeccompOperator{specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpEqualTo, specs.OpGreaterEqual, specs.OpGreaterThan}
	var all []*specs.LinuxSeccomp
	var jobs []job
	for _, first := range ops {
		for _, second := range ops {
			for _, value := range []uint64{5, 7, 9} {
				p := &specs.LinuxSeccomp{
					DefaultAction: specs.ActAllow, Architectures: []specs.Arch{specs.ArchX86},
					Syscalls: []specs.LinuxSyscall{
						{Names: []string{"getuid"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{{Index: 1, Op: first, Value: 7}}},
						{Names: []string{"getuid"}, Action: specs.ActTrap, Args: []specs.LinuxSeccompArg{{Index: 1, Op: second, Value: value}}},
					},
				}
				all, jobs = append(all, p), append(jobs, runcJob(p))
			}
		}
	}
	for i, result := range libseccomp(t, jobs) {
		filter, err := compile(all[i], Options{Arch: "amd64"}, true)
		if (err != nil) != (result.err != "") {
			t.Errorf("we: %v\nlibseccomp: %s\n%s", err, result.err, describe(all[i]))
		}
		if err != nil || result.err != "" {
			continue
		}
		for _, a := range []arch{amd64, i386} {
			for value := range uint64(12) {
				got := verdictOf(t, filter, a, "getuid", 0, value)
				if want := verdictOf(t, Filter{Program: result.program}, a, "getuid", 0, value); got != want {
					t.Errorf("%s, argument %d: we: %s, libseccomp: %s\n%s", a, value, verdictName(got), verdictName(want), describe(all[i]))
				}
			}
		}
	}
}

// Profiles are written by people: the default one is compared without any exception.
func TestDefaultFilterDoesWhatLibseccompsDoes(t *testing.T) {
	var jobs []job
	var all []*specs.LinuxSeccomp
	for _, caps := range [][]string{nil, dockerCaps, {"CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_BPF"}} {
		p := Default(caps, "amd64", modern)
		keepKnownNames(p)
		all, jobs = append(all, p), append(jobs, runcJob(p))
	}
	for i, result := range libseccomp(t, jobs) {
		p := all[i]
		if result.err != "" || result.died != 0 {
			t.Fatalf("libseccomp: %s, signal %d", result.err, result.died)
		}
		filter, err := compile(p, Options{Arch: "amd64", TrustSocketcall: true}, true)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%d instructions, libseccomp %d", len(filter.Program), len(result.program))
		differ, highests := 0, evaluateHighests(p)
		compare := func(d data) {
			got, err := run(filter.Program, d)
			if err != nil {
				t.Fatal(err)
			}
			if want := runc(t, p, highests, result.program, d); got != want && differ < 10 {
				differ++
				t.Errorf("%s\nwe: %s\nlibseccomp: %s", d, verdictName(got), verdictName(want))
			}
		}
		for _, audit := range []uint32{unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_I386, unix.AUDIT_ARCH_AARCH64, unix.AUDIT_ARCH_ARM, 0} {
			for number := range uint32(700) {
				for _, bits := range []uint32{0, x32Bit, 0x80000000, 0xc0000000} {
					for _, arg := range []uint64{0, 38} {
						compare(data{number: number | bits, arch: audit, args: [6]uint64{arg}})
					}
				}
			}
			compare(data{number: 0xffffffff, arch: audit})
		}
		for _, name := range []string{"socket", "personality", "clone", "socketcall", "ipc"} {
			row := lookup(name)
			for a, number := range row.numbers {
				for _, value := range append([]uint64{0x7e020000, 0x10000000, 0x40000000, 0x20000, 0x20008, 8, 11, 17}, interesting...) {
					d := data{number: uint32(number), arch: arch(a).audit(), args: [6]uint64{value}}
					if arch(a) == x32 {
						d.number |= x32Bit
					}
					compare(d)
				}
			}
		}
	}
}

// keepKnownNames drops the names that keepKnown drops, and leaves the rules of which some names are left.
func keepKnownNames(p *specs.LinuxSeccomp) {
	for i := range p.Syscalls {
		rule := &p.Syscalls[i]
		rule.Names = slices.DeleteFunc(slices.Clone(rule.Names), func(name string) bool {
			row := lookup(name)
			return row == nil || row.numbers[i386] > 446 || row.numbers[arm64] > 446 || name == "uprobe" || name == "uretprobe"
		})
	}
}

// keepOneClause leaves no call with more than one clause.
func keepOneClause(p *specs.LinuxSeccomp) {
	seen := map[string]bool{}
	for i := range p.Syscalls {
		rule := &p.Syscalls[i]
		if len(rule.Args) == 0 {
			continue
		}
		// Several arguments stay, one argument twice does not.
		args := rule.Args
		rule.Args = nil
		for _, arg := range args {
			if !slices.ContainsFunc(rule.Args, func(a specs.LinuxSeccompArg) bool { return a.Index == arg.Index }) {
				rule.Args = append(rule.Args, arg)
			}
		}
		rule.Names = slices.DeleteFunc(rule.Names, func(name string) bool {
			was := seen[name]
			seen[name] = true
			return was
		})
	}
	p.Syscalls = slices.DeleteFunc(p.Syscalls, func(rule specs.LinuxSyscall) bool { return len(rule.Names) == 0 })
}

// keepKnown drops names that libseccomp 2.5 does not know: calls newer than Linux 5.13.
func keepKnown(p *specs.LinuxSeccomp) {
	p.Syscalls = slices.DeleteFunc(p.Syscalls, func(rule specs.LinuxSyscall) bool {
		return slices.ContainsFunc(rule.Names, func(name string) bool {
			row := lookup(name)
			return row.numbers[i386] > 446 || row.numbers[arm64] > 446 || name == "uprobe" || name == "uretprobe"
		})
	})
}
