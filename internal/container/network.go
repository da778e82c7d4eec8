package container

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"berth/internal/errdef"
)

// What Config.Network can be beside the name of a network and that of a container. The network "bridge" is the one that every
// instance has; "default" is docker's other word for it.
const (
	NetworkNone   = "none"
	NetworkHost   = "host"
	NetworkBridge = "bridge"
)

// OwnNetwork reports whether the container has interfaces of its own on networks.
func (c Config) OwnNetwork() bool { return len(c.Networks) > 0 }

// other comes before the container whose namespace another one shares.
const other = "container:"

// IPCShareable and IPCNone are values of Config.IPC: other containers may share the namespace; it has no /dev/shm.
const (
	IPCShareable = "shareable"
	IPCNone      = "none"
)

// Shares reports whether a mode of Config is that of sharing the namespace of another container, and of which: it is an ID once the
// container is made.
func Shares(mode string) (container string, shares bool) { return strings.CutPrefix(mode, other) }

// Share is the mode of sharing the namespace of a container.
func Share(container string) string { return other + container }

// ParsePIDMode reads docker's --pid.
func ParsePIDMode(s string) (string, error) {
	name, shares := Shares(s)
	switch {
	case s == "private":
		return "", nil
	case s == "" || s == "host" || shares && name != "":
		return s, nil
	}
	return "", errdef.New(errdef.Invalid, "--pid: invalid PID mode %q: it is host or container:<name|id>", s)
}

// ParseIPCMode reads docker's --ipc.
func ParseIPCMode(s string) (string, error) {
	name, shares := Shares(s)
	if slices.Contains([]string{"", "host", "private", IPCShareable, IPCNone}, s) || shares && name != "" {
		return s, nil
	}
	return "", errdef.New(errdef.Invalid, "--ipc: invalid IPC mode %q: it is none, host, private, shareable or container:<name|id>", s)
}

// SharesNetwork reports whether the container has the network namespace of another one, and of which: it is an ID once it is made.
func (c Config) SharesNetwork() (container string, shares bool) {
	return Shares(c.Network)
}

// ShareNetwork is the Network of a container that shares the network namespace of another one.
func ShareNetwork(container string) string { return Share(container) }

// CheckNetwork refuses what docker refuses of a container that shares the network namespace of another one: whatever is that one's
// already. An image may expose ports all the same, so it is for a configuration before Merge.
func (c Config) CheckNetwork() error {
	name, shares := c.SharesNetwork()
	if !shares {
		return nil
	}
	conflict := func(what string) error {
		return errdef.Hint(errdef.New(errdef.Invalid, "conflicting options: %s", what), "give it to the container whose network is shared")
	}
	switch {
	case name == "":
		return errdef.New(errdef.Invalid, "invalid container format container:<name|id>")
	case c.Hostname != "":
		return conflict("hostname and the network mode")
	case c.Domainname != "":
		return conflict("domainname and the network mode")
	case len(c.DNS)+len(c.DNSSearch)+len(c.DNSOptions) > 0:
		return conflict("dns and the network mode")
	case len(c.Hosts) > 0:
		return conflict("custom host-to-IP mapping and the network mode")
	case len(c.Ports) > 0 || c.PublishAll:
		return conflict("port publishing and the container type network mode")
	case len(c.Exposed) > 0:
		return conflict("port exposing and the container type network mode")
	}
	for key := range c.Sysctls {
		if strings.HasPrefix(key, "net.") {
			return conflict("sysctl " + key + " and the network mode")
		}
	}
	return nil
}

// Endpoint is what a container asks of a network.
type Endpoint struct {
	Network string
	Aliases []string   `json:",omitempty"`
	IPv4    netip.Addr `json:",omitzero"`
	IPv6    netip.Addr `json:",omitzero"`
	MAC     string     `json:",omitempty"`
	// LinkLocal are further addresses of the interface, which no other link knows.
	LinkLocal []netip.Addr `json:",omitempty"`
	// GatewayPriority says by which network the container leaves its networks: the highest one, and the first of those with the same.
	GatewayPriority int `json:",omitempty"`
}

// Port is a port of the container that is published, or several: HostPort to HostPortEnd are the ports of the host of which one is
// taken; zero is any.
type Port struct {
	Protocol              string     // tcp, udp, sctp
	HostIP                netip.Addr `json:",omitzero"`
	HostPort, HostPortEnd uint16     `json:",omitempty"`
	ContainerPort         uint16
}

// Host is a line of /etc/hosts, from --add-host. An Address that is "host-gateway" is the host's, as the container sees it.
type Host struct{ Name, Address string }

