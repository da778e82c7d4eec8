package cli

import (
	"net/netip"
	"reflect"
	"testing"

	"berth/internal/network"
)

func published(protocol network.Protocol, hostIP string, host, inner uint16) network.Published {
	return network.Published{Protocol: protocol, HostIP: netip.MustParseAddr(hostIP), HostPort: host, ContainerPort: inner}
}

func TestPortsText(t *testing.T) {
	for _, c := range []struct {
		summary   string
		published []network.Published
		exposed   []string
		want      string
	}{
		{summary: "none"},
		{"a port under another number", []network.Published{published(network.TCP, "0.0.0.0", 8080, 80)}, nil, "0.0.0.0:8080->80/tcp"},
		{"of both families", []network.Published{published(network.TCP, "::", 80, 80), published(network.TCP, "0.0.0.0", 80, 80)}, nil, "0.0.0.0:80->80/tcp, [::]:80->80/tcp"},
		{"one that is only exposed, and one that is published, too", []network.Published{published(network.TCP, "127.0.0.1", 80, 80)}, []string{"80/tcp", "443/tcp"}, "127.0.0.1:80->80/tcp, 443/tcp"},
		{
			"ports that follow each other are drawn together", []network.Published{
				published(network.TCP, "0.0.0.0", 82, 82), published(network.TCP, "0.0.0.0", 80, 80), published(network.TCP, "0.0.0.0", 81, 81), published(network.TCP, "0.0.0.0", 90, 90),
			}, []string{"7000/udp", "7001/udp"}, "0.0.0.0:80-82->80-82/tcp, 0.0.0.0:90->90/tcp, 7000-7001/udp",
		},
		{"protocols are kept apart", []network.Published{published(network.UDP, "0.0.0.0", 53, 53), published(network.TCP, "0.0.0.0", 54, 54)}, nil, "0.0.0.0:53->53/udp, 0.0.0.0:54->54/tcp"},
		{"those under other numbers come last", []network.Published{published(network.TCP, "0.0.0.0", 8000, 1)}, []string{"2/tcp"}, "2/tcp, 0.0.0.0:8000->1/tcp"},
	} {
		if got := portsText(openPorts(c.published, c.exposed)); got != c.want {
			t.Errorf("%s: %q, want %q", c.summary, got, c.want)
		}
	}
}

func TestPortLines(t *testing.T) {
	all := []network.Published{published(network.UDP, "0.0.0.0", 5353, 53), published(network.TCP, "::", 8080, 80), published(network.TCP, "0.0.0.0", 8080, 80)}
	for _, c := range []struct {
		asked, failure string
		want           []string
	}{
		{"", "", []string{"53/udp -> 0.0.0.0:5353", "80/tcp -> 0.0.0.0:8080", "80/tcp -> [::]:8080"}},
		{"80", "", []string{"0.0.0.0:8080", "[::]:8080"}},
		{"53/udp", "", []string{"0.0.0.0:5353"}},
		{"53", "No public port '53' published for web", nil},
		{"x", "invalid port (x): it is a number from 1 to 65535", nil},
	} {
		got, err := portLines(all, c.asked, "web")
		failure := ""
		if err != nil {
			failure = err.Error()
		}
		if !reflect.DeepEqual(got, c.want) || failure != c.failure {
			t.Errorf("%q: %q, %q; want %q, %q", c.asked, got, failure, c.want, c.failure)
		}
	}
}

func TestParseSubnets(t *testing.T) {
	got, err := parseSubnets([]string{"10.9.0.0/24", "fd00::/64"}, []string{"fd00::9", "10.9.0.9"}, []string{"10.9.0.128/25"}, map[string]netip.Addr{"router": netip.MustParseAddr("10.9.0.7")})
	want := []network.Subnet{
		{Prefix: netip.MustParsePrefix("10.9.0.0/24"), Gateway: netip.MustParseAddr("10.9.0.9"), Range: netip.MustParsePrefix("10.9.0.128/25"), Auxiliary: map[string]netip.Addr{"router": netip.MustParseAddr("10.9.0.7")}},
		{Prefix: netip.MustParsePrefix("fd00::/64"), Gateway: netip.MustParseAddr("fd00::9")},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
	for _, c := range [][3][]string{
		{nil, {"10.9.0.1"}, nil},
		{nil, nil, {"10.9.0.0/25"}},
		{{"x"}, nil, nil},
		{{"10.9.0.0/24"}, {"x"}, nil},
		{{"10.9.0.0/24"}, nil, {"x"}},
		{{"10.9.0.0/24"}, {"10.8.0.1"}, nil},
		{{"10.9.0.0/24"}, {"10.9.0.1", "10.9.0.2"}, nil},
		{{"10.9.0.0/24"}, nil, {"10.8.0.0/25"}},
		{{"10.9.0.0/24"}, nil, {"10.9.0.0/25", "10.9.0.128/25"}},
	} {
		if got, err := parseSubnets(c[0], c[1], c[2], nil); err == nil {
			t.Errorf("%v: %v, and should be refused", c, got)
		}
	}
}

func TestAnchored(t *testing.T) {
	for _, c := range []struct {
		s, pattern string
		want       bool
	}{
		{"shop", "ho", true}, {"shop", "^ho", false}, {"shop", "^sh", true}, {"shop", "op$", true}, {"shop", "sh$", false}, {"shop", "^shop$", true}, {"shops", "^shop$", false}, {"shop", "", true},
	} {
		if got := anchored(c.s, c.pattern); got != c.want {
			t.Errorf("%q with %q: %v", c.s, c.pattern, got)
		}
	}
}

func TestPortFilter(t *testing.T) {
	has, err := portFilter("publish", "80-82/udp")
	if err != nil || !has(81, "udp") || has(81, "tcp") || has(83, "udp") {
		t.Errorf("80-82/udp is not read as such: %v", err)
	}
	for _, bad := range []string{"", "x", "2-1", "70000", "1-x"} {
		if _, err := portFilter("publish", bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}
