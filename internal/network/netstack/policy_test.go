package netstack

import (
	"net/netip"
	"testing"
)

func TestDestination(t *testing.T) {
	own := func(four, six string) func(bool) (netip.Addr, bool) {
		return func(is4 bool) (netip.Addr, bool) {
			text := six
			if is4 {
				text = four
			}
			a, err := netip.ParseAddr(text)
			return a, err == nil
		}
	}
	here := own("192.0.2.1", "2001:db8::1")
	for _, c := range []struct {
		summary  string
		to       string
		loopback bool
		host     func(bool) (netip.Addr, bool)
		want     string // nothing: refused
	}{
		{"Anybody", "203.0.113.1", false, here, "203.0.113.1"},
		{"Anybody by IPv6", "2001:db8::9", false, here, "2001:db8::9"},
		{"A cloud's metadata", "169.254.169.254", false, here, "169.254.169.254"},
		{"The host's own address", "192.0.2.1", false, here, "192.0.2.1"},
		{"The gateway is the host", gatewayIP, false, here, "192.0.2.1"},
		{"The gateway is the host by IPv6", gatewayIP6, false, here, "2001:db8::1"},
		{"The gateway is the host's loopback", gatewayIP, true, here, "127.0.0.1"},
		{"The gateway is the host's loopback by IPv6", gatewayIP6, true, here, "::1"},
		{"The gateway of a host without a default route", gatewayIP, false, own("", ""), ""},
		{"A host whose own address is a loopback", gatewayIP, false, own("127.0.0.1", "::1"), ""},
		{"A host whose own address is a loopback by IPv6", gatewayIP6, false, own("127.0.0.1", "::1"), ""},
		{"The loopback", "127.0.0.1", true, here, ""},
		{"Another of the loopback", "127.255.0.3", true, here, ""},
		{"The loopback by IPv6", "::1", true, here, ""},
		{"This host", "0.0.0.0", true, here, ""},
		{"This network", "0.1.2.3", true, here, ""},
		{"Unspecified by IPv6", "::", true, here, ""},
		{"The loopback mapped into IPv6", "::ffff:127.0.0.1", true, here, ""},
		{"Anybody mapped into IPv6", "::ffff:203.0.113.1", true, here, ""},
		{"The loopback compatible with IPv6", "::127.0.0.1", true, here, ""},
		{"Multicast", "224.0.0.1", false, here, ""},
		{"Multicast by IPv6", "ff02::1", false, here, ""},
		{"Broadcast", "255.255.255.255", false, here, ""},
		{"Link-local by IPv6", "fe80::1", false, here, ""},
		{"A zone", "fe80::1%lo", false, here, ""},
	} {
		t.Run(c.summary, func(t *testing.T) {
			config := testConfig(1500)
			config.HostLoopback = c.loopback
			p := newPolicy(config)
			p.hostAddress = c.host
			got, ok := p.destination(netip.MustParseAddr(c.to))
			if ok != (c.want != "") || ok && got != netip.MustParseAddr(c.want) {
				t.Errorf("%s leads to %v, %v", c.to, got, ok)
			}
		})
	}
}

func TestSourceOfClients(t *testing.T) {
	s := &Stack{policy: newPolicy(testConfig(1500)), inside: map[netip.Prefix]int{}}
	s.addInside([]netip.Prefix{netip.MustParsePrefix("10.99.0.0/16")}, 1)
	for _, c := range []struct{ summary, client, target, want string }{
		{"Its own", "203.0.113.1", containerIP, "203.0.113.1"},
		{"Its own by IPv6", "2001:db8::9", containerIP6, "2001:db8::9"},
		{"The loopback", "127.0.0.1", containerIP, gatewayIP},
		{"The other family", "203.0.113.1", containerIP6, gatewayIP6},
		{"The guest's", guestIP, containerIP, gatewayIP},
		{"The gateway's", gatewayIP, containerIP, gatewayIP},
		{"In a network inside", "10.88.7.7", containerIP, gatewayIP},
		{"In a network inside that came with a forward", "10.99.7.7", containerIP, gatewayIP},
		{"Link-local", "fe80::1%eth0", containerIP6, gatewayIP6},
	} {
		t.Run(c.summary, func(t *testing.T) {
			got := s.sourceFor(netip.AddrPortFrom(netip.MustParseAddr(c.client), 7), netip.MustParseAddr(c.target))
			if got != netip.AddrPortFrom(netip.MustParseAddr(c.want), 7) {
				t.Errorf("%s is seen as %s", c.client, got)
			}
		})
	}
	s.addInside([]netip.Prefix{netip.MustParsePrefix("10.99.0.0/16")}, -1)
	if s.isInside(addr("10.99.7.7")) {
		t.Error("a network inside outlives its forward")
	}
}
