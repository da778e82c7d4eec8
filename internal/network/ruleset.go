package network

import (
	"net/netip"

	"berth/internal/network/nft"
)

// rulesVersion is in the table's comment: a table with another one is made anew. A test fails if the rules change and it does not.
const rulesVersion = "berth, rules 2"

// Names of the sets and maps.
const (
	setBridges    = "bridges"    // every bridge of this instance
	setTogether   = "together"   // a bridge, and itself: containers on it may reach each other
	setInternal   = "internal"   // bridges from which nothing leaves
	setMasquerade = "masquerade" // bridges whose containers leave with the host's address
	setSubnets4   = "subnets4"   // a bridge and its subnet
	setSubnets6   = "subnets6"
	mapPorts4     = "ports4" // protocol, address of the host, port -> container
	mapPorts6     = "ports6"
	mapAny4       = "any4" // protocol, port on every address of the host -> container
	mapAny6       = "any6"
)

// frame is the table without its sets: what is looked at to see that it is whole.
func frame(name string) nft.Table {
	comment := rulesVersion
	if !answersToLoopback6() {
		comment += ", but ::1"
	}
	return nft.Table{Name: name, Comment: comment, Chains: chains(answersToLoopback6())}
}

// answersToLoopback6 reports whether a container's answers can come back to ::1. Where the frames of bridges go through the packet
// filter, addresses are translated back before the kernel drops what comes with ::1 from outside.
func answersToLoopback6() bool {
	filtered, err := readSetting("/proc/sys/net/bridge/bridge-nf-call-ip6tables")
	return err != nil || filtered == "0"
}

// table is the whole of what berth says to the kernel's packet filter. The rules are always the same; networks and ports are
// elements, so that a packet costs the same however many there are.
// uplink is the interface, if there is one, by which what comes in has been let in already.
func table(name string, networks []Network, endpoints []Endpoint, uplink string) (nft.Table, error) {
	t := frame(name)
	t.Sets = sets()
	content := map[string][]nft.Element{}
	for _, n := range networks {
		if err := networkElements(content, n); err != nil {
			return t, err
		}
		if uplink != "" && n.Driver == DriverBridge && !n.Internal {
			content[setTogether] = append(content[setTogether], nft.Element{Key: nft.Key(nft.Name(uplink), nft.Name(n.BridgeName()))})
		}
	}
	for _, e := range endpoints {
		for set, some := range portElements(e, e.Ports) {
			content[set] = append(content[set], some...)
		}
	}
	for i := range t.Sets {
		t.Sets[i].Elements = content[t.Sets[i].Name]
	}
	return t, nil
}

func sets() []nft.Set {
	name, protocol, port, ip4, ip6 := nft.IfName, nft.InetProto, nft.InetService, nft.IPv4Addr, nft.IPv6Addr
	return []nft.Set{
		{Name: setBridges, Key: []nft.Type{name}},
		{Name: setTogether, Key: []nft.Type{name, name}},
		{Name: setInternal, Key: []nft.Type{name}},
		{Name: setMasquerade, Key: []nft.Type{name}},
		{Name: setSubnets4, Key: []nft.Type{name, ip4}, Interval: true},
		{Name: setSubnets6, Key: []nft.Type{name, ip6}, Interval: true},
		{Name: mapPorts4, Key: []nft.Type{protocol, ip4, port}, Data: []nft.Type{ip4, port}},
		{Name: mapPorts6, Key: []nft.Type{protocol, ip6, port}, Data: []nft.Type{ip6, port}},
		{Name: mapAny4, Key: []nft.Type{protocol, port}, Data: []nft.Type{ip4, port}},
		{Name: mapAny6, Key: []nft.Type{protocol, port}, Data: []nft.Type{ip6, port}},
	}
}

