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

// conceive lets the program of parent bear the child of p, a copy of it, and returns where the child's number will be, as long as parent is
// not released.
func conceive(parent *layout, p *plan.Program, l *layout, cgroup int) (*int64, error) {
	pid, err := put(&parent.region, int64(0))
	if err != nil {
		return nil, err
	}
	args, err := put(&parent.region, cloneArgs{
		flags: uint64(p.CloneFlags) | unix.CLONE_SETTLS, exitSignal: uint64(unix.SIGCHLD),
		stack: uint64(l.stack), stackSize: uint64(l.top() - l.stack), tls: uint64(l.thread()),
	})
	if err != nil {
		return nil, err
	}
	b := birth{args: unsafe.Pointer(args), size: unsafe.Sizeof(*args), m: l.m, pid: unsafe.Pointer(pid)}
	if cgroup >= 0 {
		args.flags |= unix.CLONE_INTO_CGROUP
		args.cgroup = uint64(cgroup)
	} else {
		b.flags, b.top, b.thread = p.CloneFlags|unix.CLONE_SETTLS|uintptr(unix.SIGCHLD), l.top(), l.thread()
	}
	parent.m.born = b
	return pid, nil
}

// clone makes the process. All signals are blocked around it: one that came between would run Go's handler in
// the child, on a thread that Go does not know. bears says that the program bears another one's child, too.
func clone(p *plan.Program, l *layout, cgroup int, bears bool) (pid, pidfd int, _ syscall.Errno) {
	flags := uint64(p.CloneFlags) | unix.CLONE_PIDFD | unix.CLONE_SETTLS
	if !p.Waits {
		flags |= unix.CLONE_VM | unix.CLONE_VFORK
		l.m.shares = true
	}
	fd := new(int32)
	args := &cloneArgs{
		flags:      flags,
		pidfd:      uint64(uintptr(unsafe.Pointer(fd))),
		exitSignal: uint64(unix.SIGCHLD),
		stack:      uint64(l.stack),
		stackSize:  uint64(l.top() - l.stack),
		tls:        uint64(l.thread()),
	}
	if cgroup >= 0 {
		args.flags |= unix.CLONE_INTO_CGROUP
		args.cgroup = uint64(cgroup)
	}
	var got, errno uintptr
	host.Exactly(func() {
		if p.Waits || bears {
			defer withhold()()
		}
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

// arenaBytes is the size and the alignment of the pieces of which Go's heap is made on 64-bit Linux (runtime/malloc.go, heapArenaBytes).
const arenaBytes = 64 << 20

// withhold keeps the variables and the heap of this process from copies of it until the function that it returns is called, and those
// who start processes in other ways from doing so meanwhile. A copy needs nothing of them (layout); without, it would
// have whatever this process has read, the kernel would write-protect it all, and each page that either of them writes to would be copied.
func withhold() (restore func()) {
	syscall.ForkLock.Lock()
	heap := uintptr(unsafe.Pointer(new([1 << 10]byte))) &^ (arenaBytes - 1)
	first, end := variables()
	advise := func(how uintptr) {
		_, _, _ = syscall.RawSyscall(unix.SYS_MADVISE, heap, arenaBytes, how)
		_, _, _ = syscall.RawSyscall(unix.SYS_MADVISE, first&^4095, end-first&^4095, how)
	}
	advise(unix.MADV_DONTFORK)
	return func() {
		advise(unix.MADV_DOFORK)
		syscall.ForkLock.Unlock()
	}
}

func sigprocmask(how int, set, old *[8]byte) {
	_, _, _ = syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, uintptr(how), uintptr(unsafe.Pointer(set)), uintptr(unsafe.Pointer(old)), 8, 0, 0)
}

// cloneOld is clone(2): flags with the exit signal, stack, where the pidfd goes, and the thread's own memory, which is the fifth argument on amd64
// and the fourth on arm64; the other one means nothing.
func cloneOld(flags uintptr, l *layout, fd *int32) (pid, errno uintptr) {
	return spawn(unix.SYS_CLONE, flags|uintptr(unix.SIGCHLD), l.top(), uintptr(unsafe.Pointer(fd)), l.thread(), l.thread(), l.m)
}
