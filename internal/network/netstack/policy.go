package netstack

import (
	"errors"
	"net/netip"

	"berth/internal/network/uplink"

	"golang.org/x/sys/unix"
)

// policy says where what comes from inside may lead.
type policy struct {
	gateway4, gateway6 netip.Addr // zero: none of that family
	inside             []netip.Prefix
	loopback           bool
	hostAddress        func(is4 bool) (netip.Addr, bool) // the host's own address
}

func newPolicy(c uplink.Config) policy {
	p := policy{gateway4: c.IPv4.Gateway, gateway6: c.IPv6.Gateway, inside: c.Inside, loopback: c.HostLoopback, hostAddress: uplink.HostAddress}
	for _, a := range []uplink.Addresses{c.IPv4, c.IPv6} {
		if a.Guest.IsValid() {
			p.inside = append(p.inside[:len(p.inside):len(p.inside)], a.Guest.Masked())
		}
	}
	return p
}

func (p policy) gateways() []netip.Addr {
	var all []netip.Addr
	for _, a := range []netip.Addr{p.gateway4, p.gateway6} {
		if a.IsValid() {
			all = append(all, a)
		}
	}
	return all
}

// gateway is the one of the family of an address.
func (p policy) gateway(is4 bool) netip.Addr {
	if is4 {
		return p.gateway4
	}
	return p.gateway6
}

func (p policy) isGateway(a netip.Addr) bool { return a == p.gateway4 || a == p.gateway6 }

func (p policy) isInside(a netip.Addr) bool {
	for _, prefix := range p.inside {
		if prefix.Contains(a) {
			return true
		}
	}
	return false
}

// destination is where a packet for an address goes on the host, if it may: the gateway's address stands for the host.
func (p policy) destination(to netip.Addr) (netip.Addr, bool) {
	switch {
	case refused(to):
		return netip.Addr{}, false
	case !p.isGateway(to):
		return to, true
	case p.loopback && to.Is4():
		return netip.AddrFrom4([4]byte{127, 0, 0, 1}), true
	case p.loopback:
		return netip.IPv6Loopback(), true
	}
	own, ok := p.hostAddress(to.Is4())
	return own, ok && !refused(own)
}

// refused reports whether nothing may be sent to an address, or come from it: none that leads to the host's loopback, by whatever
// name, none that is more than one host's, and none that needs an interface to be named. 169.254.0.0/16 is ordinary: clouds keep
// their metadata there, and on most hosts nothing is.
func refused(a netip.Addr) bool {
	switch {
	case !a.IsValid(), a.Zone() != "", a.IsUnspecified(), a.IsLoopback(), a.IsMulticast():
		return true
	case a.Is4():
		b := a.As4()
		return b[0] == 0 || // "this host on this network" (RFC 1122, 3.2.1.3): connect(2) takes 0.0.0.0 for the host itself
			b == [4]byte{255, 255, 255, 255}
	}
	return a.IsLinkLocalUnicast() || a.Is4In6() || // the kernel takes ::ffff:127.0.0.1 for 127.0.0.1
		compatible.Contains(a)
}

// compatible are IPv4-compatible IPv6 addresses, deprecated by RFC 4291, 2.5.5.1.
var compatible = netip.PrefixFrom(netip.IPv6Unspecified(), 96)

// addrPort is a socket's address; zero for another family.
func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port))
	}
	return netip.AddrPort{}
}

// sockaddr is a socket's address of the family.
func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

// errnoOf is the errno that an error wraps; 0 for none.
func errnoOf(err error) unix.Errno {
	var errno unix.Errno
	_ = errors.As(err, &errno)
	return errno
}
