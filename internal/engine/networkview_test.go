package engine

import (
	"encoding/json"
	"net/netip"
	"testing"
	"time"

	"berth/internal/container"
	"berth/internal/network"
)

func TestNetworkAsDockerShowsIt(t *testing.T) {
	n := network.Network{
		Name: "shop", ID: "11", Driver: network.DriverBridge, EnableIPv6: true, Created: time.Unix(0, 0).UTC(),
		Subnets: []network.Subnet{
			{Prefix: netip.MustParsePrefix("10.9.0.0/24"), Gateway: netip.MustParseAddr("10.9.0.1"), Range: netip.MustParsePrefix("10.9.0.128/25")},
			{Prefix: netip.MustParsePrefix("fd00::/64"), Gateway: netip.MustParseAddr("fd00::1")},
		},
	}
	held := []network.Endpoint{{Container: "22", Name: "web", MAC: [6]byte{2, 0x42, 10, 9, 0, 2}, Addresses: []netip.Prefix{netip.MustParsePrefix("10.9.0.2/24"), netip.MustParsePrefix("fd00::2/64")}}}
	got, err := json.Marshal(viewNetwork(n, held))
	const want = `{"Name":"shop","Id":"11","Created":"1970-01-01T00:00:00Z","Scope":"local","Driver":"bridge","EnableIPv4":true,"EnableIPv6":true,` +
		`"IPAM":{"Driver":"default","Options":{},"Config":[{"Subnet":"10.9.0.0/24","IPRange":"10.9.0.128/25","Gateway":"10.9.0.1"},{"Subnet":"fd00::/64","Gateway":"fd00::1"}]},` +
		`"Internal":false,"Attachable":false,"Ingress":false,"ConfigFrom":{"Network":""},"ConfigOnly":false,` +
		`"Containers":{"22":{"Name":"web","EndpointID":"`
	const rest = `","MacAddress":"02:42:0a:09:00:02","IPv4Address":"10.9.0.2/24","IPv6Address":"fd00::2/64"}},"Options":{},"Labels":{}}`
	if whole := want + endpointID("11", "22") + rest; err != nil || string(got) != whole {
		t.Errorf("%s, %v; want %s", got, err, whole)
	}
}

func TestBindings(t *testing.T) {
	got, _ := json.Marshal(bindings([]container.Port{
		{Protocol: "tcp", ContainerPort: 80},
		{Protocol: "tcp", ContainerPort: 80, HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: 8080, HostPortEnd: 8080},
		{Protocol: "udp", ContainerPort: 53, HostPort: 5000, HostPortEnd: 5010},
	}))
	if want := `{"53/udp":[{"HostIp":"","HostPort":"5000-5010"}],"80/tcp":[{"HostIp":"","HostPort":""},{"HostIp":"127.0.0.1","HostPort":"8080"}]}`; string(got) != want {
		t.Errorf("%s, want %s", got, want)
	}
}
