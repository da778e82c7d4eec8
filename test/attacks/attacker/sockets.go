package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"

	"golang.org/x/sys/unix"
)

// families is more than the last address family of Linux (AF_MCTP, 45).
const families = 48

// sockets tries to make a socket of every family, in every way that the processor has, and prints a line for each.
func sockets() error {
	for family := range families {
		for _, kind := range []int{unix.SOCK_STREAM, unix.SOCK_DGRAM, unix.SOCK_RAW, unix.SOCK_SEQPACKET} {
			say("native", family, kind, syscallSocket(unix.SYS_SOCKET, uintptr(family), kind))
			// The kernel takes an int: the upper half of the register means nothing to it.
			say("native-upper", family, kind, syscallSocket(unix.SYS_SOCKET, 1<<32|uintptr(family), kind))
			if runtime.GOARCH == "amd64" {
				const x32 = 0x40000000
				say("x32", family, kind, syscallSocket(unix.SYS_SOCKET|x32, uintptr(family), kind))
			}
		}
	}
	_, _, errno := unix.RawSyscall(unix.SYS_SOCKETPAIR, unix.AF_VSOCK, unix.SOCK_STREAM, 0)
	fmt.Println("native socketpair 40:", name(errno))
	if runtime.GOARCH != "amd64" {
		return nil
	}
	// A kernel without IA32 emulation kills whoever uses it.
	cmd := exec.Command("/proc/self/exe", "int80")
	cmd.Stdout = os.Stdout
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		fmt.Println("i386: absent")
		return nil
	}
	return err
}

func say(way string, family, kind int, errno unix.Errno) {
	fmt.Printf("%s %d %d: %s\n", way, family, kind, name(errno))
}

func name(errno unix.Errno) string {
	if errno == 0 {
		return "done"
	}
	return unix.ErrnoName(errno)
}

func syscallSocket(number, family uintptr, kind int) unix.Errno {
	fd, _, errno := unix.RawSyscall(number, family, uintptr(kind|unix.SOCK_CLOEXEC), 0)
	if errno == 0 {
		_ = unix.Close(int(fd))
	}
	return errno
}
