// Package seccomp compiles the seccomp part of an OCI runtime spec to the classic BPF program that seccomp(2)
// takes. It is pure: it loads nothing into the kernel, reads no file and asks for no kernel version.
//
// A profile says what happens to a system call: a default action, and rules that name calls, an action, and
// conditions on arguments. All conditions of a rule must hold (AND); any of a call's rules may match (OR). Words:
// an architecture is one of the numberings that a kernel answers to (a 64-bit x86 kernel has three: its own, i386
// and x32); a clause is one rule's conditions for one call; a default call is one that no rule names.
//
// # What follows runc and libseccomp
//
// Profiles are written against these two, so what is compiled means what they make of it (runc 1.5, libseccomp 2.5):
//   - The native architecture belongs to every filter, listed or not. A call by an architecture that is not listed
//     kills the thread (SCMP_ACT_KILL). On x86-64 that includes x32's calls, told by bit 30 of the number, except
//     number -1, with which a tracer skips a call: that gets the default action.
//   - Unless the default action lets calls pass (ALLOW, LOG, TRACE), a number above the highest that the profile names
//     for that architecture is answered with ENOSYS: a C library that tries a newer call falls back to an older one.
//   - Rules with the default's action say nothing, and names that no architecture knows are left out (Filter.Unknown).
//   - A rule without conditions beats those with conditions; of several, the first counts. If a rule names one
//     argument twice, each of its conditions becomes a rule of its own: they are ORed.
//   - Clauses with different actions that match together: the more exact one counts, by the order of compareClauses.
//     The same conditions with two actions are an error.
//   - MASKED_EQ compares what the mask leaves of both sides. 32-bit architectures compare 32 bits.
//
// # What is stricter, on purpose
//
// An argument that the kernel takes as an integer of 32 bits or fewer (by the prototypes of Linux 6.12; the arguments
// of newer calls count as 64 bits) is compared as the 32-bit number that the kernel sees, with what the rule says.
// Otherwise a rule such as "family > 40" lets socket(0x100000000|38) pass, which makes a socket of family 38. The same
// mistake in filters for ioctl(TIOCSTI) was CVE-2019-7303 and CVE-2019-10063. A rule may write such a number with its
// sign, as 64 bits. x32's arguments are compared in this way, and not always as 32 bits.
//
// On i386, socketcall(2) and ipc(2) carry other calls, and pass their arguments behind a pointer where no filter can
// look. A rule for such a call therefore also decides about the call within socketcall or ipc. If the rule has
// conditions, they cannot be checked there: an action that lets the call pass (ALLOW, LOG) is not given, any other
// one is given always, and neither is undone by a rule that allows socketcall or ipc as a whole. So with a profile
// that filters socket's families, 32-bit programs make sockets only through the direct call (Linux 4.3); glibc for
// i386 does not. Options.TrustSocketcall turns this off, and then i386 programs reach every family (AF_ALG:
// CVE-2026-31431), as they do under libseccomp, unless an LSM forbids it. The version in the upper half of
// ipc's first argument is ignored, as the kernel does.
//
// The private calls of 32-bit ARM (0xf0000 and above) do not count as the highest number, or else no new call of ARM
// would ever be answered with ENOSYS.
//
// An errno or a flag that makes no sense is an error where runc cuts it to fit or ignores it.
//
// What libseccomp 2.5 gets wrong is not copied: on 32-bit architectures it inverts "less or equal" behind another
// condition, and with several clauses for a call it sometimes compares what it has not loaded (see libseccomp_test.go).
package seccomp

import (
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

//go:generate go run mktables.go -linux /usr/src/linux
//go:generate go run mkdefault.go

// Options is what a profile does not say.
type Options struct {
	// Arch is the native architecture, in Go's words: "amd64" or "arm64".
	Arch string
	// TrustSocketcall lets 32-bit x86 programs make sockets through socketcall(2) although the profile filters
	// the direct call's arguments, because nothing else lets them make any. See the package's comment.
	TrustSocketcall bool
}

// A Filter is what seccomp(2) needs, and what was learnt while compiling it.
type Filter struct {
	// Program is at most 4096 instructions.
	Program []unix.SockFilter
	// Flags are the SECCOMP_FILTER_FLAG_ bits for seccomp(2): LOG, SPEC_ALLOW, WAIT_KILLABLE_RECV, and NEW_LISTENER
	// if a rule notifies. Never TSYNC: the child that loads the filter has one thread.
	Flags uint
	// Unknown are the names in the profile that none of its architectures has, in the order of their rules.
	Unknown []string

	summary summary
}

// maxInstructions is the kernel's BPF_MAXINSNS.
const maxInstructions = 4096

// badArch is the verdict on calls by architectures that are not in the profile: SCMP_ACT_KILL.
const badArch = unix.SECCOMP_RET_KILL_THREAD

// Compile returns the filter for profile.
func Compile(profile *specs.LinuxSeccomp, opt Options) (Filter, error) {
	filter, err := compile(profile, opt, false)
	if err != nil {
		return Filter{}, fmt.Errorf("cannot compile the seccomp profile: %w", err)
	}
	return filter, nil
}

// compile is Compile; registers makes it compare whole registers, as libseccomp does.
func compile(profile *specs.LinuxSeccomp, opt Options, registers bool) (Filter, error) {
	c, err := newCompiler(profile, opt)
	if err != nil {
		return Filter{}, err
	}
	c.registers = registers
	for i := range profile.Syscalls {
		if err := c.addRule(&profile.Syscalls[i]); err != nil {
			return Filter{}, err
		}
	}
	c.placeMultiplexed()
	flags, err := c.flags(profile)
	if err != nil {
		return Filter{}, err
	}
	program, err := c.assemble()
	if err != nil {
		return Filter{}, err
	}
	return Filter{
		Program: program,
		Flags:   flags,
		Unknown: c.unknown,
		summary: c.summary,
	}, nil
}
