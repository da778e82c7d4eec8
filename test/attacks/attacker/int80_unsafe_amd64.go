package main

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// int80 makes a system call as a 32-bit program does.
//
//go:noescape
func int80(number, a, b, c uintptr) int32

// int80Sockets is sockets through the two calls that i386 has for it.
func int80Sockets() error {
	const map32bit = 0x40 // MAP_32BIT, which only x86 has
	memory, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|map32bit)
	if err != nil {
		return fmt.Errorf("cannot get memory below 4 GiB: %w", err)
	}
	args := (*[3]uint32)(unsafe.Pointer(&memory[0]))
	result := func(way string, family, kind int, r int32) {
		if r >= 0 {
			_ = unix.Close(int(r))
			r = 0
		}
		say(way, family, kind, unix.Errno(-r))
	}
	const socketcall, sysSocket, socket = 102, 1, 359
	for family := range families {
		for _, kind := range []int{unix.SOCK_STREAM, unix.SOCK_DGRAM, unix.SOCK_RAW, unix.SOCK_SEQPACKET} {
			result("i386", family, kind, int80(socket, uintptr(family), uintptr(kind), 0))
			*args = [3]uint32{uint32(family), uint32(kind), 0}
			result("i386-socketcall", family, kind, int80(socketcall, sysSocket, uintptr(unsafe.Pointer(args)), 0))
		}
	}
	return nil
}
