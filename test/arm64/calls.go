package main

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// calls makes system calls of which the default seccomp profile forbids all but the first, and which root in a container could
// make without it. It is run as a program of 64 and of 32 bits: each has a table of numbers of its own.
func calls() {
	const (
		userKeyring  = -4 // KEY_SPEC_USER_KEYRING
		userModeOnly = 1  // UFFD_USER_MODE_ONLY
	)
	minus := func(n int) uintptr { return uintptr(n) }
	for _, c := range []struct {
		name      string
		number    uintptr
		arguments [3]uintptr
	}{
		{"getpid", unix.SYS_GETPID, [3]uintptr{}},
		{"keyctl", unix.SYS_KEYCTL, [3]uintptr{unix.KEYCTL_GET_KEYRING_ID, minus(userKeyring), 1}},
		{"userfaultfd", unix.SYS_USERFAULTFD, [3]uintptr{userModeOnly}},
		{"unshare", unix.SYS_UNSHARE, [3]uintptr{unix.CLONE_NEWUTS}},
		{"clone3", unix.SYS_CLONE3, [3]uintptr{}},
	} {
		_, _, errno := syscall.RawSyscall(c.number, c.arguments[0], c.arguments[1], c.arguments[2])
		said := "done"
		if errno != 0 {
			said = unix.ErrnoName(errno)
		}
		fmt.Printf("%s: %s\n", c.name, said)
	}
}
