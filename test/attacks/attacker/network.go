package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// wire is eth0 as a packet socket sees it, and the neighbour by which everything else is reached.
type wire struct {
	fd        int
	to        unix.SockaddrLinklayer
	own, peer [6]byte
	address   netip.Addr
}

// openWire opens eth0, whose prefix's first address is the gateway's; a container's CAP_NET_RAW allows it.
func openWire() (*wire, error) {
	const arp, all = "/proc/net/arp", unix.ETH_P_ALL << 8 // in network order
	link, err := net.InterfaceByName("eth0")
	if err != nil {
		return nil, err
	}
	addresses, err := link.Addrs()
	if err != nil || len(addresses) == 0 {
		return nil, fmt.Errorf("eth0 has no address: %w", err)
	}
	prefix, err := netip.ParsePrefix(addresses[0].String())
	if err != nil {
		return nil, err
	}
	gateway := prefix.Masked().Addr().Next()
	w := &wire{address: prefix.Addr(), own: [6]byte(link.HardwareAddr)}
	// A packet to the gateway has the kernel ask for its hardware address.
	if c, err := net.Dial("udp4", netip.AddrPortFrom(gateway, 9).String()); err == nil {
		_, _ = c.Write([]byte{0})
		_ = c.Close()
	}
	for end := time.Now().Add(3 * time.Second); w.peer == [6]byte{}; time.Sleep(10 * time.Millisecond) {
		data, err := os.ReadFile(arp)
		if err != nil {
			return nil, err
		}
		w.peer = neighbour(string(data), gateway.String())
		if time.Now().After(end) {
			return nil, fmt.Errorf("%s does not have %s", arp, gateway)
		}
	}
	if w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all); err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	w.to = unix.SockaddrLinklayer{Ifindex: link.Index, Protocol: all}
	return w, os.NewSyscallError("bind", unix.Bind(w.fd, &w.to))
}

func neighbour(table, address string) (mac [6]byte) {
	for _, line := range strings.Split(table, "\n") {
		var ip, kind, flags, hardware string
		if _, err := fmt.Sscan(line, &ip, &kind, &flags, &hardware); err != nil || ip != address {
			continue
		}
		if m, err := net.ParseMAC(hardware); err == nil && len(m) == 6 {
			return [6]byte(m)
		}
	}
	return mac
}

func (w *wire) send(packet []byte) error {
	frame := append(append(append([]byte{}, w.peer[:]...), w.own[:]...), 8, 0)
	if len(packet) > 0 && packet[0]>>4 == 6 {
		frame[12], frame[13] = 0x86, 0xdd
	}
	return unix.Sendto(w.fd, append(frame, packet...), 0, &w.to)
}

// knock sends a SYN for an address and port to the gateway, whatever its routes say, and reports whether somebody answers.
func knock(to, port string) error {
	address, err := netip.ParseAddr(to)
	if err != nil {
		return err
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return err
	}
	w, err := openWire()
	if err != nil {
		return err
	}
	const own = 54321
	syn := ipv4(unix.IPPROTO_TCP, w.address, address, tcpSYN(w.address, address, own, uint16(number)))
	timeout := unix.Timeval{Usec: 100_000}
	if err := unix.SetsockoptTimeval(w.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	buf := make([]byte, 65536)
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); {
		if err := w.send(syn); err != nil {
			return err
		}
		n, _, err := unix.Recvfrom(w.fd, buf, 0)
		if err != nil || n < 14+40 || [6]byte(buf) != w.own || buf[12] != 8 || buf[13] != 0 {
			continue
		}
		p := buf[14:n]
		head := int(p[0]&15) * 4
		if p[9] != unix.IPPROTO_TCP || len(p) < head+14 || binary.BigEndian.Uint16(p[head+2:]) != own {
			continue
		}
		if flags := p[head+13]; flags&0x12 == 0x12 {
			fmt.Println("answered")
			return nil
		}
	}
	fmt.Println("no answer")
	return nil
}

func ipv4(protocol byte, from, to netip.Addr, body []byte) []byte {
	p := make([]byte, 20, 20+len(body))
	p[0], p[8], p[9] = 0x45, 64, protocol
	binary.BigEndian.PutUint16(p[2:], uint16(20+len(body)))
	copy(p[12:], from.AsSlice())
	copy(p[16:], to.AsSlice())
	binary.BigEndian.PutUint16(p[10:], checksum(p))
	return append(p, body...)
}

