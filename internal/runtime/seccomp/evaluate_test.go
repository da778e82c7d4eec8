package seccomp

import (
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// evaluate says what profile means for one system call, straight from the words of the package's comment: no tables,
// no program. Of the package's code it uses only the table of numbers, which has a test of its own.
func evaluate(profile *specs.LinuxSeccomp, opt Options, registers bool, d data) uint32 {
	def := evaluateAction(profile.DefaultAction, profile.DefaultErrnoRet)
	listed := func(name specs.Arch) bool {
		return slices.Contains(profile.Architectures, name) ||
			opt.Arch == "amd64" && name == specs.ArchX86_64 || opt.Arch == "arm64" && name == specs.ArchAARCH64
	}
	answersNewer := profile.DefaultAction != specs.ActAllow && profile.DefaultAction != specs.ActLog && profile.DefaultAction != specs.ActTrace

	// Which architecture is it?
	var a arch
	number := d.number
	switch d.arch {
	case unix.AUDIT_ARCH_I386:
		if a = i386; !listed(specs.ArchX86) {
			return unix.SECCOMP_RET_KILL_THREAD
		}
	case unix.AUDIT_ARCH_ARM:
		if a = arm; !listed(specs.ArchARM) {
			return unix.SECCOMP_RET_KILL_THREAD
		}
	case unix.AUDIT_ARCH_AARCH64:
		if a = arm64; !listed(specs.ArchAARCH64) {
			return unix.SECCOMP_RET_KILL_THREAD
		}
	case unix.AUDIT_ARCH_X86_64:
		if !listed(specs.ArchX86_64) && !listed(specs.ArchX32) {
			return unix.SECCOMP_RET_KILL_THREAD
		}
		isX32 := number >= 1<<30
		switch {
		case isX32 && listed(specs.ArchX32):
			a, number = x32, number-1<<30
		case isX32 && number == 0xffffffff:
			return def
		case isX32 && number>>30 == 2 && answersNewer && evaluateHighest(profile, amd64) > 0:
			return unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
		case isX32:
			return unix.SECCOMP_RET_KILL_THREAD
		case listed(specs.ArchX86_64):
			a = amd64
		default:
			return unix.SECCOMP_RET_KILL_THREAD
		}
	default:
		return unix.SECCOMP_RET_KILL_THREAD
	}

	if answersNewer {
		private := a == arm && number >= 0xf0000 && number < 0xf0010
		if highest := evaluateHighest(profile, a); highest > 0 && number > uint32(highest) && !private {
			return unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
		}
	}

	var names []string
	for _, c := range calls {
		if c.numbers[a] >= 0 && uint32(c.numbers[a]) == number {
			names = append(names, c.name)
		}
	}
	verdict, found := evaluateRules(profile, names, true, func(name string, args []specs.LinuxSeccompArg) bool {
		for _, arg := range args {
			if !evaluateArg(arg, a, name, registers, d) {
				return false
			}
		}
		return true
	})
	unconditional := evaluateUnconditional(profile, names, def)
	if a == i386 && (number == 102 || number == 117) {
		if m, ok := evaluateMultiplexed(profile, opt, number, d, unconditional); ok {
			return m
		}
	}
	if !found {
		return def
	}
	return verdict
}

// evaluateMultiplexed says what the rules for a call behind socketcall or ipc mean there.
func evaluateMultiplexed(profile *specs.LinuxSeccomp, opt Options, number uint32, d data, whole bool) (uint32, bool) {
	code := uint32(d.args[0])
	names := strings.Fields("- socket bind connect listen accept getsockname getpeername socketpair send recv sendto " +
		"recvfrom shutdown setsockopt getsockopt sendmsg recvmsg accept4 recvmmsg sendmmsg")
	if number == 117 {
		code &= 0xffff
		names = strings.Fields("- semop semget semctl semtimedop - - - - - - msgsnd msgrcv msgget msgctl - - - - - - " +
			"shmat shmdt shmget shmctl")
	}
	if int(code) >= len(names) || names[code] == "-" {
		return 0, false
	}
	def := evaluateAction(profile.DefaultAction, profile.DefaultErrnoRet)
	pass := func(action uint32) bool {
		return action == unix.SECCOMP_RET_ALLOW || action == unix.SECCOMP_RET_LOG
	}
	// The actions of the rules for it: without conditions, or else with conditions.
	var always, denied, passed []uint32
	named := false
	for _, rule := range profile.Syscalls {
		if !slices.Contains(rule.Names, names[code]) {
			continue
		}
		named = true
		switch action := evaluateAction(rule.Action, rule.ErrnoRet); {
		case action == def:
		case len(rule.Args) == 0:
			always = append(always, action)
		case pass(action):
			passed = append(passed, action)
		default:
			denied = append(denied, action)
		}
	}
	if !named {
		return 0, false
	}
	candidates := append(always, denied...)
	if opt.TrustSocketcall {
		candidates = append(candidates, passed...)
	}
	candidates = append(candidates, def)
	action := candidates[0]
	switch {
	case !opt.TrustSocketcall && !pass(action):
		return action, true
	case whole || action == def:
		return 0, false
	}
	return action, true
}

func evaluateHighest(profile *specs.LinuxSeccomp, a arch) int32 {
	highest := int32(0)
	for _, rule := range profile.Syscalls {
		for _, name := range rule.Names {
			if mux, _, ok := multiplexed(name); ok && a == i386 {
				highest = max(highest, []int32{102, 117}[mux])
			}
		}
		for _, c := range calls {
			if slices.Contains(rule.Names, c.name) && c.numbers[a] < 0xf0000 {
				highest = max(highest, c.numbers[a])
			}
		}
	}
	return highest
}

func evaluateHighests(profile *specs.LinuxSeccomp) (highests [archCount]int32) {
	for a := range highests {
		highests[a] = evaluateHighest(profile, arch(a))
	}
	return highests
}

// evaluateUnconditional reports whether a rule without conditions, and with another action than skip, is for one of names.
func evaluateUnconditional(profile *specs.LinuxSeccomp, names []string, skip uint32) bool {
	return slices.ContainsFunc(profile.Syscalls, func(rule specs.LinuxSyscall) bool {
		return len(rule.Args) == 0 && evaluateAction(rule.Action, rule.ErrnoRet) != skip &&
			slices.ContainsFunc(names, func(name string) bool { return slices.Contains(rule.Names, name) })
	})
}

// evaluateRules finds the action for a call of these names: of rules without conditions the first, then of those that
// match the most exact.
func evaluateRules(profile *specs.LinuxSeccomp, names []string, skipDefault bool, match func(string, []specs.LinuxSeccompArg) bool) (uint32, bool) {
	def := evaluateAction(profile.DefaultAction, profile.DefaultErrnoRet)
	for _, rule := range profile.Syscalls {
		action := evaluateAction(rule.Action, rule.ErrnoRet)
		if len(rule.Args) > 0 || skipDefault && action == def {
			continue
		}
		for _, name := range names {
			if slices.Contains(rule.Names, name) {
				return action, true
			}
		}
	}
	if match == nil {
		return 0, false
	}
	for _, rule := range profile.Syscalls {
		action := evaluateAction(rule.Action, rule.ErrnoRet)
		if len(rule.Args) == 0 || action == def {
			continue
		}
		for _, name := range names {
			if !slices.Contains(rule.Names, name) {
				continue
			}
			repeated := false
			for i := range rule.Args {
				for j := range i {
					repeated = repeated || rule.Args[i].Index == rule.Args[j].Index
				}
			}
			if !repeated && match(name, rule.Args) {
				return action, true
			}
			for i := range rule.Args {
				if repeated && match(name, rule.Args[i:i+1]) {
					return action, true
				}
			}
		}
	}
	return 0, false
}

func evaluateArg(arg specs.LinuxSeccompArg, a arch, name string, registers bool, d data) bool {
	value, want, mask := d.args[arg.Index], arg.Value, arg.ValueTwo
	isInt := false
	if (a == amd64 || a == arm64 || a == x32) && !registers {
		for _, c := range calls {
			if c.name == name {
				isInt = c.int32s>>arg.Index&1 == 1 || a == x32 && c.numbers[x32] >= 512
			}
		}
	}
	switch {
	case a == i386 || a == arm || registers && a == x32:
		value, want, mask = value&0xffffffff, want&0xffffffff, mask&0xffffffff
	case isInt:
		// The kernel's view of the argument against the number in the rule, which may be written as a negative int.
		value = uint64(uint32(value))
		if arg.Op == specs.OpMaskedEqual {
			if all := mask & want; int64(all) < 0 && int64(all) >= -1<<31 {
				want, mask = want&0xffffffff, all&0xffffffff
			}
		} else if int64(want) < 0 && int64(want) >= -1<<31 {
			want &= 0xffffffff
		}
	}
	switch arg.Op {
	case specs.OpNotEqual:
		return value != want
	case specs.OpLessThan:
		return value < want
	case specs.OpLessEqual:
		return value <= want
	case specs.OpEqualTo:
		return value == want
	case specs.OpGreaterEqual:
		return value >= want
	case specs.OpGreaterThan:
		return value > want
	}
	return value&want == mask&want
}

func evaluateAction(action specs.LinuxSeccompAction, errno *uint) uint32 {
	code := uint32(unix.EPERM)
	if errno != nil {
		code = uint32(*errno)
	}
	switch action {
	case specs.ActKillProcess:
		return unix.SECCOMP_RET_KILL_PROCESS
	case specs.ActTrap:
		return unix.SECCOMP_RET_TRAP
	case specs.ActErrno:
		return unix.SECCOMP_RET_ERRNO | code
	case specs.ActTrace:
		return unix.SECCOMP_RET_TRACE | code
	case specs.ActAllow:
		return unix.SECCOMP_RET_ALLOW
	case specs.ActLog:
		return unix.SECCOMP_RET_LOG
	case specs.ActNotify:
		return unix.SECCOMP_RET_USER_NOTIF
	}
	return unix.SECCOMP_RET_KILL_THREAD
}
