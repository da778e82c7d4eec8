package netstack

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"berth/internal/network/uplink"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	// packetBytes is the longest packet: the longest that IPv4's header can say, and the size of gVisor's largest pooled buffer.
	packetBytes = 1 << 16
	// copyBytes is up to where a packet is copied out of the buffer that it was read into. A buffer is given away with a longer one.
	copyBytes = 16 << 10
	// gsoBytes bounds gVisor's packets with their headers, of which it thinks that they may have 160 bytes.
	gsoBytes = packetBytes
)

// link is gVisor's end of the device, and takes out of its packets what gVisor does not see.
type link struct {
	mtu      uint32
	gateways []netip.Addr
	// datagram takes a datagram before read goes on; its payload is the reader's.
	datagram func(datagram)
	udpCut   bool // the kernel cuts and joins UDP datagrams (USO)
	ended    chan struct{}

	fromGuest, toGuest, dropped atomic.Uint64 // bytes, bytes, packets

	dispatcher stack.NetworkDispatcher // set before read begins
	device     *os.File
	raw        syscall.RawConn
	// frame is the length of the header between the virtio-net header and a packet: that of Ethernet on a pair, none on a TUN.
	frame int

	// handshakes are packets with SYN, for which writeHandshakes is there.
	handshakes chan handshake

	mu     sync.RWMutex // held by who writes; excludes the end
	fd     int
	closed bool
}

var _ stack.LinkEndpoint = (*link)(nil)

func newLink(device *os.File, mtu int, gateways []netip.Addr) (*link, error) {
	raw, err := device.SyscallConn()
	if err != nil {
		return nil, err
	}
	l := &link{mtu: uint32(mtu), gateways: gateways, ended: make(chan struct{}), handshakes: make(chan handshake, maxDialling), device: device, raw: raw}
	if e := raw.Control(func(fd uintptr) {
		l.fd = int(fd)
		if _, e := unix.GetsockoptInt(l.fd, unix.SOL_SOCKET, unix.SO_TYPE); e == nil {
			l.frame = uplink.EthernetBytes
			return
		}
		l.udpCut, err = offload(l.fd)
	}); e != nil {
		return nil, e
	}
	return l, err
}

// The bits of TUNSETOFFLOAD (linux/if_tun.h).
const (
	tunCsum = 0x01
	tunTSO4 = 0x02
	tunTSO6 = 0x04
	tunUSO4 = 0x20 // Linux 6.2
	tunUSO6 = 0x40
)

// offload lets the guest's kernel leave sums and the cutting of packets to us.
func offload(fd int) (udp bool, err error) {
	const tcpOnly = tunCsum | tunTSO4 | tunTSO6
	if unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, tcpOnly|tunUSO4|tunUSO6) == nil {
		return true, nil
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, tcpOnly); err != nil {
		return false, fmt.Errorf("cannot set what the device offloads: %w", os.NewSyscallError("ioctl(TUNSETOFFLOAD)", err))
	}
	return false, nil
}

// read reads packets until the device is closed or gone.
func (l *link) read() {
	defer close(l.ended)
	var head linkHeader
	view := buffer.NewViewSize(packetBytes)
	parts := [2]unix.Iovec{{Base: &head[0]}, {Base: view.BasePtr()}}
	before := uplink.VnetHeaderBytes + l.frame
	parts[0].SetLen(before)
	parts[1].SetLen(packetBytes)
	_ = l.raw.Read(func(fd uintptr) bool {
		for {
			n, errno := noWaitReadv(int(fd), parts[:])
			switch {
			case errno == unix.EINTR:
			case errno == unix.EAGAIN:
				return false
			case errno == unix.EINVAL && l.frame > 0: // a packet that this kernel has no virtio-net header for
				l.dropped.Add(1)
			case errno != 0 || n == 0:
				return true
			case n <= before:
				l.dropped.Add(1)
			default:
				if l.take(parseVnetHeader(&head), view, n-before) {
					view = buffer.NewViewSize(packetBytes)
					parts[1].Base = view.BasePtr()
				}
			}
		}
	})
}

// take hands on a packet of n bytes at the beginning of view, and reports whether it has given the view away.
func (l *link) take(h vnetHeader, view *buffer.View, n int) (gone bool) {
	l.fromGuest.Add(uint64(n))
	packet := view.AsSlice()[:n]
	d, v := admit(packet, l.gateways)
	switch v {
	case toFlows:
		if h.gsoType == gsoUDP {
			d.segment = int(h.gsoBytes)
		}
		l.datagram(d)
	case toStack, toGateway:
		if n > copyBytes {
			view.CapLength(n)
			l.deliver(view)
			return true
		}
		l.deliver(buffer.NewViewWithData(packet))
	default:
		l.dropped.Add(1)
	}
	return false
}

// deliver gives a packet to gVisor.
func (l *link) deliver(view *buffer.View) {
	protocol := header.IPv4ProtocolNumber
	if view.AsSlice()[0]>>4 == 6 {
		protocol = header.IPv6ProtocolNumber
	}
	p := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithView(view)})
	defer p.DecRef()
	l.dispatcher.DeliverNetworkPacket(protocol, p)
}

