package network

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"berth/internal/errdef"
	"berth/internal/network/netlink"
	"berth/internal/network/nft"

	"golang.org/x/sys/unix"
)

// Step is one thing that Attach does.
type Step struct {
	Do, Why string
	Port    bool // it is about a published port
}

// chosen stands for what only Attach itself chooses.
const chosen = hostLinkPrefix + "…"

// Explain lists what Attach would do for a request, and Reserve for its ports, and does nothing. What it would do now: another
// container may come first.
func (s Store) Explain(network string, r Request, ports []PortRequest) ([]Step, error) {
	n, err := s.load(network)
	if err != nil {
		return nil, err
	}
	o, err := n.options()
	if err != nil {
		return nil, err
	}
	steps, n, err := s.explainNetwork(n, o)
	if err != nil {
		return nil, err
	}
	published, err := requested(n, ports)
	if err != nil {
		return nil, err
	}
	var all []Step
	for _, p := range published {
		all = append(all, Step{"bind(" + bound(p) + "), with a filter that drops all", "no other program of the host can have the port", true})
	}
	all = append(all, steps...)
	e, err := s.plan(n, r, nil)
	if err != nil {
		return nil, err
	}
	if e.HostLink != "" {
		e.HostLink = chosen
	}
	all = append(all, Step{"write(" + s.endpointFile(n.Name, short(e.Container)) + ")", "what is taken is written down before", false})
	for _, p := range e.Addresses {
		all = append(all, Step{"symlink(" + s.leaseFile(n.Name, p.Addr()) + ")", "the address is the container's, and nobody else's", false})
	}
	w := way{driver: n.Driver, mtu: o.mtu, isolated: !o.icc, mode: o.mode}
	all = append(all, explainRequests("", w.requests(e, nil)[:1], "what the container sends arrives there")...)
	all = append(all, explainRequests("", w.requests(e, nil)[1:], "it reaches itself by a port that it publishes, and its neighbours unless they are kept apart")...)
	all = append(all, explainRequests(" in the container", configuration(e, 0), "interfaces are made down")...)
	for _, own := range explainSettings(localnet(n, published)) {
		own.Port = true
		all = append(all, own)
	}
	for _, r := range localnet6(n, published, 0) {
		all = append(all, Step{"rtnetlink: " + r.Purpose + ", " + n.BridgeName(), "the port is reached by ::1, and by this host only", true})
	}
	for _, p := range published {
		if to, ok := e.Address(p.HostIP.Is4()); ok && !e.Internal {
			all = append(all, Step{fmt.Sprintf("nft add element inet %s: %s leads to %s", s.TableName(), bound(p), netip.AddrPortFrom(to, p.ContainerPort)), "the port is published", true})
		}
	}
	return all, nil
}

// explainNetwork lists what the network itself still needs, and returns it with its subnets.
func (s Store) explainNetwork(n Network, o options) ([]Step, Network, error) {
	if n.Driver != DriverBridge {
		return nil, n, nil
	}
	c, err := s.openRoutes()
	if err != nil {
		return nil, n, err
	}
	defer c.Close()
	bridge, err := c.LinkByName(n.BridgeName())
	if err != nil && !errdef.Is(err, errdef.NotFound) {
		return nil, n, err
	}
	if err == nil && bridge.Up && len(n.Subnets) > 0 {
		ok, err := s.Intact()
		if err != nil || ok {
			return nil, n, err
		}
		return []Step{s.explainRules()}, n, nil
	}
	if n, err = s.settledSubnets(n); err != nil {
		return nil, n, err
	}
	steps := explainRequests("", []netlink.Request{createBridge(n, o)}, "containers of the network meet there")
	steps = append(steps, explainSettings(bridgeSettings(n))...)
	shared, err := sharedSettings(n)
	if err != nil {
		return nil, n, err
	}
	steps = append(steps, explainSettings(shared)...)
	return append(append(steps, s.explainRules()), explainRequests("", completeBridge(n, 0), "a bridge that is up is whole")...), n, nil
}

