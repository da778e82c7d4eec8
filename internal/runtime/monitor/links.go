package monitor

import (
	"net/netip"
	"slices"
	"strings"

	"berth/internal/container"
	"berth/internal/errdef"
	"berth/internal/ident"
	"berth/internal/network"
	"berth/internal/network/dns"
	"berth/internal/state"
)

// On the default bridge, which has no names, a container is told of those that it is linked to when it starts: by lines in its /etc/hosts, and
// by variables. On networks with names a link is one more name of the other container's, which this one's resolver alone knows.

// told is what a container is told of others at its start.
type told struct {
	hosts []container.Host
	env   []string
}

// tellOfLinks finds the containers that one on the default bridge is linked to. They have to run.
func tellOfLinks(s state.Store, networks network.Store, c *state.Container) (t told, err error) {
	if c.Config.Network != container.NetworkBridge {
		return t, nil
	}
	for _, l := range c.Config.Links {
		linked, err := s.Load(l.Container)
		if err != nil {
			return t, err
		}
		held, err := networks.Endpoint(container.NetworkBridge, linked.ID)
		if errdef.Is(err, errdef.NotFound) {
			return t, errdef.New(errdef.Conflict, "Cannot link to a non running container: /%s AS /%s/%s", linked.Name, c.Name, l.Alias)
		}
		if err != nil {
			return t, err
		}
		for i, p := range held.Addresses {
			for _, name := range slices.Compact([]string{l.Alias, ident.Short(linked.ID), linked.Name}) {
				t.hosts = append(t.hosts, container.Host{Name: name, Address: p.Addr().String()})
			}
			if i == 0 {
				t.env = append(t.env, container.LinkEnv(c.Name, l.Alias, linked.Config, p.Addr())...)
			}
		}
	}
	return t, nil
}

// addEnv adds variables to those of a process that do not have their names.
func addEnv(env, more []string) []string {
	for _, v := range more {
		name, _, _ := strings.Cut(v, "=")
		if !slices.ContainsFunc(env, func(have string) bool { return strings.HasPrefix(have, name+"=") }) {
			env = append(env, v)
		}
	}
	return env
}

// linkedZone is a network's zone with the other names of links: alias -> name of a container.
type linkedZone struct {
	dns.Zone
	names map[string]string
}

// Addrs is the Zone's, for the container that has that name here.
func (z linkedZone) Addrs(name []byte, to []netip.Addr) ([]netip.Addr, bool) {
	if of, ok := z.names[string(name)]; ok {
		name = []byte(of)
	}
	return z.Zone.Addrs(name, to)
}

// withLinks is a zone as a container sees it that is linked to others.
func withLinks(zone dns.Zone, s state.Store, links []container.Link) dns.Zone {
	names := map[string]string{}
	for _, l := range links {
		if linked, err := s.Load(l.Container); err == nil { // one that is no more has no address
			names[strings.ToLower(l.Alias)] = strings.ToLower(linked.Name)
		}
	}
	if len(names) == 0 {
		return zone
	}
	return linkedZone{zone, names}
}
