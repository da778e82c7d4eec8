package netlink

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

func family(a netip.Addr) uint8 {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// AddAddress gives the interface with that index an address with the length of its subnet. Duplicates of an IPv6 address are
// not looked for: it was leased, and the second that looking takes is a second in which it cannot be used.
func AddAddress(index int, p netip.Prefix) Request {
	h := [unix.SizeofIfAddrmsg]byte{family(p.Addr()), uint8(p.Bits())}
	binary.NativeEndian.PutUint32(h[4:], uint32(index))
	m := NewBuffer(h[:]...)
	m.Bytes(unix.IFA_LOCAL, p.Addr().AsSlice())
	m.Bytes(unix.IFA_ADDRESS, p.Addr().AsSlice())
	if p.Addr().Is4() && p.Bits() < 31 {
		m.Bytes(unix.IFA_BROADCAST, broadcast(p))
	}
	if p.Addr().Is6() {
		m.Uint32(unix.IFA_FLAGS, unix.IFA_F_NODAD)
	}
	return Request{Purpose: "add the address " + p.String(), Type: unix.RTM_NEWADDR, Flags: create, Payload: m.Payload()}
}

func broadcast(p netip.Prefix) []byte {
	a := p.Addr().As4()
	binary.BigEndian.PutUint32(a[:], binary.BigEndian.Uint32(a[:])|(1<<(32-p.Bits())-1))
	return a[:]
}

// Address is an address of an interface.
type Address struct {
	Index  int
	Prefix netip.Prefix // the address itself, with the length of its subnet
	// Global says that its scope is everywhere; Permanent that it does not expire, and nobody but its owner takes it away.
	Global, Permanent bool
}

// Addresses lists the addresses of all interfaces.
func (c *Conn) Addresses() ([]Address, error) {
	var h [unix.SizeofIfAddrmsg]byte
	messages, err := c.Dump(Request{Purpose: "list the addresses", Type: unix.RTM_GETADDR, Payload: h[:]})
	if err != nil {
		return nil, err
	}
	return parseAll(messages, unix.RTM_NEWADDR, parseAddress)
}

func parseAddress(b []byte) (Address, error) {
	var out Address
	if len(b) < unix.SizeofIfAddrmsg {
		return out, errMalformed
	}
	out.Index = int(binary.NativeEndian.Uint32(b[4:]))
	attributes, err := ParseAttributes(b[unix.SizeofIfAddrmsg:])
	if err != nil {
		return out, err
	}
	flags := uint32(b[2])
	var address []byte
	for _, a := range attributes {
		if a.Kind == unix.IFA_FLAGS {
			if flags, err = a.Uint32(); err != nil {
				return out, err
			}
		}
		// IFA_ADDRESS is the other end's on a point-to-point link; IFA_LOCAL is always this end's.
		if a.Kind == unix.IFA_LOCAL || a.Kind == unix.IFA_ADDRESS && address == nil {
			address = a.Value
		}
	}
	out.Global, out.Permanent = b[3] == unix.RT_SCOPE_UNIVERSE, flags&unix.IFA_F_PERMANENT != 0
	out.Prefix, err = parsePrefix(b[0], address, b[1])
	return out, err
}

func parsePrefix(af uint8, address []byte, bits uint8) (netip.Prefix, error) {
	a, ok := netip.AddrFromSlice(address)
	if !ok || int(bits) > a.BitLen() || af != family(a) {
		return netip.Prefix{}, errMalformed
	}
	return netip.PrefixFrom(a, int(bits)), nil
}

// Route is an entry of the main routing table.
type Route struct {
	To      netip.Prefix // length 0 is the default route
	Gateway netip.Addr   // the zero value is none: the destination is on the link
	Index   int          // of the interface; 0 is none
	OnLink  bool         // the gateway is on the link although no subnet says so
}

// AddRoute adds a route.
func AddRoute(r Route) Request {
	h := [unix.SizeofRtMsg]byte{family(r.To.Addr()), uint8(r.To.Bits()), 4: unix.RT_TABLE_MAIN, 5: unix.RTPROT_BOOT, 7: unix.RTN_UNICAST}
	if !r.Gateway.IsValid() && r.To.Addr().Is4() {
		h[6] = unix.RT_SCOPE_LINK
	}
	if r.OnLink {
		binary.NativeEndian.PutUint32(h[8:], unix.RTNH_F_ONLINK)
	}
	m := NewBuffer(h[:]...)
	if r.To.Bits() > 0 {
		m.Bytes(unix.RTA_DST, r.To.Masked().Addr().AsSlice())
	}
	if r.Gateway.IsValid() {
		m.Bytes(unix.RTA_GATEWAY, r.Gateway.AsSlice())
	}
	m.Uint32(unix.RTA_OIF, uint32(r.Index))
	return Request{Purpose: fmt.Sprintf("add the route to %s", r.To), Type: unix.RTM_NEWROUTE, Flags: create, Payload: m.Payload()}
}

// AddLoopbackRoute makes packets for ::1 that come in by the interface with that index ones for this host. The kernel looks for such a
// route of the very interface (rt6_need_strict of net/ipv6/route.c), and drops what arrives with that address before it does
// (ip6_rcv_core of net/ipv6/ip6_input.c): it is for packets that have it only once they are here, as answers to an address that was
// translated have. It is what route_localnet is for IPv4. What is sent goes by lo, whose route has the smaller metric.
func AddLoopbackRoute(index int) Request {
	const metric = 1024 // and the index, as routes of one destination have different ones
	h := [unix.SizeofRtMsg]byte{unix.AF_INET6, 128, 4: unix.RT_TABLE_LOCAL, 5: unix.RTPROT_BOOT, 7: unix.RTN_LOCAL}
	m := NewBuffer(h[:]...)
	m.Bytes(unix.RTA_DST, netip.IPv6Loopback().AsSlice())
	m.Uint32(unix.RTA_PRIORITY, uint32(metric+index))
	m.Uint32(unix.RTA_OIF, uint32(index))
	return Request{Purpose: "take packets for ::1 in by an interface", Type: unix.RTM_NEWROUTE, Flags: create, Payload: m.Payload()}
}

// DeleteRoute removes a route that AddRoute made.
func DeleteRoute(r Route) Request {
	request := AddRoute(r)
	request.Purpose, request.Type, request.Flags = fmt.Sprintf("delete the route to %s", r.To), unix.RTM_DELROUTE, 0
	return request
}

// Routes lists the unicast routes of both families, of all tables.
func (c *Conn) Routes() ([]Route, error) {
	var all []Route
	for _, af := range []uint8{unix.AF_INET, unix.AF_INET6} {
		h := [unix.SizeofRtMsg]byte{af}
		messages, err := c.Dump(Request{Purpose: "list the routes", Type: unix.RTM_GETROUTE, Payload: h[:]})
		if err != nil {
			return nil, err
		}
		some, err := parseAll(unicast(messages), unix.RTM_NEWROUTE, parseRoute)
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	return all, nil
}

func unicast(messages []Message) []Message {
	var some []Message
	for _, m := range messages {
		if len(m.Payload) < unix.SizeofRtMsg || m.Payload[7] == unix.RTN_UNICAST {
			some = append(some, m) // one that is too short is parseRoute's error
		}
	}
	return some
}

func parseRoute(b []byte) (Route, error) {
	var out Route
	if len(b) < unix.SizeofRtMsg {
		return out, errMalformed
	}
	attributes, err := ParseAttributes(b[unix.SizeofRtMsg:])
	if err != nil {
		return out, err
	}
	to := make([]byte, 4, 16)
	if b[0] == unix.AF_INET6 {
		to = to[:16]
	}
	for _, a := range attributes {
		switch a.Kind {
		case unix.RTA_DST:
			to = a.Value
		case unix.RTA_GATEWAY:
			out.Gateway, _ = netip.AddrFromSlice(a.Value)
		case unix.RTA_OIF:
			n, err := a.Uint32()
			if err != nil {
				return out, err
			}
			out.Index = int(n)
		}
	}
	out.To, err = parsePrefix(b[0], to, b[1])
	return out, err
}
