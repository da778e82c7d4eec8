package netstack

import (
	"encoding/binary"
	"net/netip"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// socket is a datagram socket of the host's.
type socket struct {
	file *os.File
	raw  syscall.RawConn
}

// newSocket takes a descriptor.
func newSocket(fd int, name string) (socket, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		return socket{}, os.NewSyscallError("fcntl", err)
	}
	f := os.NewFile(uintptr(fd), name)
	raw, err := f.SyscallConn()
	return socket{f, raw}, err
}

// connectedSocket makes a socket for one peer.
func connectedSocket(to netip.AddrPort, protocol4, protocol6 int) (socket, error) {
	family, protocol := unix.AF_INET, protocol4
	if to.Addr().Is6() {
		family, protocol = unix.AF_INET6, protocol6
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return socket{}, os.NewSyscallError("socket", err)
	}
	if err := unix.Connect(fd, sockaddr(to)); err != nil {
		_ = unix.Close(fd)
		return socket{}, os.NewSyscallError("connect", err)
	}
	return newSocket(fd, "flow")
}

func (s socket) close() { _ = s.file.Close() }

// received is a datagram, or several of the same length that the kernel has joined.
type received struct {
	payload []byte
	from    unix.Sockaddr // of a socket that is not connected
	to      netip.Addr    // of which of the host's addresses, if the socket says so
	segment int           // the length of each, 0 for one
}

// buffers are what datagrams are received into: most sockets wait most of the time, and need none meanwhile.
var buffers = sync.Pool{New: func() any { return new([packetBytes]byte) }}

// receive calls take with datagrams, and fail with errors, until the socket is closed. Errors of the way are taken from the socket by being
// told; after others it is waited for what comes next. What take gets is valid until it returns.
func (s socket) receive(take func(received), fail func(error)) {
	_ = s.raw.Read(func(fd uintptr) bool {
		b := buffers.Get().(*[packetBytes]byte)
		defer buffers.Put(b)
		var control [128]byte
		for {
			n, controlBytes, _, from, err := unix.Recvmsg(int(fd), b[:], control[:], unix.MSG_DONTWAIT)
			switch {
			case err == nil:
				r := received{payload: b[:n], from: from}
				readControl(control[:controlBytes], &r)
				take(r)
			case err == unix.EINTR:
			case err == unix.EAGAIN:
				return false
			default:
				fail(err)
				if _, known := failureOf(err); !known {
					return false
				}
			}
		}
	})
}

// The control messages of Linux that x/sys does not name.
const (
	solUDP     = 17  // SOL_UDP
	udpSegment = 103 // UDP_SEGMENT, Linux 4.18
	udpGRO     = 104 // UDP_GRO, Linux 5.0
)

// The layout of struct cmsghdr on machines of 64 bits, berth's only ones.
const (
	cmsgLevel = 8
	cmsgType  = 12
	cmsgHead  = 16
)

// readControl reads what a datagram came with. It trusts the kernel's lengths as far as they fit.
func readControl(b []byte, r *received) {
	for len(b) >= cmsgHead {
		n := int(binary.NativeEndian.Uint64(b))
		if n < cmsgHead || n > len(b) {
			return
		}
		data := b[cmsgHead:n]
		level, kind := int(binary.NativeEndian.Uint32(b[cmsgLevel:])), int(binary.NativeEndian.Uint32(b[cmsgType:]))
		switch {
		case level == solUDP && kind == udpGRO && len(data) >= 4:
			r.segment = int(binary.NativeEndian.Uint32(data))
		case level == unix.IPPROTO_IP && kind == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			r.to = netip.AddrFrom4([4]byte(data[4:])) // ipi_spec_dst: what the answer is sent from
		case level == unix.IPPROTO_IPV6 && kind == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			r.to = netip.AddrFrom16([16]byte(data))
		}
		b = b[min(len(b), unix.CmsgSpace(n-cmsgHead)):]
	}
}

// appendControl adds a control message.
func appendControl(b []byte, level, kind int, data []byte) []byte {
	begin := len(b)
	b = append(b, make([]byte, unix.CmsgSpace(len(data)))...)
	binary.NativeEndian.PutUint64(b[begin:], uint64(unix.CmsgLen(len(data))))
	binary.NativeEndian.PutUint32(b[begin+cmsgLevel:], uint32(level))
	binary.NativeEndian.PutUint32(b[begin+cmsgType:], uint32(kind))
	copy(b[begin+cmsgHead:], data)
	return b
}

// sendDatagram sends a payload, which the kernel cuts into datagrams of segment bytes if that is not 0. It does not wait: what a full
// socket does not take is lost. to is nil on a connected socket.
func sendDatagram(fd int, payload []byte, segment int, control []byte, to unix.Sockaddr) {
	const flags = unix.MSG_DONTWAIT | unix.MSG_NOSIGNAL
	if segment <= 0 || segment >= len(payload) {
		_, _ = unix.SendmsgN(fd, payload, control, to, flags)
		return
	}
	cut := appendControl(control[:len(control):len(control)], solUDP, udpSegment, binary.NativeEndian.AppendUint16(nil, uint16(segment)))
	if _, err := unix.SendmsgN(fd, payload, cut, to, flags); err == nil || err == unix.EAGAIN {
		return
	}
	// An interface without checksum offload, datagrams longer than the way's MTU, or more of them than the kernel cuts at once.
	for len(payload) > 0 {
		n := min(segment, len(payload))
		_, _ = unix.SendmsgN(fd, payload[:n], control, to, flags)
		payload = payload[n:]
	}
}
