//lint:file-ignore U1000 assembly calls run, and from there all of this is used

package child

import (
	"syscall"
	"unsafe"

	"berth/internal/runtime/plan"

	"golang.org/x/sys/unix"
)

// machine is a Program laid out for run, in the region of its layout, as all that it points at.
type machine struct {
	message [2]uint32 // what goes to the report pipe: {index of operation, errno} or {^0, pid}; assembly: offset 0
	report  uintptr   // descriptor; assembly: offset 8

	shares bool // the child shares its parent's memory
	execve syscall.Errno
	pc, n  uintptr
	born   birth          // of plan.Bear
	ops    unsafe.Pointer // *[n]instruction
	slots  unsafe.Pointer // *[…]uintptr; number 0 is thrown away
}

// birth is what plan.Bear needs: how the other program's child is made, and where its number goes. The two ways are clone3 and,
// where a sandbox hides that, clone.
type birth struct {
	args   unsafe.Pointer // *cloneArgs
	size   uintptr
	flags  uintptr // of clone(2), with the exit signal; zero: there is no such way
	top    uintptr // the child's stack
	thread uintptr // layout.thread
	m      *machine
	pid    unsafe.Pointer // *int64, which outlives the process that bears
}

type instruction struct {
	nr            uintptr
	args          [6]uintptr
	refs          uint8 // bit i: args[i] is the number of a slot
	special       plan.Special
	save          uint16
	skipOK        uint16
	skipTolerated uint16
	tolerate      [4]uint16
	errno         uint16
}

// The signals of Linux on every architecture that berth knows.
const lastSignal = 64

// spawn and split are in assembly. See there.
//
//go:noescape
func spawn(nr, a1, a2, a3, a4, a5 uintptr, m *machine) (pid, errno uintptr)

//go:noescape
func split(m *machine, flags uintptr) (errno uintptr)

// variables is where the linker has put what is neither code nor constant. In assembly, too.
func variables() (first, end uintptr)

// run is the child. Between clone and execve it may share memory with a Go program whose scheduler, garbage
// collector and locks know nothing of it. So here, and in all that is called from here, nothing allocates,
// nothing grows the stack, nothing takes a lock, no pointer is stored in Go's memory, and nothing can panic.
//
//go:nosplit
//go:norace
//go:nocheckptr
func run(m *machine) {
	for m.pc < m.n {
		in := (*instruction)(unsafe.Add(m.ops, m.pc*unsafe.Sizeof(instruction{})))
		var a [6]uintptr
		for i := uintptr(0); i < 6; i++ {
			v := *(*uintptr)(unsafe.Add(unsafe.Pointer(&in.args), i*8))
			if in.refs&(1<<i) != 0 {
				v = *(*uintptr)(unsafe.Add(m.slots, v*8))
			}
			*(*uintptr)(unsafe.Add(unsafe.Pointer(&a), i*8)) = v
		}
		var result uintptr
		var errno syscall.Errno
		switch in.special {
		case plan.Reset:
			var action [4]uintptr // struct kernel_sigaction, all zero: SIG_DFL
			for s := uintptr(1); s <= lastSignal; s++ {
				_, _, _ = syscall.RawSyscall6(unix.SYS_RT_SIGACTION, s, uintptr(unsafe.Pointer(&action)), 0, 8, 0, 0)
			}
		case plan.Clone:
			flags := uintptr(unix.CLONE_PARENT | unix.SIGCHLD)
			if m.shares {
				flags |= unix.CLONE_VM | unix.CLONE_VFORK
			}
			errno = syscall.Errno(split(m, flags))
		case plan.Expect:
			for i := uintptr(0); i < a[3]; i++ {
				if *(*byte)(at(a[0] + a[2] + i)) != *(*byte)(at(a[1] + i)) {
					errno = syscall.Errno(in.errno)
					break
				}
			}
		case plan.Bear:
			result, errno = bear(&m.born)
		case plan.SendFD:
			*(*int32)(at(a[3])) = int32(a[1])
			result, _, errno = syscall.RawSyscall6(unix.SYS_SENDMSG, a[0], a[2], 0, 0, 0, 0)
		case plan.CloseAll:
			errno = closeAll(m, a[0], &a)
		case plan.WaitByte:
			result, _, errno = syscall.RawSyscall6(unix.SYS_READ, a[0], a[1], 1, 0, 0, 0)
			if errno == 0 && result != 1 {
				exit(1)
			}
		default:
			for try := 0; ; try++ {
				result, _, errno = syscall.RawSyscall6(in.nr, a[0], a[1], a[2], a[3], a[4], a[5])
				// openat2 says EAGAIN when a rename elsewhere raced with a ".." beneath the root.
				if errno != syscall.EINTR && (errno != syscall.EAGAIN || in.nr != unix.SYS_OPENAT2 || try > 1000) {
					break
				}
			}
		}
		if errno == 0 {
			if in.save != 0 {
				*(*uintptr)(unsafe.Add(m.slots, uintptr(in.save)*8)) = result
			}
			m.pc += 1 + uintptr(in.skipOK)
			continue
		}
		if (in.special == plan.Exec || in.special == plan.Find) && (errno != syscall.ENOENT && errno != syscall.ENOTDIR || m.execve == 0) {
			m.execve = errno
		}
		tolerated := false
		for i := uintptr(0); i < 4; i++ {
			if t := *(*uint16)(unsafe.Add(unsafe.Pointer(&in.tolerate), i*2)); t != 0 && t == uint16(errno) {
				tolerated = true
			}
		}
		if tolerated {
			m.pc += 1 + uintptr(in.skipTolerated)
			continue
		}
		if in.special == plan.Exec || in.special == plan.Find {
			errno = m.execve
		}
		m.message[0], m.message[1] = uint32(m.pc), uint32(errno)
		_, _, _ = syscall.RawSyscall6(unix.SYS_WRITE, m.report, uintptr(unsafe.Pointer(&m.message)), 8, 0, 0, 0)
		exit(1)
	}
	exit(0)
}