// chains are the rules. loopback6 says that published ports are to be reached by ::1, too.
func chains(loopback6 bool) []nft.Chain {
	accept, drop := nft.Accept().Always(), nft.Drop().Always()
	localhost, localhost6 := nft.Number(127), netip.IPv6Loopback().AsSlice()
	notFromHere := nft.Differs(nft.InIface(), nft.Name("lo"))
	toBridge := nft.In(setBridges, nft.OutIface())
	return []nft.Chain{
		{Name: "early", Base: &nft.Base{Kind: "filter", Hook: nft.Prerouting, Priority: nft.PriorityRaw}, Rules: []nft.Rule{
			// Replies to the host's own 127.0.0.1 come in by a bridge, so that its route_localnet is on: without these rules
			// neighbours and containers could reach what listens on 127.0.0.1 (CVE-2020-8558).
			{Comment: "127.0.0.0/8 is reached from this host only", Exprs: nft.All(notFromHere, nft.IsIPv4(), nft.Equal(nft.IPTargetStart(), localhost), drop)},
			{Comment: "and comes from this host only", Exprs: nft.All(notFromHere, nft.IsIPv4(), nft.Equal(nft.IPSourceStart(), localhost), drop)},
			// The kernel drops these itself, but for frames that only pass a bridge whose frames go through the packet filter.
			{Comment: "::1 is reached from this host only", Exprs: nft.All(notFromHere, nft.IsIPv6(), nft.Equal(nft.IP6Target(), localhost6), drop)},
			{Comment: "and comes from this host only", Exprs: nft.All(notFromHere, nft.IsIPv6(), nft.Equal(nft.IP6Source(), localhost6), drop)},
		}},
		{Name: "prerouting", Base: &nft.Base{Kind: "nat", Hook: nft.Prerouting, Priority: nft.PriorityDstNAT}, Rules: published(loopback6)},
		{Name: "output", Base: &nft.Base{Kind: "nat", Hook: nft.Output, Priority: nft.PriorityDstNAT}, Rules: published(loopback6)},
		{Name: "forward", Base: &nft.Base{Kind: "filter", Hook: nft.Forward, Priority: nft.PriorityFilter}, Rules: []nft.Rule{
			{Comment: "answers", Exprs: nft.All(nft.StateIn(nft.Established|nft.Related), accept)},
			{Comment: "containers of one network reach each other", Exprs: nft.All(nft.In(setTogether, nft.InIface(), nft.OutIface()), accept)},
			{Comment: "nothing leaves an internal network", Exprs: nft.All(nft.In(setInternal, nft.InIface()), drop)},
			{Comment: "nothing reaches an internal network", Exprs: nft.All(nft.In(setInternal, nft.OutIface()), drop)},
			{Comment: "published ports are reached", Exprs: nft.All(toBridge, nft.StatusIn(nft.StatusDNAT), accept)},
			{Comment: "nothing else of a container is", Exprs: nft.All(toBridge, drop)},
		}},
		{Name: "postrouting", Base: &nft.Base{Kind: "nat", Hook: nft.Postrouting, Priority: nft.PrioritySrcNAT}, Rules: []nft.Rule{
			{Comment: "a container cannot answer to 127.0.0.1", Exprs: nft.All(nft.IsIPv4(), nft.Equal(nft.IPSourceStart(), localhost), toBridge, nft.Masquerade())},
			{Comment: "nor to ::1", Exprs: nft.All(nft.IsIPv6(), nft.Equal(nft.IP6Source(), localhost6), toBridge, nft.Masquerade())},
			{Comment: "answers to a neighbour come back this way", Exprs: nft.All(nft.StatusIn(nft.StatusDNAT), nft.IsIPv4(), nft.In(setSubnets4, nft.OutIface(), nft.IPSource()), nft.Masquerade())},
			{Comment: "answers to a neighbour come back this way", Exprs: nft.All(nft.StatusIn(nft.StatusDNAT), nft.IsIPv6(), nft.In(setSubnets6, nft.OutIface(), nft.IP6Source()), nft.Masquerade())},
			{Comment: "containers leave with the host's address", Exprs: nft.All(nft.In(setMasquerade, nft.InIface()), nft.NotIn(setBridges, nft.OutIface()), nft.Masquerade())},
		}},
	}
}

