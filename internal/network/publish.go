package network

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"berth/internal/network/netlink"
	"berth/internal/network/nft"

	"golang.org/x/sys/unix"
)

// HeldError says that a port is another container's by the records, although nobody holds it by a socket: that container has
// ended, or its monitor has, and nobody has noticed yet.
type HeldError struct {
	Container string // its ID
	err       error
}

func (e *HeldError) Error() string { return e.err.Error() }

func (e *HeldError) Unwrap() error { return e.err }

// publish adds the elements of ports. An element that leads elsewhere is another container's, or left by one of which there is no
// record any more: then the port is reserved for this one.
func (s Store) publish(k kernel, n Network, e Endpoint, ports []Published) error {
	elements := portElements(e, ports)
	if len(elements) == 0 {
		return nil
	}
	if err := s.atHome(func() error { return reachable(k, n, ports) }); err != nil {
		return err
	}
	t := nft.Table{Name: s.TableName()}
	err := k.nft.Commit(adding(t, elements)...)
	if errors.Is(err, unix.EEXIST) {
		if err := s.held(e, ports); err != nil {
			return err
		}
		err = replaceStale(k, t, elements)
	}
	if errors.Is(err, unix.ENOENT) { // somebody has flushed the table just now; it is made with what the records name, these ports too
		err = s.repair(k)
	}
	return errors.Join(err, forgetFlows(k, ports))
}

// reachable lets the host reach ports by its own loopback addresses, where they are published there.
func reachable(k kernel, n Network, ports []Published) error {
	for _, own := range localnet(n, ports) {
		if err := writeSetting(own.path, own.value); err != nil {
			return err
		}
	}
	if !onLoopback(ports, false) {
		return nil
	}
	bridge, err := k.host.LinkByName(n.BridgeName())
	if err != nil {
		return err
	}
	return k.host.Do(localnet6(n, ports, bridge.Index)...)
}

// held looks for another container that has one of the ports by its record.
func (s Store) held(e Endpoint, ports []Published) error {
	all, err := s.allEndpoints()
	if err != nil {
		return err
	}
	for _, other := range all {
		if other.Container == e.Container {
			continue
		}
		for _, have := range other.Ports {
			for _, p := range ports {
				if have.Protocol == p.Protocol && have.HostPort == p.HostPort && collide(have.HostIP, p.HostIP) {
					return &HeldError{other.Container, fmt.Errorf("driver failed programming external connectivity on endpoint %s: %w", e.Name, allocated(p, other.Name))}
				}
			}
		}
	}
	return nil
}

// replaceStale adds elements in the place of those with their keys.
func replaceStale(k kernel, t nft.Table, elements map[string][]nft.Element) error {
	var requests [][]netlink.Request
	for set, some := range elements {
		stale, err := k.nft.Present(t, set, some)
		if err != nil {
			return err
		}
		requests = append(requests, t.DeleteElements(set, keys(stale)))
	}
	return k.nft.Commit(append(requests, adding(t, elements)...)...)
}

// forgetFlows makes the kernel decide anew about UDP flows to published ports: it does so once for each flow, and a peer that goes
// on sending would for ever be sent to where the port led, or did not lead, before.
func forgetFlows(k kernel, ports []Published) error {
	var own map[netip.Addr]bool
	for _, p := range ports {
		if p.Protocol != UDP {
			continue
		}
		flows, err := k.nft.UDPFlows(p.HostIP.Is4(), p.HostPort)
		if err != nil {
			return err
		}
		if len(flows) > 0 && own == nil {
			if own, err = ownAddresses(k.host); err != nil {
				return err
			}
		}
		// Flows to other hosts' ports of that number pass through here, too.
		flows = slices.DeleteFunc(flows, func(f nft.Flow) bool {
			to := f.Target.Addr()
			return to != p.HostIP && !(p.HostIP.IsUnspecified() && (own[to] || to.IsLoopback()))
		})
		if err := k.nft.Forget(flows); err != nil {
			return err
		}
	}
	return nil
}

func ownAddresses(host *netlink.Conn) (map[netip.Addr]bool, error) {
	all, err := host.Addresses()
	own := make(map[netip.Addr]bool, len(all))
	for _, a := range all {
		own[a.Prefix.Addr()] = true
	}
	return own, err
}

func adding(t nft.Table, elements map[string][]nft.Element) [][]netlink.Request {
	var requests [][]netlink.Request
	for set, some := range elements {
		requests = append(requests, t.AddElements(set, some))
	}
	return requests
}

func keys(elements []nft.Element) []nft.Element {
	all := make([]nft.Element, len(elements))
	for i, e := range elements {
		all[i] = nft.Element{Key: e.Key, End: e.End}
	}
	return all
}

// unpublish removes the elements of ports that are there and lead to the endpoint.
func (s Store) unpublish(k kernel, e Endpoint, ports []Published) error {
	t := nft.Table{Name: s.TableName()}
	var requests [][]netlink.Request
	for set, some := range portElements(e, ports) {
		present, err := k.nft.Present(t, set, some)
		if err != nil {
			return err
		}
		present = slices.DeleteFunc(present, func(p nft.Element) bool { return !slices.ContainsFunc(some, p.Equal) })
		requests = append(requests, t.DeleteElements(set, keys(present)))
	}
	err := k.nft.Commit(requests...)
	if errors.Is(err, unix.ENOENT) { // somebody has flushed the table just now
		err = nil
	}
	return errors.Join(err, forgetFlows(k, ports))
}

// SetPorts changes the published ports of a container that runs. New ones are to be reserved before, and the sockets of those that
// are gone closed afterwards.
func (s Store) SetPorts(network, container string, ports []Published) error {
	l, err := s.lock()
	if err != nil {
		return err
	}
	defer l.Unlock()
	n, err := s.load(network)
	if err != nil {
		return err
	}
	e, err := s.Endpoint(network, container)
	if err != nil {
		return err
	}
	k, err := s.connect()
	if err != nil {
		return err
	}
	defer k.close()
	old := e.Ports
	gone := slices.DeleteFunc(slices.Clone(old), func(p Published) bool { return slices.Contains(ports, p) })
	// Until the old ones are gone the record names them, too.
	e.Ports = append(gone, ports...)
	if err := s.record(e); err != nil {
		return err
	}
	if err := s.unpublish(k, e, gone); err != nil {
		return err
	}
	e.Ports = ports
	if err := s.record(e); err != nil {
		return err
	}
	return s.publish(k, n, e, ports)
}
