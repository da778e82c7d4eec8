package seccomp

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// summary counts what a filter does, for people.
type summary struct {
	actions []uint32
	archs   [archCount]archSummary
}

// archSummary counts one architecture's system calls. The default's are not counted: they are all the others.
type archSummary struct {
	used       bool
	verdicts   []int // by index of actions
	byArgument int
	highest    int32
}

// count adds one number, whose slot is s and which is decided at target.
func (s *summary) count(a arch, number slot, target label) {
	switch {
	case number == 0:
	case target >= 0:
		s.archs[a].byArgument++
	case ^target != 0:
		s.archs[a].verdicts[^target]++
	}
}

// Summary describes the filter in a few lines: for each architecture how many system calls have which verdict.
func (f Filter) Summary() string {
	if len(f.summary.actions) == 0 {
		return "no filter\n"
	}
	var out strings.Builder
	fallback := f.summary.actions[0]
	fmt.Fprintf(&out, "%d instructions; other system calls: %s; other architectures: %s\n",
		len(f.Program), verdictName(fallback), verdictName(badArch))
	for a := range f.summary.archs {
		s := &f.summary.archs[a]
		if !s.used {
			continue
		}
		fmt.Fprintf(&out, "%s:", arch(a))
		for i, count := range s.verdicts {
			if count > 0 {
				fmt.Fprintf(&out, " %d %s,", count, verdictName(f.summary.actions[i]))
			}
		}
		fmt.Fprintf(&out, " %d by argument", s.byArgument)
		if s.highest > 0 {
			fmt.Fprintf(&out, "; above %d: %s", s.highest, verdictName(retENOSYS))
		}
		out.WriteByte('\n')
	}
	return out.String()
}

// verdictName says in words what a filter's return value does.
func verdictName(ret uint32) string {
	data := ret & unix.SECCOMP_RET_DATA
	switch ret & retAction {
	case unix.SECCOMP_RET_KILL_PROCESS:
		return "kill process"
	case unix.SECCOMP_RET_KILL_THREAD:
		return "kill thread"
	case unix.SECCOMP_RET_TRAP:
		return "trap"
	case unix.SECCOMP_RET_ERRNO:
		if name := unix.ErrnoName(unix.Errno(data)); name != "" {
			return "errno " + name
		}
		return fmt.Sprintf("errno %d", data)
	case unix.SECCOMP_RET_USER_NOTIF:
		return "notify"
	case unix.SECCOMP_RET_TRACE:
		return fmt.Sprintf("trace %d", data)
	case unix.SECCOMP_RET_LOG:
		return "log"
	case unix.SECCOMP_RET_ALLOW:
		return "allow"
	}
	return fmt.Sprintf("return %#x", ret)
}
