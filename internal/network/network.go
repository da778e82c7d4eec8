package network

import (
	"net/netip"
	"strconv"
	"time"

	"berth/internal/errdef"
	"berth/internal/ident"
	"berth/internal/network/netlink"
)

// Network is one network: networks/NAME/network.json.
type Network struct {
	Format     int
	Name       string
	ID         string
	Driver     Driver
	Subnets    []Subnet `json:",omitempty"` // at most one of each family
	Internal   bool     `json:",omitempty"`
	EnableIPv6 bool     `json:",omitempty"`
	// Options are docker's, by docker's names.
	Options map[string]string `json:",omitempty"`
	Labels  map[string]string `json:",omitempty"`
	// IPAMOptions and Attachable are shown to who inspects the network; nothing here depends on them, as with docker's default driver and a local network.
	IPAMOptions map[string]string `json:",omitempty"`
	Attachable  bool              `json:",omitempty"`
	// ConfigOnly is a network that is only there for others to take its configuration; ConfigFrom is where this one has its own from.
	ConfigOnly bool      `json:",omitempty"`
	ConfigFrom string    `json:",omitempty"`
	Created    time.Time `json:",omitzero"`
}

// Subnet is the addresses of a network of one family.
type Subnet struct {
	Prefix  netip.Prefix
	Gateway netip.Addr
	// Range is where addresses are taken from; the zero value is all of Prefix.
	Range netip.Prefix `json:",omitzero"`
	// Auxiliary are addresses that others on the wire have, by their names: no container gets one.
	Auxiliary map[string]netip.Addr `json:",omitempty"`
}

// Driver is how a network is made.
type Driver string

// The drivers, by docker's names.
const (
	DriverBridge  Driver = "bridge"
	DriverHost    Driver = "host"
	DriverNull    Driver = "null"
	DriverMacvlan Driver = "macvlan"
)

// Names of options, docker's.
const (
	OptionBridgeName  = "com.docker.network.bridge.name"
	OptionMTU         = "com.docker.network.driver.mtu"
	OptionICC         = "com.docker.network.bridge.enable_icc"
	OptionMasquerade  = "com.docker.network.bridge.enable_ip_masquerade"
	OptionHostBinding = "com.docker.network.bridge.host_binding_ipv4"
	OptionParent      = "parent"
	OptionMacvlanMode = "macvlan_mode"
)

// Names of the networks that every instance has.
const (
	NameBridge = "bridge"
	NameHost   = "host"
	NameNone   = "none"
)

// BuiltIn reports whether every instance has a network of that name.
func BuiltIn(name string) bool { return name == NameBridge || name == NameHost || name == NameNone }

// options are the Options of a network as values.
type options struct {
	bridgeName  string
	mtu         int // in bytes; 0 is the kernel's
	icc         bool
	masquerade  bool
	hostBinding netip.Addr // the zero value is every address
	parent      string
	mode        string
}

// options reads Options. Names that berth does not know are ignored, as docker ignores them.
func (n Network) options() (options, error) {
	o := options{icc: true, masquerade: true, mode: "bridge"}
	for name, value := range n.Options {
		var err error
		switch name {
		case OptionBridgeName:
			o.bridgeName, err = value, checkInterfaceName(value)
		case OptionMTU:
			o.mtu, err = parseMTU(value)
		case OptionICC:
			o.icc, err = strconv.ParseBool(value)
		case OptionMasquerade:
			o.masquerade, err = strconv.ParseBool(value)
		case OptionHostBinding:
			o.hostBinding, err = parseHostBinding(value)
		case OptionParent:
			o.parent, err = value, checkInterfaceName(value)
		case OptionMacvlanMode:
			o.mode, err = value, checkMacvlanMode(value)
		}
		if err != nil {
			return o, errdef.New(errdef.Invalid, "invalid value %q for the network option %s: %v", value, name, err)
		}
	}
	return o, nil
}

func parseMTU(value string) (int, error) {
	n, err := strconv.Atoi(value)
	if err == nil && n != 0 && (n < 68 || n > 65535) {
		err = errdef.New(errdef.Invalid, "an MTU is 68 to 65535 bytes")
	}
	return n, err
}

func parseHostBinding(value string) (netip.Addr, error) {
	a, err := netip.ParseAddr(value)
	if err == nil && !a.Is4() {
		err = errdef.New(errdef.Invalid, "it is no IPv4 address")
	}
	if err == nil && a.IsUnspecified() {
		return netip.Addr{}, nil
	}
	return a, err
}

func checkMacvlanMode(value string) error {
	if _, ok := netlink.MacvlanMode(value); !ok {
		return errdef.New(errdef.Invalid, "the modes are bridge, private, vepa and passthru")
	}
	return nil
}

