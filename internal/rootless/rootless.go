// Package rootless is the user namespace in which a user without root makes his containers: all of one instance's in the same.
// In there he is root over his own and his subordinate ids, and over all namespaces made from there; so what berth does for root
// it does for him with the same code.
//
// A command that needs this enters the namespace by executing itself again (Enter); it stays the same process. No process keeps the
// namespace: it lives as long as a command, a monitor or a container is in it, and is found by way of them. When nobody is in it,
// the next command makes another one, which maps the same ids.
//
// The run root says which namespace it is:
//
//	rootless/lock         held while somebody looks for the namespace, makes it, and until he is in it
//	rootless/namespace    its inode number (ns(7))
//	rootless/network      that of the network namespace in which the networks are (Network)
//	rootless/members/PID  a command that is in it, or was; one that is gone is removed by the next
//
// It knows no containers and no networks: who else may be in the namespace is said by the caller.
package rootless

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/host"

	"golang.org/x/sys/unix"
)

// Place is where an instance keeps what it knows of its namespace, and who else may be in it.
type Place struct {
	// Run is the run root.
	Run string
	// Members are processes that may be in the namespace: monitors, first processes of containers.
	Members func() []int
}

// Enter executes a program in the user namespace, as this process, with these arguments and this environment; it returns only when
// it could not.
func (p Place) Enter(open Program, args, env []string) error {
	h, err := p.hold()
	if err != nil {
		return err
	}
	defer h.close()
	program, err := open(h.namespace)
	if err != nil {
		return err
	}
	defer program.Close()
	if err := p.Join(os.Getpid()); err != nil {
		return err
	}
	fds := []*os.File{h.namespace, program, h.lock.File()}
	var numbers [3]int64
	for i, f := range fds {
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD, 3)
		if err != nil {
			return os.NewSyscallError("fcntl", err)
		}
		defer unix.Close(fd)
		numbers[i] = int64(fd)
	}
	file, err := stepProgram(step{Namespace: numbers[0], Program: numbers[1], Lock: numbers[2]})
	if err != nil {
		return err
	}
	defer file.Close()
	return stepFailed(syscall.Exec(pathOf(file), args, append(env, host.InsideVariable())))
}

// Start starts a program in the user namespace, in a session of its own, with descriptors from 0 on, and returns its number.
func (p Place) Start(open Program, args, env []string, files []uintptr) (int, error) {
	h, err := p.hold()
	if err != nil {
		return -1, err
	}
	defer h.close()
	program, err := open(h.namespace)
	if err != nil {
		return -1, err
	}
	defer program.Close()
	first := len(files)
	file, err := stepProgram(step{Namespace: int64(first), Program: int64(first + 1), Lock: int64(first + 2)})
	if err != nil {
		return -1, err
	}
	defer file.Close()
	// Above the numbers that the process's descriptors get, one of which may be the file's.
	fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, first+3)
	if err != nil {
		return -1, os.NewSyscallError("fcntl", err)
	}
	defer unix.Close(fd)
	// Not os.StartProcess: the first one of a process starts another one to try pidfds out, and nobody here waits for it.
	var pid int
	host.Exactly(func() {
		pid, err = syscall.ForkExec("/proc/self/fd/"+strconv.Itoa(fd), args, &syscall.ProcAttr{
			Dir: "/", Env: append(env, host.InsideVariable()),
			Files: append(files, h.namespace.Fd(), program.Fd(), h.lock.File().Fd()),
			Sys:   &syscall.SysProcAttr{Setsid: true},
		})
	})
	if err != nil {
		return -1, stepFailed(err)
	}
	return pid, p.Join(pid)
}

func pathOf(f *os.File) string { return "/proc/self/fd/" + strconv.Itoa(int(f.Fd())) }

func stepFailed(err error) error {
	err = fmt.Errorf("cannot execute the program that enters the user namespace of the containers: %w", err)
	return errdef.Hint(errdef.As(errdef.Denied, err), "vm.memfd_noexec must not be 2 here (sysctl vm.memfd_noexec)")
}

func (p Place) path(name string) string { return filepath.Join(p.Run, "rootless", name) }

// Join writes down that a process is in the namespace, or is about to enter it.
func (p Place) Join(pid int) error {
	return os.WriteFile(filepath.Join(p.path("members"), strconv.Itoa(pid)), nil, 0o600)
}

// held is the namespace, and the lock under which it was found.
type held struct {
	namespace *os.File
	lock      *disk.Lock
}

func (h held) close() {
	_ = h.namespace.Close()
	h.lock.Unlock()
}

// hold finds or makes the namespace, and keeps others from doing so until whoever it is for is in it.
func (p Place) hold() (h held, err error) {
	if err := os.MkdirAll(p.path("members"), 0o700); err != nil {
		return h, err
	}
	if h.lock, err = disk.TakeLock(p.path("lock")); err != nil {
		return h, err
	}
	if h.namespace, err = p.find(); h.namespace == nil && err == nil {
		h.namespace, err = p.make()
	}
	if err != nil {
		h.lock.Unlock()
	}
	return h, err
}
