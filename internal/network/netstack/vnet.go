package netstack

import (
	"encoding/binary"

	"berth/internal/network/uplink"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// vnetHeader is struct virtio_net_hdr of linux/virtio_net.h, in the machine's byte order: what a packet on the device leaves to
// whoever takes it. A packet that the sender would have cut to the size of the link comes whole, and its checksum need not be made
// where nothing can be damaged on the way.
type vnetHeader struct {
	flags      uint8
	gsoType    uint8
	headBytes  uint16 // of all headers of the packet; a hint
	gsoBytes   uint16 // of the payload of each packet that is to be cut from this one
	csumStart  uint16 // where the sum begins that is to be made
	csumOffset uint16 // from there to where it is to be put
}

// The values of linux/virtio_net.h.
const (
	vnetNeedsCsum = 1 // VIRTIO_NET_HDR_F_NEEDS_CSUM

	gsoTCPv4 = 1 // VIRTIO_NET_HDR_GSO_TCPV4
	gsoTCPv6 = 4 // VIRTIO_NET_HDR_GSO_TCPV6
	gsoUDP   = 5 // VIRTIO_NET_HDR_GSO_UDP_L4, Linux 6.2
	gsoECN   = 0x80
)

// linkHeader is room for what precedes a packet on the device: a vnetHeader and, on a pair of interfaces, Ethernet's.
type linkHeader [uplink.VnetHeaderBytes + uplink.EthernetBytes]byte

func parseVnetHeader(b *linkHeader) vnetHeader {
	return vnetHeader{
		flags:      b[0],
		gsoType:    b[1] &^ gsoECN,
		headBytes:  binary.NativeEndian.Uint16(b[2:]),
		gsoBytes:   binary.NativeEndian.Uint16(b[4:]),
		csumStart:  binary.NativeEndian.Uint16(b[6:]),
		csumOffset: binary.NativeEndian.Uint16(b[8:]),
	}
}

// put writes what precedes packet, with a header of frame bytes between, and returns its length.
func (h vnetHeader) put(b *linkHeader, frame int, packet []byte) int {
	if h.headBytes != 0 {
		h.headBytes += uint16(frame)
	}
	if h.flags&vnetNeedsCsum != 0 {
		h.csumStart += uint16(frame)
	}
	b[0], b[1] = h.flags, h.gsoType
	binary.NativeEndian.PutUint16(b[2:], h.headBytes)
	binary.NativeEndian.PutUint16(b[4:], h.gsoBytes)
	binary.NativeEndian.PutUint16(b[6:], h.csumStart)
	binary.NativeEndian.PutUint16(b[8:], h.csumOffset)
	if frame > 0 {
		ethernet := b[uplink.VnetHeaderBytes:]
		copy(ethernet, uplink.GuestMAC[:])
		copy(ethernet[6:], uplink.StackMAC[:])
		protocol := header.IPv4ProtocolNumber
		if packet[0]>>4 == 6 {
			protocol = header.IPv6ProtocolNumber
		}
		binary.BigEndian.PutUint16(ethernet[12:], uint16(protocol))
	}
	return uplink.VnetHeaderBytes + frame
}