// bear makes the child of another program, as a copy of this process.
//
//go:nosplit
//go:norace
//go:nocheckptr
func bear(b *birth) (uintptr, syscall.Errno) {
	pid, errno := spawn(unix.SYS_CLONE3, uintptr(b.args), b.size, 0, 0, 0, b.m)
	if syscall.Errno(errno) == unix.ENOSYS && b.flags != 0 {
		pid, errno = spawn(unix.SYS_CLONE, b.flags, b.top, 0, b.thread, b.thread, b.m)
	}
	if errno == 0 {
		*(*int64)(b.pid) = int64(pid)
	}
	return pid, syscall.Errno(errno)
}

// closeAll closes every descriptor from first on but those of kept[1:] that are not zero, and the report pipe.
//
//go:nosplit
//go:norace
//go:nocheckptr
func closeAll(m *machine, first uintptr, kept *[6]uintptr) syscall.Errno {
	for {
		next := ^uintptr(0) >> 32 // close_range takes unsigned ints
		if m.report >= first && m.report < next {
			next = m.report
		}
		for i := uintptr(1); i < 6; i++ {
			if fd := *(*uintptr)(unsafe.Add(unsafe.Pointer(kept), i*8)); fd != 0 && fd >= first && fd < next {
				next = fd
			}
		}
		if next == ^uintptr(0)>>32 {
			_, _, errno := syscall.RawSyscall6(unix.SYS_CLOSE_RANGE, first, next, 0, 0, 0, 0)
			return errno
		}
		if next > first {
			if _, _, errno := syscall.RawSyscall6(unix.SYS_CLOSE_RANGE, first, next-1, 0, 0, 0, 0); errno != 0 {
				return errno
			}
		}
		first = next + 1
	}
}

// at is the memory at an address that layout took from an object it keeps.
//
//go:nosplit
//go:norace
//go:nocheckptr
func at(address uintptr) unsafe.Pointer { return unsafe.Add(unsafe.Pointer(nil), address) }

//go:nosplit
//go:norace
func exit(status uintptr) {
	for {
		_, _, _ = syscall.RawSyscall6(unix.SYS_EXIT_GROUP, status, 0, 0, 0, 0, 0)
	}
}