func (s Store) explainRules() Step {
	rules := 0
	all := chains(answersToLoopback6())
	for _, c := range all {
		rules += len(c.Rules)
	}
	return Step{fmt.Sprintf("nft add table inet %s: %d chains, %d rules", s.TableName(), len(all), rules), "networks are apart, and reached by what is published", false}
}

// requested are the ports that Reserve would take: number 0 where it chooses one.
func requested(n Network, ports []PortRequest) ([]Published, error) {
	var all []Published
	for _, w := range ports {
		addresses, err := hostAddresses(n, w.HostIP)
		if err != nil {
			return nil, err
		}
		for _, a := range addresses {
			all = append(all, Published{w.Protocol, a, w.HostPort, w.ContainerPort})
		}
	}
	return all, nil
}

// bound is a published port as it is seen from outside.
func bound(p Published) string {
	if p.HostPort == 0 {
		return fmt.Sprintf("%s/%s, one of %d to %d", p.HostIP, p.Protocol, ephemeralFirst, ephemeralLast)
	}
	return netip.AddrPortFrom(p.HostIP, p.HostPort).String() + "/" + string(p.Protocol)
}

func short(id string) string { return id[:min(12, len(id))] }

// explainRequests says of each request to the kernel, made where it says, what it is for: of one about an interface, why.
func explainRequests(where string, requests []netlink.Request, why string) []Step {
	var all []Step
	for _, r := range requests {
		step := Step{Do: "rtnetlink: " + r.Purpose + where, Why: why}
		switch r.Type {
		case unix.RTM_NEWADDR:
			step.Why = "by it the others reach this one"
		case unix.RTM_NEWROUTE:
			step.Why = "what is on none of its networks leaves by this one"
		}
		all = append(all, step)
	}
	return all
}

// explainSettings are the settings that have another value.
func explainSettings(settings []setting) []Step {
	var all []Step
	for _, to := range settings {
		if now, err := readSetting(to.path); err == nil && now == to.value {
			continue
		}
		all = append(all, Step{fmt.Sprintf("write(%s, %q)", to.path, to.value), to.why, false})
	}
	return all
}

// Finding is one thing of an endpoint: what its record says, and what the kernel does.
type Finding struct {
	What, Record, Kernel string
	Port                 bool // it is about a published port
}

// Compare reads an endpoint back from the kernel. ns is the container's network namespace.
func (s Store) Compare(e Endpoint, ns *os.File) ([]Finding, error) {
	n, err := s.load(e.Network)
	if err != nil {
		return nil, err
	}
	c, err := netlink.OpenIn(ns, routeProtocol)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	link, err := c.LinkByName(e.Interface)
	if err != nil && !errdef.Is(err, errdef.NotFound) {
		return nil, err
	}
	there := err == nil
	found := []Finding{{What: e.Interface, Record: "there", Kernel: map[bool]string{true: "there", false: "missing"}[there]}}
	if !there {
		return found, nil
	}
	found = append(found, Finding{What: e.Interface + " address", Record: e.MAC.String(), Kernel: link.MAC.String()})
	addresses, err := c.Addresses()
	if err != nil {
		return nil, err
	}
	routes, err := c.Routes()
	if err != nil {
		return nil, err
	}
	for i, p := range e.Addresses {
		found = append(found, compareAddress(e, p, link.Index, addresses))
		if e.DefaultRoute {
			found = append(found, compareRoute(e, e.Gateways[i], link.Index, routes))
		}
	}
	if n.Driver != DriverBridge {
		return found, nil
	}
	port, err := s.comparePort(n, e)
	if err != nil {
		return nil, err
	}
	ports, err := s.comparePublished(e)
	return append(append(found, port), ports...), err
}

func family(ipv4 bool) string {
	if ipv4 {
		return "IPv4"
	}
	return "IPv6"
}

