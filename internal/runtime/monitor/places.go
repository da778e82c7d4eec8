package monitor

import (
	"fmt"
	"net/netip"
	"slices"

	"berth/internal/container"
	"berth/internal/errdef"
	"berth/internal/network"
	"berth/internal/network/netlink"
	"berth/internal/state"
)

// Place is what a container that starts has on one network.
type Place struct {
	Network network.Network
	Request network.Request
	Ports   []network.PortRequest
}

// Places are what a container that starts has on its networks: published ports on the first, and its way out by one that leads somewhere.
func Places(store network.Store, c *state.Container) ([]Place, error) {
	var all []Place
	var leading []string
	for i, asked := range c.Config.Networks {
		n, err := store.Load(asked.Network)
		if err != nil {
			return nil, err
		}
		r, err := EndpointRequest(c, asked)
		if err != nil {
			return nil, err
		}
		r.Interface = fmt.Sprintf("eth%d", i)
		if !n.Internal {
			leading = append(leading, n.Name)
		}
		p := Place{Network: n, Request: r}
		if i == 0 {
			p.Ports = PortRequests(c.Config)
		}
		all = append(all, p)
	}
	out := WayOut(c.Config.Networks, leading)
	for i := range all {
		all[i].Request.DefaultRoute = all[i].Network.Name == out
	}
	return all, nil
}

// WayOut is the network by which a container leaves its networks: of those that lead somewhere the one with the highest priority, and of those
// with the same the first; "" is none.
func WayOut(asked []container.Endpoint, leading []string) string {
	out := -1
	for i, a := range asked {
		if slices.Contains(leading, a.Network) && (out < 0 || a.GatewayPriority > asked[out].GatewayPriority) {
			out = i
		}
	}
	if out < 0 {
		return ""
	}
	return asked[out].Network
}

// EndpointRequest is what a container asks of one network.
func EndpointRequest(c *state.Container, asked container.Endpoint) (network.Request, error) {
	r := network.Request{Container: c.ID, Name: c.Name, Aliases: asked.Aliases, LinkLocal: asked.LinkLocal}
	for _, a := range []netip.Addr{asked.IPv4, asked.IPv6} {
		if a.IsValid() {
			r.Addresses = append(r.Addresses, a)
		}
	}
	if asked.MAC != "" {
		mac, err := netlink.ParseMAC(asked.MAC)
		if err != nil {
			return r, errdef.As(errdef.Invalid, err)
		}
		r.MAC = mac
	}
	return r, nil
}

// PortRequests are the ports that a container wants published.
func PortRequests(c container.Config) []network.PortRequest {
	var all []network.PortRequest
	for _, p := range c.PublishedPorts() {
		all = append(all, network.PortRequest{
			Protocol: network.Protocol(p.Protocol), HostIP: p.HostIP, HostPort: p.HostPort, HostPortEnd: p.HostPortEnd, ContainerPort: p.ContainerPort,
		})
	}
	return all
}
