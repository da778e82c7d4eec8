package network

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"net/netip"
	"os"
	"time"

	"berth/internal/errdef"
	"berth/internal/network/netlink"
	"berth/internal/network/nft"

	"golang.org/x/sys/unix"
)

const routeProtocol = unix.NETLINK_ROUTE

// Request is what a container wants of a network.
type Request struct {
	Container string // its ID
	Name      string // the container's
	// Interface is the name inside; empty is the first of eth0, eth1, ... that is free, for a container that runs already.
	Interface string
	Addresses []netip.Addr // at most one of each family; others are chosen
	MAC       netlink.MAC  // the zero value is made from the address
	RandomMAC bool
	LinkLocal []netip.Addr // further addresses, which only this link knows
	Aliases   []string
	Ports     []Published // as Reserve returned them
	// DefaultRoute says that what leaves the container's networks goes through this one. One of its networks has it.
	DefaultRoute bool
}

// kernel is the connections of one act.
type kernel struct {
	host *netlink.Conn // routes and links where the bridges are
	nft  nft.Conn
	keep func(*os.File) // Store.Keep
}

func (s Store) connect() (kernel, error) {
	var k kernel
	err := s.atHome(func() (err error) {
		if k.host, err = netlink.Open(routeProtocol); err != nil {
			return err
		}
		if k.nft, err = nft.Open(); err != nil {
			err = errors.Join(err, k.host.Close())
		}
		return err
	})
	return k, err
}

// close closes the connections, that to nftables a little later.
func (k kernel) close() {
	_ = k.host.Close()
	if k.keep != nil {
		k.keep(k.nft.File())
		return
	}
	time.AfterFunc(Lingering, func() { _ = k.nft.Close() })
}

// Attach connects a container, whose network namespace is ns, to a network, and makes what the network needs. It is for a
// container that starts as for one that runs. changes are settings of the host that it had to change, also when it fails.
// What it has taken when it fails is given back.
func (s Store) Attach(network string, r Request, ns *os.File) (e Endpoint, changes []Change, err error) {
	l, err := s.lock()
	if err != nil {
		return e, nil, err
	}
	defer l.Unlock()
	n, err := s.load(network)
	if err != nil {
		return e, nil, err
	}
	if n.Driver == DriverHost || n.Driver == DriverNull { // docker's words
		return e, nil, errdef.New(errdef.Invalid, "container cannot be connected to network %s", n.Name)
	}
	k, err := s.connect()
	if err != nil {
		return e, nil, err
	}
	k.keep = s.Keep
	defer k.close()
	// What an earlier start of the container may have left.
	if err := s.leave(k, n.Name, r.Container, Disconnected); err != nil {
		return e, nil, err
	}
	way, changes, err := s.ensure(k, &n)
	if err != nil {
		return e, changes, err
	}
	_, ipv6 := n.subnet(false)
	inside, err := enter(ns, ipv6)
	if err != nil {
		return e, changes, err
	}
	defer inside.Close()
	if e, err = s.plan(n, r, inside); err != nil {
		return e, changes, err
	}
	if err = s.record(e); err != nil {
		return e, changes, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.release(k, e, Disconnected))
		}
	}()
	if err := s.takeLeases(e); err != nil {
		return e, changes, err
	}
	if err := way.link(k.host, e, ns); err != nil {
		return e, changes, err
	}
	defer func() {
		if err != nil && e.HostLink == "" { // no side of it is here, by which release could take it back
			err = errors.Join(err, inside.Do(netlink.DeleteLink(e.Interface).Tolerate(unix.ENODEV)))
		}
	}()
	if err := configure(inside, e); err != nil {
		return e, changes, err
	}
	if err := s.publish(k, n, e, e.Ports); err != nil {
		return e, changes, err
	}
	s.noteEndpoint(e, "connect")
	return e, changes, nil
}

// Restore connects a container that runs, whose network namespace is ns, again as its record says, if its interface is no more: a Home
// ends when all who held it have been killed, and what was in it ends with it. The endpoint that it returns is the one from now on.
func (s Store) Restore(e Endpoint, ns *os.File) (Endpoint, error) {
	if s.Home == nil || e.HostLink == "" {
		return e, nil
	}
	home, err := s.openRoutes()
	if err != nil {
		return e, err
	}
	defer home.Close()
	if _, err := home.LinkByName(e.HostLink); !errdef.Is(err, errdef.NotFound) {
		return e, err
	}
	// Its other side goes when the kernel comes to it, some time after the namespace's end.
	inside, err := netlink.OpenIn(ns, routeProtocol)
	if err != nil {
		return e, err
	}
	if err := errors.Join(inside.Do(netlink.DeleteLink(e.Interface).Tolerate(unix.ENODEV)), inside.Close()); err != nil {
		return e, err
	}
	r := Request{
		Container: e.Container, Name: e.Name, Interface: e.Interface, MAC: e.MAC, Aliases: e.Aliases, Ports: e.Ports, DefaultRoute: e.DefaultRoute,
	}
	for _, p := range e.Addresses {
		r.Addresses = append(r.Addresses, p.Addr())
	}
	again, _, err := s.Attach(e.Network, r, ns)
	return again, err
}

// plan is the endpoint that a request leads to.
func (s Store) plan(n Network, r Request, inside *netlink.Conn) (Endpoint, error) {
	e := Endpoint{
		Format: Format, Network: n.Name, NetworkID: n.ID, Driver: n.Driver, Container: r.Container, Name: r.Name, Interface: r.Interface, MAC: r.MAC,
		LinkLocal: r.LinkLocal, DefaultRoute: r.DefaultRoute && !n.Internal, Internal: n.Internal, Aliases: r.Aliases, Ports: r.Ports,
	}
	if err := checkName(r.Container); err != nil {
		return e, err
	}
	taken, err := s.leased(n.Name)
	if err != nil {
		return e, err
	}
	for _, subnet := range n.Subnets {
		for _, a := range subnet.Auxiliary {
			taken[a] = true
		}
		a, err := chooseAddress(n, subnet, r.Addresses, taken)
		if err != nil {
			return e, err
		}
		e.Addresses = append(e.Addresses, netip.PrefixFrom(a, subnet.Prefix.Bits()))
		e.Gateways = append(e.Gateways, subnet.Gateway)
	}
	if e.Interface == "" {
		if e.Interface, err = freeInterface(inside); err != nil {
			return e, err
		}
	}
	var chance [10]byte
	_, _ = rand.Read(chance[:]) // never fails (crypto/rand, Go 1.24)
	if n.Driver == DriverBridge {
		e.HostLink = hostLinkPrefix + hex.EncodeToString(chance[:hostLinkDigits/2])
	}
	switch {
	case r.RandomMAC:
		copy(e.MAC[:], chance[4:])
		e.MAC[0] = e.MAC[0]&^1 | 2 // one station's, and nobody's product
	case e.MAC == (netlink.MAC{}):
		e.MAC = macOf(e.Addresses[0].Addr())
	}
	return e, nil
}

// The name of a container's interface on the host: the prefix, and hexadecimal digits.
const (
	hostLinkPrefix = "veth"
	hostLinkDigits = 10
)
