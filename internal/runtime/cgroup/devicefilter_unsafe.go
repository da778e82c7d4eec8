package cgroup

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"berth/internal/errdef"

	"golang.org/x/sys/unix"
)

// filterDevices gives the group a BPF program that the kernel asks about every access to a device: version 2's way
// (Documentation/admin-guide/cgroup-v2.rst, "Device controller"; Linux 4.15).
func (g *Group) filterDevices(all []rule) error {
	program, err := loadFilter(compileFilter(all))
	if err != nil {
		return fmt.Errorf("cannot set which devices the control group %s may use: %w", g.path, err)
	}
	defer unix.Close(program)
	dir, err := unix.Open(g.v2, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	// struct bpf_attr for BPF_PROG_ATTACH. With "multi", programs of the groups above are asked as well.
	attach := [4]uint32{uint32(dir), uint32(program), unix.BPF_CGROUP_DEVICE, unix.BPF_F_ALLOW_MULTI}
	if _, err := bpf(unix.BPF_PROG_ATTACH, unsafe.Pointer(&attach), unsafe.Sizeof(attach)); err != nil {
		return fmt.Errorf("cannot set which devices the control group %s may use: %w", g.path, err)
	}
	return nil
}

// loadFilter gives a program to the kernel.
func loadFilter(program []insn) (int, error) {
	code := make([]byte, 0, 8*len(program))
	for _, i := range program {
		code = append(code, i.code, i.src<<4|i.dst)
		code = binary.NativeEndian.AppendUint16(code, uint16(i.off))
		code = binary.NativeEndian.AppendUint32(code, uint32(i.imm))
	}
	license := []byte("Apache-2.0\x00")
	attr := struct { // struct bpf_attr for BPF_PROG_LOAD, as far as it is used
		kind, count   uint32
		code, license unsafe.Pointer
		_             [16]byte
		flags, _      uint32
		name          [16]byte
	}{kind: unix.BPF_PROG_TYPE_CGROUP_DEVICE, count: uint32(len(program)), code: unsafe.Pointer(&code[0]), license: unsafe.Pointer(&license[0])}
	copy(attr.name[:], "berth_devices")
	fd, err := bpf(unix.BPF_PROG_LOAD, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	if errors.Is(err, unix.EPERM) {
		return -1, errdef.As(errdef.Denied, err)
	}
	return fd, err
}

func bpf(command int, attr unsafe.Pointer, size uintptr) (int, error) {
	for try := 0; ; try++ {
		n, _, errno := unix.Syscall(unix.SYS_BPF, uintptr(command), uintptr(attr), size)
		if errno == 0 {
			return int(n), nil
		}
		if errno != unix.EAGAIN || try == 5 { // EAGAIN: a signal has interrupted the verifier
			return -1, os.NewSyscallError("bpf", errno)
		}
	}
}
