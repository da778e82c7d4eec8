package cli

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"berth/internal/container"
	"berth/internal/engine"
	"berth/internal/errdef"
	"berth/internal/ident"
	"berth/internal/network"
)

// networkCreateFlags are the flags of network create.
func networkCreateFlags() []flag {
	return []flag{
		{"attachable", "", "", "Enable manual container attachment (every network here can be attached to)", boolean(func(o *options) *bool { return &o.network.Attachable })},
		{"aux-address", "", "map", "Auxiliary IPv4 or IPv6 addresses used by Network driver", set(func(o *options, v string) error {
			name, text, has := strings.Cut(v, "=")
			a, err := netip.ParseAddr(text)
			if !has || err != nil {
				return errdef.New(errdef.Invalid, "invalid auxiliary address %q: it is NAME=ADDRESS", v)
			}
			if o.auxiliary == nil {
				o.auxiliary = map[string]netip.Addr{}
			}
			o.auxiliary[name] = a
			return nil
		})},
		{"config-from", "", "string", "The network from which to copy the configuration", text(func(o *options) *string { return &o.network.ConfigFrom })},
		{"config-only", "", "", "Create a configuration only network", boolean(func(o *options) *bool { return &o.network.ConfigOnly })},
		{"driver", "d", "string", "Driver to manage the Network (bridge|macvlan)", set(func(o *options, v string) error { o.network.Driver = network.Driver(v); return nil })},
		{"gateway", "", "strings", "IPv4 or IPv6 Gateway for the master subnet", commaList(func(o *options) *[]string { return &o.gateways })},
		refusedFlag("ingress", "", "Create swarm routing-mesh network", "it is for swarms", "false"),
		{"internal", "", "", "Restrict external access to the network", boolean(func(o *options) *bool { return &o.network.Internal })},
		{"ip-range", "", "strings", "Allocate container ip from a sub-range", commaList(func(o *options) *[]string { return &o.ranges })},
		refusedFlag("ipam-driver", "string", "IP Address Management Driver", "there is one, default", "default"),
		{"ipam-opt", "", "map", "Set IPAM driver specific options (the driver default shows them, and has none itself)", set(func(o *options, v string) error {
			key, value, _ := strings.Cut(v, "=")
			o.network.IPAMOptions = with(o.network.IPAMOptions, key, value)
			return nil
		})},
		refusedFlag("ipv4", "", "Enable or disable IPv4 address assignment", "a network without IPv4 is not supported", "true"),
		{"ipv6", "", "", "Enable or disable IPv6 address assignment", boolean(func(o *options) *bool { return &o.network.EnableIPv6 })},
		{"label", "", "list", "Set metadata on a network", set(func(o *options, v string) error {
			key, value, _ := strings.Cut(v, "=")
			if key == "" {
				return errdef.New(errdef.Invalid, "invalid label '%s': empty name", v)
			}
			o.network.Labels = with(o.network.Labels, key, value)
			return nil
		})},
		{"opt", "o", "map", "Set driver specific options", set(func(o *options, v string) error {
			key, value, _ := strings.Cut(v, "=")
			o.network.Options = with(o.network.Options, key, value)
			return nil
		})},
		refusedFlag("scope", "string", "Control the network's scope", "every network here is local; the others are for swarms", engine.ScopeLocal),
		{"subnet", "", "strings", "Subnet in CIDR format that represents a network segment", commaList(func(o *options) *[]string { return &o.subnets })},
	}
}

// refusedFlag is a flag of docker's that cannot mean anything here, but for one value, which changes nothing.
func refusedFlag(name, kind, help, why, harmless string) flag {
	if harmless == "" || harmless == "false" {
		help += " (not supported)"
	} else {
		help += " (only " + harmless + ")"
	}
	return flag{name, "", kind, help, set(func(o *options, v string) error {
		if v != harmless || v == "" {
			o.refused = errdef.Hint(errdef.New(errdef.Unsupported, "--%s %s is not supported", name, v), "%s", why)
		}
		return nil
	})}
}

