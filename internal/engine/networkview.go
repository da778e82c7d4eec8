package engine

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"berth/internal/container"
	"berth/internal/errdef"
	"berth/internal/ident"
	"berth/internal/network"
	"berth/internal/state"
)

// NetworkView is a network as docker's inspect shows it; the names of its fields are docker's.
type NetworkView struct {
	Name       string
	ID         string `json:"Id"`
	Created    time.Time
	Scope      string
	Driver     network.Driver
	EnableIPv4 bool
	EnableIPv6 bool
	IPAM       ViewIPAM
	Internal   bool
	Attachable bool
	Ingress    bool
	ConfigFrom struct{ Network string }
	ConfigOnly bool
	Containers map[string]ViewMember
	Options    map[string]string
	Labels     map[string]string
}

// ViewIPAM, ViewSubnet and ViewMember are parts of NetworkView.
type (
	ViewIPAM struct {
		Driver  string
		Options map[string]string
		Config  []ViewSubnet
	}
	ViewSubnet struct {
		Subnet  string
		IPRange string `json:",omitempty"`
		Gateway string `json:",omitempty"`
		// AuxiliaryAddresses are those that no container gets, by their names.
		AuxiliaryAddresses map[string]netip.Addr `json:",omitempty"`
	}
	ViewMember struct {
		Name        string
		EndpointID  string
		MacAddress  string
		IPv4Address string
		IPv6Address string
	}
)

// ScopeLocal is docker's word for a network of one host, as all are here.
const ScopeLocal = "local"

// InspectNetwork describes a network.
func (e *Engine) InspectNetwork(ref string) (NetworkView, error) {
	n, err := e.Networks().Load(ref)
	if err != nil {
		return NetworkView{}, err
	}
	if n, err = e.Networks().Settle(n); err != nil {
		return NetworkView{}, err
	}
	held, err := e.Networks().Endpoints(n.Name)
	if err != nil {
		return NetworkView{}, err
	}
	return viewNetwork(n, held), nil
}

func viewNetwork(n network.Network, held []network.Endpoint) NetworkView {
	v := NetworkView{
		Name: n.Name, ID: n.ID, Created: n.Created, Scope: ScopeLocal, Driver: n.Driver, EnableIPv4: true, EnableIPv6: n.EnableIPv6, Internal: n.Internal,
		IPAM:       ViewIPAM{Driver: "default", Config: []ViewSubnet{}},
		Containers: map[string]ViewMember{}, Options: orEmpty(n.Options), Labels: orEmpty(n.Labels), Attachable: n.Attachable, ConfigOnly: n.ConfigOnly,
	}
	v.ConfigFrom.Network = n.ConfigFrom
	if !network.BuiltIn(n.Name) {
		v.IPAM.Options = orEmpty(n.IPAMOptions)
	}
	for _, s := range n.Subnets {
		one := ViewSubnet{Subnet: s.Prefix.String(), Gateway: addressText(s.Gateway), AuxiliaryAddresses: s.Auxiliary}
		if s.Range.IsValid() {
			one.IPRange = s.Range.String()
		}
		v.IPAM.Config = append(v.IPAM.Config, one)
	}
	for _, h := range held {
		m := ViewMember{Name: h.Name, EndpointID: endpointID(n.ID, h.Container), MacAddress: h.MAC.String()}
		for _, p := range h.Addresses {
			if p.Addr().Is4() {
				m.IPv4Address = p.String()
			} else {
				m.IPv6Address = p.String()
			}
		}
		v.Containers[h.Container] = m
	}
	return v
}

