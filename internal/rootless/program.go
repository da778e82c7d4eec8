package rootless

import (
	"errors"
	"os"

	"berth/internal/runtime/child"
	"berth/internal/runtime/plan"

	"golang.org/x/sys/unix"
)

// Program opens a program to be executed in the user namespace that it is given.
type Program func(namespace *os.File) (*os.File, error)

// ReadOnly opens the file at path so that nobody can write to it by what he finds in /proc of those who execute it: by a read-only mount
// that belongs to the user namespace.
func ReadOnly(namespace *os.File, path string) (*os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	ours := os.NewFile(uintptr(fds[0]), "trees")
	defer ours.Close()
	c, err := child.Start(plan.CompileReadOnly(path), child.Options{Inputs: map[string]int{plan.InNamespace: int(namespace.Fd()), plan.InTrees: fds[1]}})
	_ = unix.Close(fds[1])
	if err != nil {
		return nil, err
	}
	f, err := child.Receive(ours)
	if err = errors.Join(err, c.End()); err != nil && f != nil {
		_ = f.Close()
	}
	return f, err
}