// checkInterfaceName follows dev_valid_name of net/core/dev.c, and refuses the control characters that it lets pass.
func checkInterfaceName(name string) error {
	if name == "" || name == "." || name == ".." || len(name) > netlink.NameBytes {
		return errdef.New(errdef.Invalid, "the name of an interface has 1 to %d bytes", netlink.NameBytes)
	}
	for _, c := range []byte(name) {
		if c <= ' ' || c == '/' || c == ':' || c >= 0x7f {
			return errdef.New(errdef.Invalid, "%q cannot be in the name of an interface", c)
		}
	}
	return nil
}

// checkName follows docker's RestrictedNamePattern.
func checkName(name string) error {
	ok := name != "" && len(name) <= 128
	for i, c := range []byte(name) {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		ok = ok && (letter || i > 0 && (c == '_' || c == '.' || c == '-'))
	}
	if !ok {
		return errdef.New(errdef.Invalid, "invalid network name %q: only [a-zA-Z0-9][a-zA-Z0-9_.-]* are allowed, at most 128", name)
	}
	return nil
}

// Check says what is wrong with a network that somebody wants, before its free choices are made.
func Check(n Network) error {
	if err := checkName(n.Name); err != nil {
		return err
	}
	if n.ConfigOnly && (n.Internal || n.Attachable) { // docker's words
		return errdef.New(errdef.Invalid, "configuration network can only contain network specific fields. Network operator fields like [ ingress | internal | attachable | scope ] are not supported.")
	}
	if !n.ConfigOnly {
		if err := checkDriver(n); err != nil {
			return err
		}
	}
	o, err := n.options()
	if err != nil {
		return err
	}
	if n.Driver == DriverMacvlan && o.parent == "" {
		return errdef.Hint(errdef.New(errdef.Invalid, "a macvlan network needs the interface that it is on"), "give it with -o parent=eth0")
	}
	families := map[bool]bool{}
	for _, s := range n.Subnets {
		if err := checkSubnet(s); err != nil {
			return err
		}
		if families[s.Prefix.Addr().Is4()] {
			return errdef.New(errdef.Unsupported, "a network has at most one subnet of each family, and %s is a second one", s.Prefix)
		}
		families[s.Prefix.Addr().Is4()] = true
	}
	if families[false] && !n.EnableIPv6 {
		return errdef.Hint(errdef.New(errdef.Invalid, "the network %s has an IPv6 subnet and is not enabled for IPv6", n.Name), "give --ipv6")
	}
	return nil
}

func checkDriver(n Network) error {
	switch n.Driver {
	case DriverBridge, DriverMacvlan:
		return nil
	case DriverHost, DriverNull: // docker's words
		return errdef.New(errdef.Denied, "only one instance of %q network is allowed", n.Driver)
	case "ipvlan", "overlay":
		err := errdef.New(errdef.Unsupported, "the network driver %s is not supported: there are bridge and macvlan", n.Driver)
		if n.Driver == "overlay" {
			return errdef.Hint(err, "it connects several hosts, and berth knows one: --driver bridge")
		}
		return errdef.Hint(err, "--driver macvlan -o parent=INTERFACE gives containers addresses of the host's network, too")
	}
	return errdef.New(errdef.NotFound, "could not find plugin %s in v1 plugin registry: plugin not found", n.Driver)
}

func checkSubnet(s Subnet) error {
	p := s.Prefix
	switch {
	case !p.IsValid() || p != p.Masked() || p.Addr().Is4In6():
		return errdef.New(errdef.Invalid, "invalid subnet %s: it is no prefix, or has bits set behind its length", p)
	case p.Bits() == 0 || p.Addr().BitLen()-p.Bits() < 2:
		return errdef.New(errdef.Invalid, "invalid subnet %s: it has no room for a gateway and a container", p)
	case p.Addr().IsLoopback() || p.Addr().IsMulticast() || p.Addr().IsLinkLocalUnicast():
		return errdef.New(errdef.Invalid, "invalid subnet %s: containers cannot have such addresses", p)
	case s.Gateway.IsValid() && !p.Contains(s.Gateway):
		return errdef.New(errdef.Invalid, "no matching subnet for gateway %s", s.Gateway)
	case s.Range.IsValid() && (!p.Contains(s.Range.Addr()) || s.Range.Bits() < p.Bits()):
		return errdef.New(errdef.Invalid, "no matching subnet for range %s", s.Range)
	}
	for _, a := range s.Auxiliary {
		if !p.Contains(a) || a == s.Gateway {
			return errdef.New(errdef.Invalid, "no matching subnet for aux-address %s", a)
		}
	}
	return nil
}

// subnet returns the subnet of a family.
func (n Network) subnet(ipv4 bool) (Subnet, bool) {
	for _, s := range n.Subnets {
		if s.Prefix.Addr().Is4() == ipv4 {
			return s, true
		}
	}
	return Subnet{}, false
}

// BridgeName is the name of the network's bridge on the host. It differs between instances of berth.
func (n Network) BridgeName() string {
	if name := n.Options[OptionBridgeName]; name != "" {
		return name
	}
	return "br-" + ident.Short(n.ID)
}
