package network

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"time"

	"berth/internal/errdef"
	"berth/internal/network/netlink"

	"golang.org/x/sys/unix"
)

// enter opens a connection in a container's namespace. Before there is an interface it says what the kernel is to do on its own
// there: nothing. A router's advertisement that another container sends is not believed (CVE-2020-13401).
func enter(ns *os.File, ipv6 bool) (c *netlink.Conn, err error) {
	err = netlink.InNamespace(ns, func() error {
		disable := "1"
		if ipv6 {
			disable = "0"
		}
		for _, setting := range [...]struct{ path, value string }{
			{"/proc/sys/net/ipv6/conf/default/disable_ipv6", disable},
			{"/proc/sys/net/ipv6/conf/default/accept_ra", "0"},
		} {
			if err := writeSetting(setting.path, setting.value); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		c, err = netlink.Open(routeProtocol)
		return err
	})
	return c, err
}

func freeInterface(inside *netlink.Conn) (string, error) {
	links, err := inside.Links()
	if err != nil {
		return "", err
	}
	for i := 0; ; i++ {
		name := "eth" + strconv.Itoa(i)
		if !slices.ContainsFunc(links, func(l netlink.Link) bool { return l.Name == name }) {
			return name, nil
		}
	}
}

// way is how an interface of a network is made.
type way struct {
	driver   Driver
	index    int // of the bridge, or of macvlan's parent
	mtu      int
	isolated bool
	mode     string
}

// requests make the interface in the container; without a namespace they are only to be shown.
func (w way) requests(e Endpoint, ns *os.File) []netlink.Request {
	if w.driver == DriverMacvlan {
		return []netlink.Request{netlink.CreateMacvlan(netlink.Macvlan{Name: e.Interface, Parent: w.index, Mode: w.mode, MAC: e.MAC, MTU: w.mtu, Namespace: ns})}
	}
	return []netlink.Request{
		netlink.CreateVeth(netlink.Veth{Name: e.HostLink, Master: w.index, MTU: w.mtu, PeerName: e.Interface, PeerMAC: e.MAC, PeerNamespace: ns}),
		// Hairpin: a container reaches itself by a port that it publishes.
		netlink.SetPort(e.HostLink, true, w.isolated),
	}
}

// oldMACTime is how long, half of it at last, is waited for the interface of a container that has ended to be gone.
const oldMACTime = time.Second

// link makes the interface in the container.
func (w way) link(host *netlink.Conn, e Endpoint, ns *os.File) error {
	requests := w.requests(e, ns)
	err := host.Do(requests...)
	// On one parent an address is in use as long as an interface with it is up, and that of a container that has just ended, like this
	// one's own before, goes with its namespace (macvlan_open of drivers/net/macvlan.c).
	for wait := time.Millisecond; w.driver == DriverMacvlan && errors.Is(err, unix.EADDRINUSE) && wait < oldMACTime; wait *= 2 {
		time.Sleep(wait)
		err = host.Do(requests...)
	}
	if errors.Is(err, unix.EADDRINUSE) {
		return errdef.New(errdef.Conflict, "an interface on the parent of the network %s has the address %s already: %w", e.Network, e.MAC, err)
	}
	if errors.Is(err, unix.EXFULL) {
		return errdef.New(errdef.NoSpace, "the network %s is full: a bridge of Linux has at most 1023 ports: %w", e.Network, err)
	}
	return err
}

// configure gives the interface in the container its addresses and routes, and sets it and lo up.
func configure(inside *netlink.Conn, e Endpoint) error {
	l, err := inside.LinkByName(e.Interface)
	if err != nil {
		return err
	}
	return inside.Do(configuration(e, l.Index)...)
}

// configuration are the requests that give an endpoint's interface, which has that index, what it should have.
func configuration(e Endpoint, index int) []netlink.Request {
	requests := []netlink.Request{netlink.SetUp("lo"), netlink.SetUp(e.Interface)}
	for _, p := range e.Addresses {
		requests = append(requests, netlink.AddAddress(index, p))
	}
	for _, a := range e.LinkLocal {
		bits := 16
		if a.Is6() {
			bits = 64
		}
		requests = append(requests, netlink.AddAddress(index, netip.PrefixFrom(a, bits)))
	}
	if e.DefaultRoute {
		for _, gateway := range e.Gateways {
			requests = append(requests, netlink.AddRoute(netlink.Route{To: defaultTo(gateway), Gateway: gateway, Index: index}))
		}
	}
	return requests
}

// LeaveBy makes a running container leave its networks, of which it holds endpoints, by the one of that name; "" is none. Default routes that
// are not berth's stay.
func (s Store) LeaveBy(held []Endpoint, name string, ns *os.File) error {
	l, err := s.lock()
	if err != nil {
		return err
	}
	defer l.Unlock()
	inside, err := netlink.OpenIn(ns, routeProtocol)
	if err != nil {
		return err
	}
	defer inside.Close()
	var gone, come []netlink.Request
	for _, h := range held {
		e, err := s.Endpoint(h.Network, h.Container)
		if errdef.Is(err, errdef.NotFound) {
			continue // its container has just ended
		}
		if err != nil {
			return err
		}
		by := e.Network == name
		if e.DefaultRoute != by {
			e.DefaultRoute = by
			if err := s.record(e); err != nil {
				return err
			}
		}
		link, err := inside.LinkByName(e.Interface)
		if err != nil {
			return err
		}
		for _, gateway := range e.Gateways {
			r := netlink.Route{To: defaultTo(gateway), Gateway: gateway, Index: link.Index}
			if by {
				come = append(come, netlink.AddRoute(r).Tolerate(unix.EEXIST))
			} else {
				gone = append(gone, netlink.DeleteRoute(r).Tolerate(unix.ESRCH))
			}
		}
	}
	return inside.Do(append(gone, come...)...)
}

// defaultTo is the destination of a default route of the address's family.
func defaultTo(a netip.Addr) netip.Prefix {
	if a.Is4() {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

// LoopbackUp sets lo up in a namespace: all that a container without a network has.
func LoopbackUp(ns *os.File) error {
	c, err := netlink.OpenIn(ns, routeProtocol)
	if err != nil {
		return err
	}
	return errors.Join(c.Do(netlink.SetUp("lo")), c.Close())
}
