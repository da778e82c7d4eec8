package netstack

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// The calls in this file are made without a word to Go's scheduler. It would take the processor away from a goroutine that is in
// write(2) for more than 20 microseconds, which is how long it takes to carry 64 KiB, and give it to another thread: two switches of threads
// for each packet. None of the descriptors blocks.

// noWaitReadv is readv(2).
func noWaitReadv(fd int, parts []unix.Iovec) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall(unix.SYS_READV, uintptr(fd), uintptr(unsafe.Pointer(&parts[0])), uintptr(len(parts)))
	return int(n), errno
}

// noWaitWritev is writev(2).
func noWaitWritev(fd int, parts [][]byte) (int, unix.Errno) {
	var few [8]unix.Iovec
	vectors := few[:0]
	for _, p := range parts {
		v := unix.Iovec{Base: unsafe.SliceData(p)}
		v.SetLen(len(p))
		vectors = append(vectors, v)
	}
	n, _, errno := unix.RawSyscall(unix.SYS_WRITEV, uintptr(fd), uintptr(unsafe.Pointer(&vectors[0])), uintptr(len(vectors)))
	return int(n), errno
}

// noWaitRead is read(2) into a buffer that is not empty.
func noWaitRead(fd int, b []byte) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	return int(n), errno
}

// noWaitWrite is write(2) of a buffer that is not empty.
func noWaitWrite(fd int, b []byte) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	return int(n), errno
}

// noWaitPending is ioctl(2) with SIOCINQ: how many bytes a TCP socket has for its reader.
func noWaitPending(fd int) (int, unix.Errno) {
	var n int32
	_, _, errno := unix.RawSyscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCINQ, uintptr(unsafe.Pointer(&n)))
	return int(n), errno
}

// noWaitPeek is recv(2) of one byte that stays.
func noWaitPeek(fd int) (int, unix.Errno) {
	var one byte
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&one)), 1, unix.MSG_PEEK|unix.MSG_DONTWAIT, 0, 0)
	return int(n), errno
}