func compareAddress(e Endpoint, want netip.Prefix, index int, all []netlink.Address) Finding {
	f := Finding{What: e.Interface + " " + family(want.Addr().Is4()), Record: want.String(), Kernel: "none"}
	var have []string
	for _, a := range all {
		if a.Index == index && a.Prefix.Addr().Is4() == want.Addr().Is4() && !a.Prefix.Addr().IsLinkLocalUnicast() {
			have = append(have, a.Prefix.String())
		}
	}
	if len(have) > 0 {
		f.Kernel = strings.Join(have, " ")
	}
	return f
}

func compareRoute(e Endpoint, gateway netip.Addr, index int, all []netlink.Route) Finding {
	f := Finding{What: "default route " + family(gateway.Is4()), Record: gateway.String() + " by " + e.Interface, Kernel: "none"}
	for _, r := range all {
		if r.To == defaultTo(gateway) {
			f.Kernel = r.Gateway.String() + " by another interface"
			if r.Index == index {
				f.Kernel = r.Gateway.String() + " by " + e.Interface
			}
			break
		}
	}
	return f
}

// comparePort finds the endpoint's place on its network's bridge.
func (s Store) comparePort(n Network, e Endpoint) (Finding, error) {
	f := Finding{What: n.BridgeName(), Record: e.HostLink, Kernel: "missing"}
	host, err := s.openRoutes()
	if err != nil {
		return f, err
	}
	defer host.Close()
	links, err := host.Links()
	if err != nil {
		return f, err
	}
	i := slices.IndexFunc(links, func(l netlink.Link) bool { return l.Name == e.HostLink })
	if i < 0 {
		return f, nil
	}
	f.Kernel = e.HostLink
	bridge := slices.IndexFunc(links, func(l netlink.Link) bool { return l.Index == links[i].Master && l.Name == n.BridgeName() })
	if bridge < 0 {
		f.Kernel += " is on another bridge, or on none"
	}
	return f, nil
}

// comparePublished finds where the endpoint's published ports lead.
func (s Store) comparePublished(e Endpoint) ([]Finding, error) {
	c, err := s.openRules()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	t := frame(s.TableName())
	intact, err := c.Intact(t)
	if err != nil {
		return nil, err
	}
	found := []Finding{{What: "nftables " + t.Name, Record: "whole", Kernel: map[bool]string{true: "whole", false: "not as it was made"}[intact]}}
	for _, p := range e.Ports {
		f := Finding{What: bound(p), Record: "nowhere", Kernel: "nowhere", Port: true}
		for set, some := range portElements(e, []Published{p}) {
			f.Record = target(some[0])
			now, err := c.Present(t, set, some)
			if err != nil && !errors.Is(err, unix.ENOENT) {
				return nil, err
			}
			if len(now) > 0 {
				f.Kernel = target(now[0])
			}
		}
		found = append(found, f)
	}
	return found, nil
}

// target is where an element of published ports leads.
func target(e nft.Element) string {
	size := 4
	if len(e.Data) > 8 {
		size = 16
	}
	if len(e.Data) < size+2 {
		return "an address that is none"
	}
	a, _ := netip.AddrFromSlice(e.Data[:size])
	return netip.AddrPortFrom(a, uint16(e.Data[size])<<8|uint16(e.Data[size+1])).String()
}

// ResolverPort is the port to which a container's queries are led, 0 if they are not. ns is its network namespace.
func ResolverPort(ns *os.File) (uint16, error) {
	c, err := nft.OpenIn(ns)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	all, err := c.Elements(nft.Table{Name: resolverTable}, resolverMap)
	if errors.Is(err, unix.ENOENT) || err == nil && len(all) == 0 {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	_, port, _ := strings.Cut(target(all[0]), ":")
	n, err := strconv.ParseUint(port, 10, 16)
	return uint16(n), err
}