// HostGateway is the address by which --add-host means the host.
const HostGateway = "host-gateway"

// ParseNetwork reads --network: a name, or key=value pairs of an endpoint.
func ParseNetwork(s string) (Endpoint, error) {
	if !strings.Contains(s, "=") || OtherMode(s) != "" { // who looks for the network says what to do instead
		if s == "" {
			return Endpoint{}, errdef.New(errdef.Invalid, "invalid network: the name is empty")
		}
		return Endpoint{Network: s}, nil
	}
	var e Endpoint
	for part := range strings.SplitSeq(s, ",") {
		key, value, has := strings.Cut(part, "=")
		if !has {
			return e, errdef.New(errdef.Invalid, "invalid field %s: it is not KEY=VALUE", part)
		}
		var err error
		switch strings.ToLower(key) {
		case "name":
			e.Network = value
		case "alias":
			e.Aliases = append(e.Aliases, value)
		case "ip":
			e.IPv4, err = ParseAddress(value, false)
		case "ip6":
			e.IPv6, err = ParseAddress(value, true)
		case "mac-address":
			e.MAC = value
		case "link-local-ip":
			var a netip.Addr
			a, err = ParseLinkLocal(value)
			e.LinkLocal = append(e.LinkLocal, a)
		case "gw-priority":
			if e.GatewayPriority, err = strconv.Atoi(value); err != nil {
				err = errdef.New(errdef.Invalid, "invalid gw-priority %s: it is a number", value)
			}
		default:
			return e, errdef.Hint(errdef.New(errdef.Invalid, "invalid field key %s", key), "the keys of --network are name, alias, ip, ip6, mac-address, link-local-ip and gw-priority")
		}
		if err != nil {
			return e, err
		}
	}
	if e.Network == "" {
		return e, errdef.New(errdef.Invalid, "network name/id is not specified")
	}
	return e, nil
}

// OtherMode says what to do instead of naming a mode of podman's, or a driver, as a network; empty for other names.
func OtherMode(s string) string {
	mode, options, has := strings.Cut(s, ":")
	switch {
	case mode == "pasta" || mode == "slirp4netns":
		return "leave --network out: without root, what leaves the networks goes through the uplink, and --rootless-uplink pasta chooses pasta for it"
	case s == "private":
		return "leave --network out: a container is on the network bridge then; --network none gives it none"
	case mode == "ns":
		return "a network namespace is joined by way of a container that is in it: --network container:NAME"
	case mode == NetworkBridge && has:
		return "give the options in docker's way: --network name=bridge," + options
	case s == "ipvlan" || s == "overlay" || s == "macvlan":
		return "that is a driver, and what is named is a network: berth network create --driver bridge (or macvlan) NAME"
	}
	return ""
}

// ParseLinkLocal reads a link-local address.
func ParseLinkLocal(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || !a.IsLinkLocalUnicast() {
		return a, errdef.New(errdef.Invalid, "%s is no link-local address: 169.254.0.0/16 and fe80::/10 are", s)
	}
	return a, nil
}

// ParseAddress reads an address of a family.
func ParseAddress(s string, ipv6 bool) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Is6() != ipv6 || a.Zone() != "" || a.Is4In6() {
		family := "IPv4"
		if ipv6 {
			family = "IPv6"
		}
		return netip.Addr{}, errdef.New(errdef.Invalid, "invalid %s address: %s", family, s)
	}
	return a, nil
}

// maxPublished bounds how many ports one flag may name.
const maxPublished = 65536

// ParsePublish reads --publish: [[IP:]HOSTPORT:]PORT[/PROTOCOL], where a port may be a range.
func ParsePublish(s string) ([]Port, error) {
	invalid := func(why string) error {
		return errdef.Hint(errdef.New(errdef.Invalid, "invalid publish option %q: %s", s, why), "it is [[IP:]HOST-PORT:]CONTAINER-PORT[/PROTOCOL], a port or a range")
	}
	rest, protocol, err := splitProtocol(s)
	if err != nil {
		return nil, err
	}
	var p Port
	p.Protocol = protocol
	if rest, err = cutHostIP(rest, &p); err != nil {
		return nil, invalid(err.Error())
	}
	host, inside, has := strings.Cut(rest, ":")
	if !has {
		host, inside = "", rest
	}
	first, last, err := portRange(inside)
	if err != nil {
		return nil, invalid("invalid containerPort: " + inside)
	}
	if host == "" {
		return eachPort(p, first, last, func(*Port) {}), nil
	}
	hostFirst, hostLast, err := portRange(host)
	if err != nil {
		return nil, invalid("invalid hostPort: " + host)
	}
	switch n := last - first; {
	case n == 0:
		p.HostPort, p.HostPortEnd, p.ContainerPort = hostFirst, hostLast, first
		return []Port{p}, nil
	case n != hostLast-hostFirst:
		return nil, invalid("invalid ranges specified for container and host Ports: " + inside + " and " + host)
	}
	return eachPort(p, first, last, func(q *Port) {
		q.HostPort = hostFirst + q.ContainerPort - first
		q.HostPortEnd = q.HostPort
	}), nil
}