// write writes one packet, parts[1:]; parts[0] is free for what precedes it. What the kernel does not take is lost, as on any link.
func (l *link) write(h vnetHeader, parts [][]byte) {
	var head linkHeader
	parts[0] = head[:h.put(&head, l.frame, parts[1])]
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.closed {
		return
	}
	for {
		n, errno := noWaitWritev(l.fd, parts)
		if errno == unix.EINTR {
			continue
		}
		if errno == 0 {
			l.toGuest.Add(uint64(n - len(parts[0])))
		}
		return
	}
}

// send writes a packet of our own.
func (l *link) send(h vnetHeader, packet ...[]byte) {
	var few [4][]byte
	l.write(h, append(few[:1], packet...))
}

// WritePackets writes gVisor's packets (stack.LinkWriter).
func (l *link) WritePackets(packets stack.PacketBufferList) (int, tcpip.Error) {
	for _, p := range packets.AsSlice() {
		if isHandshake(p) {
			l.postpone(p)
		} else {
			l.writePacket(p)
		}
	}
	return packets.Len(), nil
}

// handshake is a packet with SYN.
type handshake struct {
	head   vnetHeader
	packet *buffer.View
}

// isHandshake reports whether a packet has SYN.
func isHandshake(p *stack.PacketBuffer) bool {
	h := p.TransportHeader().Slice()
	return p.TransportProtocolNumber == header.TCPProtocolNumber && len(h) >= header.TCPMinimumSize && header.TCP(h).Flags()&header.TCPFlagSyn != 0
}

// postpone leaves a packet with SYN to writeHandshakes. gVisor sends it under the lock of its connection, and while the lock is held the
// goroutine that has got the answer, which comes before write(2) returns, tries it again and again: a millisecond for each connection
// where processors are few.
func (l *link) postpone(p *stack.PacketBuffer) {
	select {
	case l.handshakes <- handshake{gsoHeader(p), p.ToView()}:
	default: // lost, and sent again after a second
	}
}

// writeHandshakes writes what was postponed until the device is closed or gone.
func (l *link) writeHandshakes() {
	for {
		select {
		case h := <-l.handshakes:
			l.send(h.head, h.packet.AsSlice())
			h.packet.Release()
		case <-l.ended:
			return
		}
	}
}

func (l *link) writePacket(p *stack.PacketBuffer) {
	var few [8][]byte // most packets have a view of headers and one or two of data
	parts := few[:1]
	views, offset := p.AsViewList()
	for v := views.Front(); v != nil; v = v.Next() {
		b := v.AsSlice()
		if offset >= len(b) {
			offset -= len(b)
			continue
		}
		parts, offset = append(parts, b[offset:]), 0
	}
	l.write(gsoHeader(p), parts)
}

// gsoHeader says what gVisor has left to do of a packet.
func gsoHeader(p *stack.PacketBuffer) vnetHeader {
	gso := &p.GSOOptions
	if gso.Type == stack.GSONone {
		return vnetHeader{}
	}
	h := vnetHeader{headBytes: uint16(p.HeaderSize())}
	if gso.NeedsCsum {
		h.flags, h.csumStart, h.csumOffset = vnetNeedsCsum, gso.L3HdrLen, gso.CsumOffset
	}
	if p.Data().Size() > int(gso.MSS) {
		h.gsoType, h.gsoBytes = gsoTCPv4, gso.MSS
		if gso.Type == stack.GSOTCPv6 {
			h.gsoType = gsoTCPv6
		}
	}
	return h
}

// shut closes the device.
func (l *link) shut() error {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	err := l.device.Close()
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

// Attach says where packets go (stack.NetworkLinkEndpoint); read brings them.
func (l *link) Attach(d stack.NetworkDispatcher) {
	if d == nil || l.dispatcher != nil {
		return
	}
	l.dispatcher = d
}

// What follows completes stack.LinkEndpoint.

// Capabilities says that nothing is damaged between two ends of one device.
func (l *link) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityRXChecksumOffload
}

// SupportedGSO and GSOMaxSize say that the guest's kernel takes packets whole (stack.GSOEndpoint).
func (l *link) SupportedGSO() stack.SupportedGSO { return stack.HostGSOSupported }

// GSOMaxSize is the longest packet that gVisor may make.
func (l *link) GSOMaxSize() uint32 { return gsoBytes }

// MTU is the longest packet that is not to be cut, in bytes.
func (l *link) MTU() uint32 { return l.mtu }

// SetMTU does nothing: the device has the MTU that it was made with.
func (l *link) SetMTU(uint32) {}

// MaxHeaderLength is 0: a TUN has no link header.
func (l *link) MaxHeaderLength() uint16 { return 0 }

// LinkAddress is none.
func (l *link) LinkAddress() tcpip.LinkAddress { return "" }

// SetLinkAddress does nothing.
func (l *link) SetLinkAddress(tcpip.LinkAddress) {}

// IsAttached reports whether Attach was called.
func (l *link) IsAttached() bool { return l.dispatcher != nil }

// Wait does nothing: shut ends the reader.
func (l *link) Wait() {}

// ARPHardwareType is that of a link without addresses.
func (l *link) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareNone }

// AddHeader does nothing.
func (l *link) AddHeader(*stack.PacketBuffer) {}

// ParseHeader does nothing.
func (l *link) ParseHeader(*stack.PacketBuffer) bool { return true }

// Close does nothing: shut does.
func (l *link) Close() {}

// SetOnCloseAction does nothing.
func (l *link) SetOnCloseAction(func()) {}