func with(m map[string]string, key, value string) map[string]string {
	if m == nil {
		m = map[string]string{}
	}
	m[key] = value
	return m
}

func commaList(at func(o *options) *[]string) func(*call, string) error {
	return set(func(o *options, v string) error { *at(o) = append(*at(o), strings.Split(v, ",")...); return nil })
}

func (c *call) cmdNetworkCreate() error {
	o := &c.options
	if o.refused != nil {
		return o.refused
	}
	n := o.network
	n.Name = c.args[0]
	var err error
	if n.Subnets, err = parseSubnets(o.subnets, o.gateways, o.ranges, o.auxiliary); err != nil {
		return err
	}
	e, err := c.engine()
	if err != nil {
		return err
	}
	if n, err = e.CreateNetwork(n); err != nil {
		return err
	}
	_, err = fmt.Fprintln(c.out, n.ID)
	return err
}

// parseSubnets puts each gateway and range to the subnet that it is in, as docker does.
func parseSubnets(subnets, gateways, ranges []string, auxiliary map[string]netip.Addr) ([]network.Subnet, error) {
	if len(subnets) == 0 && len(gateways)+len(ranges)+len(auxiliary) > 0 {
		return nil, errdef.New(errdef.Invalid, "invalid argument: every ip-range or gateway must have a corresponding subnet")
	}
	var all []network.Subnet
	for _, s := range subnets {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, errdef.New(errdef.Invalid, "invalid subnet %s: it is no prefix like 10.9.0.0/24", s)
		}
		all = append(all, network.Subnet{Prefix: p})
	}
	of := func(a netip.Addr) *network.Subnet {
		i := slices.IndexFunc(all, func(s network.Subnet) bool { return s.Prefix.Contains(a) })
		if i < 0 {
			return nil
		}
		return &all[i]
	}
	for _, r := range ranges {
		p, err := netip.ParsePrefix(r)
		if err != nil {
			return nil, errdef.New(errdef.Invalid, "invalid range %s: it is no prefix like 10.9.0.64/26", r)
		}
		s := of(p.Addr())
		switch {
		case s == nil:
			return nil, errdef.New(errdef.Invalid, "no matching subnet for range %s", r)
		case s.Range.IsValid():
			return nil, errdef.New(errdef.Invalid, "cannot configure multiple ranges (%s, %s) on the same subnet (%s)", r, s.Range, s.Prefix)
		}
		s.Range = p
	}
	for name, a := range auxiliary {
		s := of(a)
		if s == nil {
			return nil, errdef.New(errdef.Invalid, "no matching subnet for aux-address %s", a)
		}
		if s.Auxiliary == nil {
			s.Auxiliary = map[string]netip.Addr{}
		}
		s.Auxiliary[name] = a
	}
	for _, g := range gateways {
		a, err := netip.ParseAddr(g)
		if err != nil {
			return nil, errdef.New(errdef.Invalid, "invalid gateway %s: it is no IP address", g)
		}
		s := of(a)
		switch {
		case s == nil:
			return nil, errdef.New(errdef.Invalid, "no matching subnet for gateway %s", g)
		case s.Gateway.IsValid():
			return nil, errdef.New(errdef.Invalid, "cannot configure multiple gateways (%s, %s) for the same subnet (%s)", g, s.Gateway, s.Prefix)
		}
		s.Gateway = a
	}
	return all, nil
}

// networkRow is a network as network ls shows it; the names of its fields are docker's.
type networkRow struct {
	labelled
	CreatedAt, Driver, ID, IPv4, IPv6, Internal, Labels, Name, Scope string
}