func tcpSYN(from, to netip.Addr, source, target uint16) []byte {
	t := make([]byte, 20)
	binary.BigEndian.PutUint16(t, source)
	binary.BigEndian.PutUint16(t[2:], target)
	binary.BigEndian.PutUint32(t[4:], 1)
	t[12], t[13] = 5<<4, 2
	binary.BigEndian.PutUint16(t[14:], 65535)
	pseudo := append(append(append([]byte{}, from.AsSlice()...), to.AsSlice()...), 0, unix.IPPROTO_TCP, 0, 20)
	binary.BigEndian.PutUint16(t[16:], checksum(append(pseudo, t...)))
	return t
}

// checksum is that of RFC 1071.
func checksum(b []byte) uint16 {
	var sum uint32
	for i, c := range b {
		if i%2 == 0 {
			sum += uint32(c) << 8
		} else {
			sum += uint32(c)
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// garbage sends packets that are wrong in some way: cut off, with lengths that lie, fragments without end, options, flags and protocols
// by chance, from addresses of others. They are the same each time.
func garbage(count string) error {
	n, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	w, err := openWire()
	if err != nil {
		return err
	}
	chance := rand.New(rand.NewSource(1))
	sent := 0
	for range n {
		switch err := w.send(wrong(chance, w.address)); {
		case err == nil:
			sent++
		case !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EMSGSIZE):
			return err
		}
	}
	fmt.Println("sent", sent > n/2)
	return nil
}

func wrong(chance *rand.Rand, own netip.Addr) []byte {
	body := make([]byte, chance.Intn(1200))
	_, _ = chance.Read(body)
	targets := []netip.Addr{
		netip.AddrFrom4([4]byte{10, 99, 0, 1}), netip.AddrFrom4([4]byte{169, 254, 77, 1}), netip.AddrFrom4([4]byte{169, 254, 77, 2}), netip.AddrFrom4([4]byte{127, 0, 0, 1}),
		netip.AddrFrom4([4]byte{192, 0, 2, byte(chance.Intn(256))}), netip.AddrFrom4([4]byte{224, 0, 0, 1}), netip.AddrFrom4([4]byte{255, 255, 255, 255}), netip.AddrFrom4([4]byte{0, 0, 0, 0}),
	}
	to, from := targets[chance.Intn(len(targets))], own
	if chance.Intn(4) == 0 {
		from = targets[chance.Intn(len(targets))]
	}
	if len(body) >= 8 && chance.Intn(2) == 0 { // UDP's length: too short, or too long
		binary.BigEndian.PutUint16(body[4:], uint16(chance.Intn(16)-8))
	}
	protocols := []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_ICMP, unix.IPPROTO_IPIP, unix.IPPROTO_SCTP, byte(chance.Intn(256))}
	p := ipv4(protocols[chance.Intn(len(protocols))], from, to, body)
	switch chance.Intn(6) {
	case 0: // anything at all
		_, _ = chance.Read(p)
	case 1: // a fragment
		binary.BigEndian.PutUint16(p[6:], uint16(chance.Intn(0x4000)))
	case 2: // a length that lies
		binary.BigEndian.PutUint16(p[2:], uint16(chance.Intn(65536)))
	case 3: // options by chance
		p[0] = 0x45 + byte(chance.Intn(11))
	case 4: // cut off
		return p[:chance.Intn(len(p)+1)]
	}
	if len(p) >= 20 && chance.Intn(8) > 0 {
		p[10], p[11] = 0, 0
		head := min(int(p[0]&15)*4, len(p))
		binary.BigEndian.PutUint16(p[10:], checksum(p[:head]))
	}
	return p
}

// tun makes a device of the name, or takes it if it is there, and writes garbage to it.
func tun(name, count string) error {
	n, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		fmt.Println("open:", outcome(err))
		return nil
	}
	r, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	r.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, r); err != nil {
		fmt.Println("take:", outcome(err))
		return nil
	}
	chance := rand.New(rand.NewSource(1))
	for range n {
		_, _ = unix.Write(fd, append(make([]byte, 10), wrong(chance, netip.AddrFrom4([4]byte{169, 254, 77, 1}))...))
	}
	fmt.Println("wrote")
	return nil
}

// abstractServer listens on an abstract socket for as long as it lives.
func abstractServer(name string) error {
	l, err := net.Listen("unix", "@"+name)
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		_ = c.Close()
	}
}

// abstractClient connects to it.
func abstractClient(name string) error {
	c, err := net.Dial("unix", "@"+name)
	fmt.Println("connect:", outcome(err))
	if err == nil {
		_ = c.Close()
	}
	return nil
}
