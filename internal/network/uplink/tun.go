package uplink

import (
	"fmt"
	"os"

	"berth/internal/errdef"

	"golang.org/x/sys/unix"
)

// VnetHeaderBytes is the length of struct virtio_net_hdr (linux/virtio_net.h), which precedes each packet on the device.
const VnetHeaderBytes = 10

// MakeTUN makes the device in the calling thread's network namespace, which needs CAP_NET_ADMIN over it. It ends with the last
// descriptor of the file. It is a TUN, not a TAP: the only neighbour is the stack, so there is nothing to resolve, and no Ethernet
// header or neighbour table for those inside to play with.
//
// What the device offloads is chosen by whoever reads it.
func MakeTUN(name string) (*os.File, error) {
	const path = "/dev/net/tun"
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot make the device %s: %w: %w", name, errNoTUN, &os.PathError{Op: "open", Path: path, Err: err})
	}
	if err := setUpTUN(fd, name); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("cannot make the device %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// errNoTUN says that this host has no TUN for this user.
var errNoTUN = errdef.New(errdef.Unsupported, "no TUN for this user")

func setUpTUN(fd int, name string) error {
	r, err := unix.NewIfreq(name)
	if err != nil {
		return fmt.Errorf("the name is not possible: %w", err)
	}
	r.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, r); err != nil {
		return os.NewSyscallError("ioctl(TUNSETIFF)", err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, VnetHeaderBytes); err != nil {
		return os.NewSyscallError("ioctl(TUNSETVNETHDRSZ)", err)
	}
	return nil
}