func (c *call) cmdNetworkLs() error {
	o := &c.options
	e, err := c.engine()
	if err != nil {
		return err
	}
	match, err := filter(o.filters, func(key, value string) (func(network.Network) (bool, error), error) {
		return c.networkFilter(e.Networks(), key, value)
	})
	if err != nil {
		return err
	}
	all, err := e.Networks().List()
	if err != nil {
		return err
	}
	var rows []any
	var cells [][]string
	for _, n := range all {
		yes, err := match(n)
		if err != nil {
			return err
		}
		if !yes {
			continue
		}
		id := n.ID
		if !o.noTrunc {
			id = ident.Short(id)
		}
		rows = append(rows, networkRow{
			labelled: labelled{n.Labels}, CreatedAt: n.Created.Format("2006-01-02 15:04:05.999999999 -0700 MST"), Driver: string(n.Driver), ID: id, IPv4: "true", IPv6: strconv.FormatBool(n.EnableIPv6),
			Internal: strconv.FormatBool(n.Internal), Labels: labelText(n.Labels), Name: n.Name, Scope: engine.ScopeLocal,
		})
		cells = append(cells, []string{id, n.Name, string(n.Driver), engine.ScopeLocal})
	}
	if o.quiet {
		return c.onlyFirst(cells)
	}
	if done, err := c.format(rows); done {
		return err
	}
	return table(c.out, []string{"NETWORK ID", "NAME", "DRIVER", "SCOPE"}, cells)
}

func labelText(m map[string]string) string {
	var all []string
	for k, v := range m {
		all = append(all, k+"="+v)
	}
	slices.Sort(all)
	return strings.Join(all, ",")
}

// networkFilter reads one of docker's filters of networks.
func (c *call) networkFilter(s network.Store, key, value string) (func(network.Network) (bool, error), error) {
	switch key {
	case "driver":
		return simple(func(n network.Network) bool { return string(n.Driver) == value }), nil
	case "id":
		matches, err := c.pattern(value)
		return simple(func(n network.Network) bool { return matches(n.ID) }), err
	case "name":
		matches, err := c.pattern(value)
		return simple(func(n network.Network) bool { return matches(n.Name) }), err
	case "scope":
		return simple(func(network.Network) bool { return value == engine.ScopeLocal }), nil
	case "label":
		return simple(func(n network.Network) bool { return hasLabel(n.Labels, value) }), nil
	case "type":
		if value != "custom" && value != "builtin" {
			return nil, errdef.New(errdef.Invalid, "invalid filter: 'type'='%s'", value)
		}
		return simple(func(n network.Network) bool { return network.BuiltIn(n.Name) == (value == "builtin") }), nil
	case "dangling":
		dangling, err := strconv.ParseBool(value)
		if err != nil {
			return nil, errdef.New(errdef.Invalid, "invalid value for 'dangling': %q", value)
		}
		return func(n network.Network) (bool, error) {
			held, err := s.Endpoints(n.Name)
			return (len(held) == 0 && !network.BuiltIn(n.Name)) == dangling, err
		}, nil
	}
	return nil, errdef.New(errdef.Invalid, "invalid filter '%s'", key)
}

func hasLabel(labels map[string]string, asked string) bool {
	name, want, exact := strings.Cut(asked, "=")
	have, ok := labels[name]
	return ok && (!exact || have == want)
}

func inspectNetwork(e *engine.Engine, ref string) (any, error) { return e.InspectNetwork(ref) }

func (c *call) cmdNetworkInspect() error { return c.inspect(inspectNetwork) }

func (c *call) cmdNetworkRm() error {
	e, err := c.engine()
	if err != nil {
		return err
	}
	return c.each(func(ref string) error {
		err := e.Networks().Remove(ref)
		if errdef.Is(err, errdef.NotFound) && c.options.force {
			return nil
		}
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(c.out, ref)
		return err
	})
}

func (c *call) cmdNetworkPrune() error {
	keep, err := keptNetworks(c.options.filters)
	if err != nil {
		return err
	}
	if yes, err := c.confirm("all custom networks not used by at least one container"); err != nil || !yes {
		return err
	}
	e, err := c.engine()
	if err != nil {
		return err
	}
	removed, err := e.PruneNetworks(c.pruning(), keep)
	c.printDeleted("Networks", removed)
	return err
}

