package uplink

import (
	"errors"
	"fmt"
	"os"

	"berth/internal/network/netlink"

	"golang.org/x/sys/unix"
)

// EthernetBytes is the length of the header that follows the virtio-net header on a pair.
const EthernetBytes = 14

// GuestMAC and StackMAC are the addresses of a pair's two ends.
var (
	GuestMAC = netlink.MAC{0x02, 0, 0, 0, 0, 0x01}
	StackMAC = netlink.MAC{0x02, 0, 0, 0, 0, 0x02}
)

// pairEnd is the name of the stack's end. It has no address, and the kernel takes nothing from it: what comes there is for the MAC of the guest's end.
const pairEnd = "uplink1"

// MakeDevice makes the device in the calling thread's network namespace, over which the thread has all capabilities: a TUN, or a pair where
// /dev/net/tun does not open. What an earlier uplink has left of the name goes. Which of them it is the file says by itself: a pair's is a socket.
func MakeDevice(conn *netlink.Conn, name string, mtu int) (*os.File, error) {
	if err := conn.Do(netlink.DeleteLink(name).Tolerate(unix.ENODEV)); err != nil {
		return nil, err
	}
	device, err := MakeTUN(name)
	if !errors.Is(err, errNoTUN) {
		return device, err
	}
	device, pairErr := MakePair(conn, name, mtu)
	if pairErr != nil {
		return nil, errors.Join(err, pairErr)
	}
	return device, nil
}

// MakePair makes a device that needs no /dev/net/tun: a pair of interfaces, of which the guest has one, and a packet socket (packet(7)) on the
// other. It serves as a TUN does, with an Ethernet header after the virtio-net header. Both ends are without ARP, so that
// there is nothing to resolve here, either. The pair stays when the socket is closed, and ends with its namespace or the next MakeDevice.
func MakePair(conn *netlink.Conn, name string, mtu int) (_ *os.File, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot make the pair of interfaces %s and %s: %w", name, pairEnd, err)
		}
	}()
	err = conn.Do(
		netlink.CreateVeth(netlink.Veth{Name: pairEnd, MTU: mtu, PeerName: name, PeerMAC: GuestMAC}),
		netlink.SetMAC(pairEnd, StackMAC), netlink.SetNoARP(pairEnd), netlink.SetNoARP(name),
	)
	if err != nil {
		return nil, err
	}
	end, err := conn.LinkByName(pairEnd)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0) // bind says for what
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	device := os.NewFile(uintptr(fd), pairEnd)
	for _, o := range []struct{ name, value int }{
		{unix.PACKET_VNET_HDR, 1},        // both kernels leave cutting and sums to each other, as on a TUN
		{unix.PACKET_IGNORE_OUTGOING, 1}, // Linux 4.20
		{unix.PACKET_QDISC_BYPASS, 1},
	} {
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, o.name, o.value); err != nil {
			return nil, errors.Join(os.NewSyscallError("setsockopt", err), device.Close())
		}
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, pairBuffer) // as much of it as net.core.rmem_max allows
	everything := uint16(unix.ETH_P_ALL)<<8 | uint16(unix.ETH_P_ALL)>>8
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: everything, Ifindex: end.Index}); err != nil {
		return nil, errors.Join(os.NewSyscallError("bind", err), device.Close())
	}
	return device, nil
}

// pairBuffer is how much may wait for the stack, in bytes: some dozens of packets of 64 KiB.
const pairBuffer = 4 << 20