// published sends packets for published ports to their containers: those for one address of the host, then those for any. Who tries
// ::1 where that cannot be is refused, and goes on to 127.0.0.1.
func published(loopback6 bool) []nft.Rule {
	any6 := nft.ToThisHost()
	if !loopback6 {
		any6 = nft.All(nft.Differs(nft.IP6Target(), netip.IPv6Loopback().AsSlice()), any6)
	}
	return []nft.Rule{
		{Comment: "published on one address", Exprs: nft.All(nft.IsIPv4(), nft.DNATByMap(mapPorts4, false, nft.L4Proto(), nft.IPTarget(), nft.TargetPort()))},
		{Comment: "published on every address", Exprs: nft.All(nft.IsIPv4(), nft.ToThisHost(), nft.DNATByMap(mapAny4, false, nft.L4Proto(), nft.TargetPort()))},
		{Comment: "published on one address", Exprs: nft.All(nft.IsIPv6(), nft.DNATByMap(mapPorts6, true, nft.L4Proto(), nft.IP6Target(), nft.TargetPort()))},
		{Comment: "published on every address", Exprs: nft.All(nft.IsIPv6(), any6, nft.DNATByMap(mapAny6, true, nft.L4Proto(), nft.TargetPort()))},
	}
}

// networkElements adds what the rules must know of a network.
func networkElements(content map[string][]nft.Element, n Network) error {
	if n.Driver != DriverBridge {
		return nil
	}
	o, err := n.options()
	if err != nil {
		return err
	}
	bridge := nft.Name(n.BridgeName())
	add := func(set string, e nft.Element) { content[set] = append(content[set], e) }
	add(setBridges, nft.Element{Key: bridge})
	if o.icc {
		add(setTogether, nft.Element{Key: nft.Key(bridge, bridge)})
	}
	if n.Internal {
		add(setInternal, nft.Element{Key: bridge})
	}
	if o.masquerade {
		add(setMasquerade, nft.Element{Key: bridge})
	}
	for _, s := range n.Subnets {
		set := setSubnets4
		if s.Prefix.Addr().Is6() {
			set = setSubnets6
		}
		add(set, nft.Element{Key: nft.Key(bridge, s.Prefix.Addr().AsSlice()), End: nft.Key(bridge, last(s.Prefix))})
	}
	return nil
}

// last is the last address of a prefix.
func last(p netip.Prefix) []byte {
	b := p.Addr().AsSlice()
	for bit := p.Bits(); bit < len(b)*8; bit++ {
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	return b
}

// portElements are the elements of an endpoint's published ports, by map. A port whose family the endpoint does not have is not
// among them, and an internal network has none.
func portElements(e Endpoint, ports []Published) map[string][]nft.Element {
	all := map[string][]nft.Element{}
	for _, p := range ports {
		to, ok := e.Address(p.HostIP.Is4())
		if !ok || e.Internal {
			continue
		}
		protocol, port := nft.Number(p.Protocol.number()), nft.Port(p.HostPort)
		data := nft.Key(to.AsSlice(), nft.Port(p.ContainerPort))
		switch {
		case p.HostIP.IsUnspecified() && p.HostIP.Is4():
			all[mapAny4] = append(all[mapAny4], nft.Element{Key: nft.Key(protocol, port), Data: data})
		case p.HostIP.IsUnspecified():
			all[mapAny6] = append(all[mapAny6], nft.Element{Key: nft.Key(protocol, port), Data: data})
		case p.HostIP.Is4():
			all[mapPorts4] = append(all[mapPorts4], nft.Element{Key: nft.Key(protocol, p.HostIP.AsSlice(), port), Data: data})
		default:
			all[mapPorts6] = append(all[mapPorts6], nft.Element{Key: nft.Key(protocol, p.HostIP.AsSlice(), port), Data: data})
		}
	}
	return all
}
