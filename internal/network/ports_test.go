package network

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"berth/internal/errdef"

	"golang.org/x/sys/unix"
)

func TestReservedPortsAreNobodyElses(t *testing.T) {
	inWorld(t, func(w *world) {
		web := w.start(NameBridge, "web", both("", 8080)...)
		n := mustLoad(w, NameBridge)
		for _, c := range []struct{ summary, hostIP, want string }{
			{"The same", "", "driver failed programming external connectivity on endpoint x: Bind for 0.0.0.0:8080 failed: port is already allocated"},
			{"One address of all", "127.0.0.1", "driver failed programming external connectivity on endpoint x: Bind for 127.0.0.1:8080 failed: port is already allocated"},
		} {
			_, _, err := w.s.Reserve(n, "x", both(c.hostIP, 8080)[:1])
			if err == nil || err.Error() != c.want || !errdef.Is(err, errdef.Conflict) || !strings.Contains(errdef.HintOf(err), "web") {
				t.Errorf("%s: %v", c.summary, err)
			}
		}
		if _, err := net.Listen("tcp4", "0.0.0.0:8080"); !errors.Is(err, unix.EADDRINUSE) {
			t.Errorf("another program: %v", err)
		}
		foreign, err := net.Listen("tcp4", "127.0.0.1:9090")
		w.must(err)
		defer foreign.Close()
		_, _, err = w.s.Reserve(n, "x", both("", 9090))
		if err == nil || !strings.Contains(err.Error(), "Bind for 0.0.0.0:9090 failed: address already in use") {
			t.Errorf("another program's: %v", err)
		}
		// Taken over by another process: the record says which.
		if _, err := w.s.Hold(web.Ports); !errors.Is(err, unix.EADDRINUSE) {
			t.Errorf("held twice: %v", err)
		}
	})
}

func TestPortsThatAreChosen(t *testing.T) {
	inWorld(t, func(w *world) {
		n := w.create(Network{Name: "six", EnableIPv6: true})
		published, sockets, err := w.s.Reserve(n, "x", []PortRequest{
			{Protocol: TCP, ContainerPort: 80},
			{Protocol: TCP, HostPort: 8000, HostPortEnd: 8001, ContainerPort: 81},
			{Protocol: TCP, HostPort: 8000, HostPortEnd: 8001, ContainerPort: 82},
		})
		w.must(err)
		defer closeAll(sockets)
		if len(published) != 6 || len(sockets) != 6 {
			t.Fatalf("%v", published)
		}
		chosen := published[0].HostPort
		if chosen < 32768 || chosen > 60999 || published[1].HostPort != chosen || published[0].HostIP.Is6() || published[1].HostIP.Is4() {
			t.Errorf("%v", published[:2])
		}
		if published[2].HostPort != 8000 || published[4].HostPort != 8001 {
			t.Errorf("%v", published[2:])
		}
		_, _, err = w.s.Reserve(n, "x", []PortRequest{{Protocol: TCP, HostPort: 8000, HostPortEnd: 8001, ContainerPort: 80}})
		if err == nil || !strings.Contains(err.Error(), "all ports from 8000 to 8001 are already allocated") {
			t.Errorf("none is left: %v", err)
		}
	})
}

func TestPortsThatCannotBe(t *testing.T) {
	inWorld(t, func(w *world) {
		n := mustLoad(w, NameBridge)
		for want, r := range map[string]PortRequest{
			"invalid published port":         {Protocol: "icmp", HostPort: 1, ContainerPort: 1},
			"invalid published port 1-0:0":   {Protocol: TCP, HostPort: 1},
			"cannot assign requested":        {Protocol: TCP, HostIP: address("198.51.100.1"), HostPort: 80, ContainerPort: 80},
			"has no subnet of that family":   {Protocol: TCP, HostIP: address("fd00::1"), HostPort: 80, ContainerPort: 80},
			"kernel does not speak sctp":     {Protocol: SCTP, HostPort: 80, ContainerPort: 80},
			"invalid published port 9-8:1/t": {Protocol: TCP, HostPort: 9, HostPortEnd: 8, ContainerPort: 1},
		} {
			published, sockets, err := w.s.Reserve(n, "x", []PortRequest{{Protocol: TCP, ContainerPort: 1}, r})
			if r.Protocol == SCTP && err == nil {
				_ = closeAll(sockets)
				continue // this kernel does
			}
			if err == nil || !strings.Contains(err.Error(), want) || published != nil || sockets != nil {
				t.Errorf("%s: %v", want, err)
			}
		}
	})
}

func TestHostAddresses(t *testing.T) {
	four := Network{Driver: DriverBridge, Subnets: []Subnet{{Prefix: prefix("172.18.0.0/16")}}}
	six := Network{Driver: DriverBridge, Subnets: []Subnet{{Prefix: prefix("fd00::/64")}}}
	dual := Network{Driver: DriverBridge, Subnets: append(slices.Clone(four.Subnets), six.Subnets...)}
	bound := four
	bound.Options = map[string]string{OptionHostBinding: "127.0.0.1"}
	for _, c := range []struct {
		summary string
		n       Network
		asked   netip.Addr
		want    []netip.Addr
	}{
		{"IPv4", four, netip.Addr{}, []netip.Addr{address("0.0.0.0")}},
		{"IPv6", six, netip.Addr{}, []netip.Addr{address("::")}},
		{"Both", dual, netip.Addr{}, []netip.Addr{address("0.0.0.0"), address("::")}},
		{"Every IPv4 address only", dual, address("0.0.0.0"), []netip.Addr{address("0.0.0.0")}},
		{"The network's binding", bound, netip.Addr{}, []netip.Addr{address("127.0.0.1")}},
		{"Its user's word counts more", bound, address("192.0.2.1"), []netip.Addr{address("192.0.2.1")}},
	} {
		t.Run(c.summary, func(t *testing.T) {
			if got, err := hostAddresses(c.n, c.asked); err != nil || !slices.Equal(got, c.want) {
				t.Errorf("%v, %v", got, err)
			}
		})
	}
}
