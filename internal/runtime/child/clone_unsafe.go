package child

import (
	"runtime"
	"syscall"
	"unsafe"

	"berth/internal/host"
	"berth/internal/runtime/plan"

	"golang.org/x/sys/unix"
)

// cloneArgs is struct clone_args (linux/sched.h), as of Linux 5.7.
type cloneArgs struct {
	flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
}

// conceive lets the program of parent bear the child of p, a copy of it, and returns where the child's number will be.
func conceive(parent *layout, p *plan.Program, l *layout, cgroup int) *int64 {
	args := &cloneArgs{
		flags: uint64(p.CloneFlags), exitSignal: uint64(unix.SIGCHLD),
		stack: uint64(l.stackBase()), stackSize: uint64(l.top() - l.stackBase()),
	}
	pid := new(int64)
	b := birth{args: unsafe.Pointer(args), size: unsafe.Sizeof(*args), m: l.m, pid: unsafe.Pointer(pid)}
	if cgroup >= 0 {
		args.flags |= unix.CLONE_INTO_CGROUP
		args.cgroup = uint64(cgroup)
	} else {
		b.flags, b.top = p.CloneFlags|uintptr(unix.SIGCHLD), l.top()
	}
	parent.m.born = b
	return pid
}

// clone makes the process. All signals are blocked around it: one that came between would run Go's handler in
// the child, on a thread that Go does not know.
func clone(p *plan.Program, l *layout, cgroup int) (pid, pidfd int, _ syscall.Errno) {
	flags := uint64(p.CloneFlags) | unix.CLONE_PIDFD
	if !p.Waits {
		flags |= unix.CLONE_VM | unix.CLONE_VFORK
		l.m.shares = true
	}
	fd := new(int32)
	args := &cloneArgs{
		flags:      flags,
		pidfd:      uint64(uintptr(unsafe.Pointer(fd))),
		exitSignal: uint64(unix.SIGCHLD),
		stack:      uint64(l.stackBase()),
		stackSize:  uint64(l.top() - l.stackBase()),
	}
	if cgroup >= 0 {
		args.flags |= unix.CLONE_INTO_CGROUP
		args.cgroup = uint64(cgroup)
	}
	var got, errno uintptr
	host.Exactly(func() {
		var all, old [8]byte
		for i := range all {
			all[i] = 0xff
		}
		sigprocmask(unix.SIG_SETMASK, &all, &old)
		got, errno = spawn(unix.SYS_CLONE3, uintptr(unsafe.Pointer(args)), unsafe.Sizeof(*args), 0, 0, 0, l.m)
		if syscall.Errno(errno) == unix.ENOSYS && cgroup < 0 {
			// A sandbox around us hides clone3, as docker's default filter does.
			got, errno = cloneOld(uintptr(flags), l, fd)
		}
		sigprocmask(unix.SIG_SETMASK, &old, nil)
	})
	runtime.KeepAlive(args)
	return int(got), int(*fd), syscall.Errno(errno)
}

func sigprocmask(how int, set, old *[8]byte) {
	_, _, _ = syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, uintptr(how), uintptr(unsafe.Pointer(set)), uintptr(unsafe.Pointer(old)), 8, 0, 0)
}

// cloneOld is clone(2): flags with the exit signal, stack, where the pidfd goes.
func cloneOld(flags uintptr, l *layout, fd *int32) (pid, errno uintptr) {
	return spawn(unix.SYS_CLONE, flags|uintptr(unix.SIGCHLD), l.top(), uintptr(unsafe.Pointer(fd)), 0, 0, l.m)
}