// kept reads the filters of prune commands: which things are to be kept, by their labels and when they were made.
func kept[T any](filters []string, labels func(T) map[string]string, created func(T) time.Time) (func(T) bool, error) {
	var keep []func(T) bool
	for _, f := range filters {
		key, value, _ := strings.Cut(f, "=")
		switch {
		case key == "label":
			keep = append(keep, func(v T) bool { return !hasLabel(labels(v), value) })
		case key == "label!":
			keep = append(keep, func(v T) bool { return hasLabel(labels(v), value) })
		case key == "until" && created != nil:
			until, err := parseTime(value)
			if err != nil {
				return nil, err
			}
			keep = append(keep, func(v T) bool { return created(v).After(until) })
		default:
			return nil, errdef.New(errdef.Invalid, "invalid filter '%s'", key)
		}
	}
	return func(v T) bool {
		return slices.ContainsFunc(keep, func(k func(T) bool) bool { return k(v) })
	}, nil
}

// keptNetworks is kept for networks.
func keptNetworks(filters []string) (func(network.Network) bool, error) {
	return kept(filters, func(n network.Network) map[string]string { return n.Labels }, func(n network.Network) time.Time { return n.Created })
}

// networkConnectFlags are the flags of network connect.
func networkConnectFlags() []flag {
	return []flag{
		{"alias", "", "strings", "Add network-scoped alias for the container", commaList(func(o *options) *[]string { return &o.endpoint.Aliases })},
		refusedFlag("driver-opt", "strings", "driver options for the network", "the drivers have no options for one container", ""),
		{"gw-priority", "", "int", "Highest gw-priority provides the default gateway", set(func(o *options, v string) (err error) {
			if o.endpoint.GatewayPriority, err = strconv.Atoi(v); err != nil {
				return errdef.New(errdef.Invalid, "it is a number")
			}
			return nil
		})},
		{"ip", "", "string", "IPv4 address (e.g., \"172.30.100.104\")", set(func(o *options, v string) (err error) {
			o.endpoint.IPv4, err = container.ParseAddress(v, false)
			return err
		})},
		{"ip6", "", "string", "IPv6 address (e.g., \"2001:db8::33\")", set(func(o *options, v string) (err error) {
			o.endpoint.IPv6, err = container.ParseAddress(v, true)
			return err
		})},
		{"link", "", "list", "Add link to another container", set(func(o *options, v string) error {
			l, err := container.ParseLink(v)
			o.config.Links = append(o.config.Links, l)
			return err
		})},
		{"link-local-ip", "", "strings", "Add a link-local address for the container", set(func(o *options, v string) error {
			for one := range strings.SplitSeq(v, ",") {
				a, err := container.ParseLinkLocal(one)
				if err != nil {
					return err
				}
				o.endpoint.LinkLocal = append(o.endpoint.LinkLocal, a)
			}
			return nil
		})},
	}
}

func (c *call) cmdNetworkConnect() error {
	o := &c.options
	if o.refused != nil {
		return o.refused
	}
	e, err := c.engine()
	if err != nil {
		return err
	}
	asked := o.endpoint
	asked.Network = c.args[0]
	return e.Connect(c.args[1], asked, o.config.Links)
}

func (c *call) cmdNetworkDisconnect() error {
	e, err := c.engine()
	if err != nil {
		return err
	}
	return e.Disconnect(c.args[1], c.args[0], c.options.force)
}

// cmdPort prints where a container's ports are published.
func (c *call) cmdPort() error {
	e, of, err := c.container()
	if err != nil {
		return err
	}
	if _, _, err := e.Status(of); err != nil { // what a container that has ended unseen has left is no published port
		return err
	}
	ports, err := publishedOf(e, of)
	if err != nil {
		return err
	}
	lines, err := portLines(ports, append(c.args, "")[1], c.args[0])
	if err != nil {
		return err
	}
	for _, l := range lines {
		if _, err := fmt.Fprintln(c.out, l); err != nil {
			return err
		}
	}
	return nil
}
