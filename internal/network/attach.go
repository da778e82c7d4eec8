package network

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strconv"
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

// Lingering is how long a connection to nftables stays open after its use. The end of one waits until the kernel has freed what
// anybody has deleted, some 8 ms, and holds up every other change of nftables meanwhile (nft_rcv_nl_event of
// net/netfilter/nf_tables_api.c); a moment later there is nothing to wait for. A process that has given published ports back, and
// for whose end nobody waits, does well to live that long.
const Lingering = 100 * time.Millisecond

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

// leave gives back what the container holds in the network, if it holds something.
func (s Store) leave(k kernel, network, container string, why Leaving) error {
	old, err := s.Endpoint(network, container)
	if errdef.Is(err, errdef.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return s.release(k, old, why)
}

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

// Leaving says why a container leaves a network.
type Leaving bool

const (
	// Disconnected: the container runs on. Its interface is removed, which takes some 25 ms.
	Disconnected Leaving = false
	// Ended: the container's processes are gone, and its interface goes with its network namespace. The port of the bridge is
	// closed at once; should something else keep the namespace, RemoveLinks removes the interface.
	Ended Leaving = true
)

// RemoveLinks removes the interfaces of endpoints that were released as Ended, where they are still there a moment later: a container
// that shares the network namespace keeps it, and so does a TCP connection that waits for its last acknowledgement. Their names are
// nobody else's.
func (s Store) RemoveLinks(ended []Endpoint) error {
	c, err := s.openRoutes()
	if err != nil {
		return err
	}
	var errs error
	for _, e := range ended {
		if e.HostLink != "" {
			errs = errors.Join(errs, c.Do(netlink.DeleteLink(e.HostLink).Tolerate(unix.ENODEV)))
		}
	}
	return errors.Join(errs, c.Close())
}

// Release gives back all that a container holds in a network, from its record alone. It may be repeated, and holding nothing is
// no error.
func (s Store) Release(network, container string, why Leaving) error {
	e, err := s.Endpoint(network, container)
	if errdef.Is(err, errdef.NotFound) {
		return nil
	}
	l, err := s.lock()
	if err != nil {
		return err
	}
	defer l.Unlock()
	k, err := s.connect()
	if err != nil {
		return err
	}
	defer k.close()
	if err := s.leave(k, network, container, why); err != nil {
		return err
	}
	s.noteEndpoint(e, "disconnect")
	return nil
}

// ReleaseAll is Release for every network.
func (s Store) ReleaseAll(container string, why Leaving) error {
	names, err := s.usedNetworks()
	if err != nil {
		return err
	}
	var errs error
	for _, name := range names {
		errs = errors.Join(errs, s.Release(name, container, why))
	}
	return errs
}

// release gives back, in the order that package's comment says. The record goes last, and only if all else is gone.
func (s Store) release(k kernel, e Endpoint, why Leaving) error {
	errs := s.unpublish(k, e, e.Ports)
	switch {
	case e.HostLink == "": // macvlan: the interface is in the container only
	case why == Ended:
		errs = errors.Join(errs, k.host.Do(netlink.DisablePort(e.HostLink).Tolerate(unix.ENODEV, unix.EINVAL)))
	default:
		errs = errors.Join(errs, k.host.Do(netlink.DeleteLink(e.HostLink).Tolerate(unix.ENODEV)))
	}
	if err := errors.Join(errs, s.giveLeases(e)); err != nil {
		return err
	}
	if err := os.Remove(s.endpointFile(e.Network, e.Container)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

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
