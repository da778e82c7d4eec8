package uplink

import (
	"net"
	"net/netip"
)

// HostAddress is the address that the host sends from by its default route: what the kernel chooses for a.root-servers.net, to
// whom nothing is sent. It is asked anew each time, because hosts move between networks.
func HostAddress(is4 bool) (netip.Addr, bool) {
	to := netip.MustParseAddrPort("198.41.0.4:53")
	if !is4 {
		to = netip.MustParseAddrPort("[2001:503:ba3e::2:30]:53")
	}
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		return netip.Addr{}, false
	}
	defer c.Close()
	own, ok := c.LocalAddr().(*net.UDPAddr)
	if !ok {
		return netip.Addr{}, false
	}
	return own.AddrPort().Addr().Unmap(), true
}