// cutHostIP takes the address of the host off the front of a --publish.
func cutHostIP(s string, p *Port) (rest string, err error) {
	ip := ""
	switch {
	case strings.HasPrefix(s, "["):
		end := strings.Index(s, "]:")
		if end < 0 {
			return "", fmt.Errorf("the address in brackets does not end")
		}
		ip, rest = s[1:end], s[end+2:]
	case strings.Count(s, ":") >= 2:
		ip, rest, _ = strings.Cut(s, ":")
	default:
		return s, nil
	}
	if strings.Count(rest, ":") > 1 {
		return "", fmt.Errorf("too many colons")
	}
	if ip == "" {
		return rest, nil
	}
	if p.HostIP, err = netip.ParseAddr(ip); err != nil {
		return "", fmt.Errorf("invalid IP address: %s", ip)
	}
	return rest, nil
}

func eachPort(p Port, first, last uint16, more func(*Port)) []Port {
	var all []Port
	for n := int(first); n <= int(last); n++ {
		p.ContainerPort = uint16(n)
		more(&p)
		all = append(all, p)
	}
	return all
}

func splitProtocol(s string) (rest, protocol string, err error) {
	rest, protocol, has := strings.Cut(s, "/")
	if protocol = strings.ToLower(protocol); !has {
		protocol = "tcp"
	}
	if !slices.Contains([]string{"tcp", "udp", "sctp"}, protocol) {
		return "", "", errdef.New(errdef.Invalid, "invalid proto: %s", protocol)
	}
	return rest, protocol, nil
}

func portRange(s string) (first, last uint16, err error) {
	a, b, has := strings.Cut(s, "-")
	if !has {
		b = a
	}
	x, err := strconv.ParseUint(a, 10, 16)
	if err != nil {
		return 0, 0, err
	}
	y, err := strconv.ParseUint(b, 10, 16)
	if err != nil || y < x || x == 0 || y-x >= maxPublished {
		return 0, 0, fmt.Errorf("%s is no range of ports", s)
	}
	return uint16(x), uint16(y), nil
}

// ParseExpose reads --expose, and what an image exposes: PORT[-PORT][/PROTOCOL]; each is returned as "80/tcp".
func ParseExpose(s string) ([]string, error) {
	rest, protocol, err := splitProtocol(s)
	if err != nil {
		return nil, err
	}
	first, last, err := portRange(rest)
	if err != nil {
		return nil, errdef.New(errdef.Invalid, "invalid port format for --expose: %s", s)
	}
	var all []string
	for n := int(first); n <= int(last); n++ {
		all = append(all, fmt.Sprintf("%d/%s", n, protocol))
	}
	return all, nil
}

// PublishedPorts are the ports to be published: those asked for, and with PublishAll all exposed ones that are not among them.
func (c Config) PublishedPorts() []Port {
	all := slices.Clone(c.Ports)
	if !c.PublishAll {
		return all
	}
	for _, e := range exposedPorts(c.Exposed) {
		if !slices.ContainsFunc(all, func(p Port) bool { return p.ContainerPort == e.ContainerPort && p.Protocol == e.Protocol }) {
			all = append(all, e)
		}
	}
	return all
}

// ParseHost reads --add-host: NAME:ADDRESS, or NAME=ADDRESS.
func ParseHost(s string) (Host, error) {
	name, address, has := strings.Cut(s, "=")
	if !has {
		name, address, has = strings.Cut(s, ":")
	}
	if !has || name == "" {
		return Host{}, errdef.New(errdef.Invalid, "bad format for add-host: %q", s)
	}
	if address != HostGateway {
		bare := strings.TrimSuffix(strings.TrimPrefix(address, "["), "]")
		if _, err := netip.ParseAddr(bare); err != nil {
			return Host{}, errdef.New(errdef.Invalid, "invalid IP address in add-host: %q", address)
		}
		address = bare
	}
	return Host{name, address}, nil
}