func orEmpty(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

func addressText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// endpointID is what docker has a number for: a container's place on a network.
func endpointID(network, container string) string { return idOf("endpoint", network, container) }

// idOf makes an ID that is always the same for the same things.
func idOf(parts ...string) string {
	sum := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(sum, "%s\x00", p)
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// ViewNetworks is what a container has of networks. The addresses at its top are those on the default bridge.
type ViewNetworks struct {
	Bridge                 string
	SandboxID              string
	SandboxKey             string
	Ports                  map[string][]ViewBinding
	HairpinMode            bool
	LinkLocalIPv6Address   string
	LinkLocalIPv6PrefixLen int
	SecondaryIPAddresses   []string
	SecondaryIPv6Addresses []string
	EndpointID             string
	Gateway                string
	GlobalIPv6Address      string
	GlobalIPv6PrefixLen    int
	IPAddress              string
	IPPrefixLen            int
	IPv6Gateway            string
	MacAddress             string
	Networks               map[string]ViewEndpoint
}

// ViewBinding, ViewAsked and ViewEndpoint are parts of ViewNetworks.
type (
	ViewBinding struct {
		HostIP   string `json:"HostIp"`
		HostPort string
	}
	ViewAsked struct {
		IPv4Address  string       `json:",omitempty"`
		IPv6Address  string       `json:",omitempty"`
		LinkLocalIPs []netip.Addr `json:",omitempty"`
	}
	ViewEndpoint struct {
		IPAMConfig          *ViewAsked
		Links               []string
		Aliases             []string
		MacAddress          string
		DriverOpts          map[string]string
		GwPriority          int
		NetworkID           string
		EndpointID          string
		Gateway             string
		IPAddress           string
		IPPrefixLen         int
		IPv6Gateway         string
		GlobalIPv6Address   string
		GlobalIPv6PrefixLen int
		DNSNames            []string
	}
)

// viewNetworks describes what a container has of networks; pid is its first process, or 0; started says that it has had one.
func (e *Engine) viewNetworks(c *state.Container, pid int, started bool) (ViewNetworks, error) {
	v := ViewNetworks{Ports: map[string][]ViewBinding{}, Networks: map[string]ViewEndpoint{}}
	asked := c.Config.Networks
	if only := c.Config.Network; !c.Config.OwnNetwork() && (only == container.NetworkNone || only == container.NetworkHost) {
		asked = []container.Endpoint{{Network: only}}
	}
	held, err := e.Endpoints(c)
	if err != nil {
		return v, err
	}
	for _, a := range asked {
		n, err := e.Networks().Load(a.Network)
		if err != nil && !errdef.Is(err, errdef.NotFound) { // it may have been removed
			return v, err
		}
		endpoint := viewEndpoint(c, n, a, held, pid != 0)
		if started {
			endpoint.NetworkID = n.ID // docker keeps it when the container has ended
		}
		v.Networks[a.Network] = endpoint
	}
	if pid == 0 {
		return v, nil
	}
	if _, shares := c.Config.SharesNetwork(); shares {
		return v, nil // what there is, is the other container's
	}
	v.SandboxID, v.SandboxKey = idOf("sandbox", c.ID), fmt.Sprintf("/proc/%d/ns/net", pid)
	for _, p := range c.Config.Exposed {
		v.Ports[p] = nil
	}
	for _, h := range held {
		for _, p := range h.Ports {
			key := strconv.Itoa(int(p.ContainerPort)) + "/" + string(p.Protocol)
			v.Ports[key] = append(v.Ports[key], ViewBinding{p.HostIP.String(), strconv.Itoa(int(p.HostPort))})
		}
	}
	if b, ok := v.Networks[container.NetworkBridge]; ok {
		v.EndpointID, v.Gateway, v.IPAddress, v.IPPrefixLen, v.MacAddress = b.EndpointID, b.Gateway, b.IPAddress, b.IPPrefixLen, b.MacAddress
		v.IPv6Gateway, v.GlobalIPv6Address, v.GlobalIPv6PrefixLen = b.IPv6Gateway, b.GlobalIPv6Address, b.GlobalIPv6PrefixLen
	}
	return v, nil
}

// viewEndpoint describes a container's place on one network, with what it holds there if it runs.
func viewEndpoint(c *state.Container, n network.Network, asked container.Endpoint, held []network.Endpoint, runs bool) ViewEndpoint {
	v := ViewEndpoint{Aliases: asked.Aliases, MacAddress: asked.MAC, GwPriority: asked.GatewayPriority}
	if asked.IPv4.IsValid() || asked.IPv6.IsValid() || len(asked.LinkLocal) > 0 {
		v.IPAMConfig = &ViewAsked{addressText(asked.IPv4), addressText(asked.IPv6), asked.LinkLocal}
	}
	if n.Driver != network.DriverHost && n.Driver != network.DriverNull && n.Name != container.NetworkBridge {
		v.DNSNames = append([]string{c.Name}, asked.Aliases...)
		v.DNSNames = append(v.DNSNames, ident.Short(c.ID))
	}
	if !runs {
		return v
	}
	v.NetworkID, v.EndpointID = n.ID, endpointID(n.ID, c.ID)
	for _, h := range held {
		if h.Network != n.Name {
			continue
		}
		v.MacAddress = h.MAC.String()
		for _, p := range h.Addresses {
			if p.Addr().Is4() {
				v.IPAddress, v.IPPrefixLen = p.Addr().String(), p.Bits()
			} else {
				v.GlobalIPv6Address, v.GlobalIPv6PrefixLen = p.Addr().String(), p.Bits()
			}
		}
		if h.Internal {
			continue
		}
		for _, g := range h.Gateways {
			if g.Is4() {
				v.Gateway = g.String()
			} else {
				v.IPv6Gateway = g.String()
			}
		}
	}
	return v
}

// bindings are the ports that were asked to be published, as docker lists them.
func bindings(ports []container.Port) map[string][]ViewBinding {
	all := map[string][]ViewBinding{}
	for _, p := range ports {
		key := strconv.Itoa(int(p.ContainerPort)) + "/" + p.Protocol
		b := ViewBinding{HostIP: addressText(p.HostIP)}
		if p.HostPort != 0 {
			if b.HostPort = strconv.Itoa(int(p.HostPort)); p.HostPortEnd > p.HostPort {
				b.HostPort += "-" + strconv.Itoa(int(p.HostPortEnd))
			}
		}
		all[key] = append(all[key], b)
	}
	return all
}

// exposed are the ports that a container exposes or publishes.
func exposed(c container.Config) map[string]struct{} {
	all := map[string]struct{}{}
	for _, p := range c.Exposed {
		all[p] = struct{}{}
	}
	for _, p := range c.Ports {
		all[strconv.Itoa(int(p.ContainerPort))+"/"+p.Protocol] = struct{}{}
	}
	return all
}

// hostLines are the further lines of /etc/hosts, as --add-host takes them.
func hostLines(c container.Config) []string {
	var all []string
	for _, h := range c.Hosts {
		all = append(all, h.Name+":"+h.Address)
	}
	return all
}
