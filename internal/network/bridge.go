package network

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"

	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/network/netlink"
	"berth/internal/network/nft"

	"golang.org/x/sys/unix"
)

// ensure makes what a network needs on the host, if it is not there: the bridge, the rules, forwarding. It may complete n.
func (s Store) ensure(k kernel, n *Network) (way, []Change, error) {
	o, err := n.options()
	if err != nil {
		return way{}, nil, err
	}
	w := way{driver: n.Driver, mtu: o.mtu, isolated: !o.icc, mode: o.mode}
	if n.Driver == DriverMacvlan {
		if s.Home != nil {
			return w, nil, errdef.Hint(errdef.New(errdef.Unsupported, "cannot connect to the network %s: macvlan needs an interface of the host, and so root", n.Name), "use a network of the driver bridge")
		}
		parent, err := k.host.LinkByName(o.parent)
		if errdef.Is(err, errdef.NotFound) {
			return w, nil, errdef.New(errdef.NotFound, "the network %s is on the interface %s, which is not there", n.Name, o.parent)
		}
		w.index = parent.Index
		return w, nil, err
	}
	// A bridge is set up as the last step of its making, so that one that is up is whole.
	bridge, err := k.host.LinkByName(n.BridgeName())
	switch {
	case err != nil && !errdef.Is(err, errdef.NotFound):
		return w, nil, err
	case err == nil && (bridge.Kind != "bridge" || !s.ownsBridge(*n)):
		return w, nil, errdef.New(errdef.Conflict, "the network %s needs the name %s, which an interface has that is not berth's", n.Name, bridge.Name)
	case err == nil && bridge.Up && len(n.Subnets) > 0:
		w.index = bridge.Index
		return w, nil, s.ensureRules(k)
	}
	changes, err := s.makeBridge(k, n, o)
	if err != nil {
		return w, changes, err
	}
	bridge, err = k.host.LinkByName(n.BridgeName())
	w.index = bridge.Index
	return w, changes, err
}

// bridgeFile says that the bridge of a network whose user has named it is berth's, and not one that was there before.
func (s Store) bridgeFile(name string) string { return filepath.Join(s.runDir(name), "bridge") }

// ownsBridge reports whether a bridge with the network's name for it is berth's. Names that berth has chosen are nobody else's.
func (s Store) ownsBridge(n Network) bool {
	if BuiltIn(n.Name) || n.Options[OptionBridgeName] == "" {
		return true
	}
	_, err := os.Lstat(s.bridgeFile(n.Name))
	return err == nil
}

// claimBridge writes down that the bridge is berth's, before it is made.
func (s Store) claimBridge(n Network) error {
	if s.ownsBridge(n) {
		return nil
	}
	if err := os.MkdirAll(s.runDir(n.Name), 0o700); err != nil {
		return err
	}
	return disk.Replace(s.bridgeFile(n.Name), []byte(n.BridgeName()+"\n"), 0o600, disk.Volatile)
}

// makeBridge makes a network's bridge or completes one that was half-made.
func (s Store) makeBridge(k kernel, n *Network, o options) ([]Change, error) {
	if err := s.settleSubnets(n); err != nil {
		return nil, err
	}
	if err := s.claimBridge(*n); err != nil {
		return nil, err
	}
	name := n.BridgeName()
	if err := k.host.Do(createBridge(*n, o)); err != nil {
		return nil, err
	}
	bridge, err := k.host.LinkByName(name)
	if err != nil {
		return nil, err
	}
	changes, err := s.settings(*n)
	if err != nil {
		return changes, err
	}
	if err := s.repair(k); err != nil {
		return changes, err
	}
	return changes, k.host.Do(completeBridge(*n, bridge.Index)...)
}

func createBridge(n Network, o options) netlink.Request {
	return netlink.CreateBridge(n.BridgeName(), macOf(n.Subnets[0].Gateway), o.mtu).Tolerate(unix.EEXIST)
}

// completeBridge are the requests that give the network's bridge, which has that index, its addresses, and set it up.
func completeBridge(n Network, index int) []netlink.Request {
	var requests []netlink.Request
	for _, subnet := range n.Subnets {
		address := netip.PrefixFrom(subnet.Gateway, subnet.Prefix.Bits())
		requests = append(requests, netlink.AddAddress(index, address).Tolerate(unix.EEXIST))
	}
	return append(requests, netlink.SetUp(n.BridgeName()))
}

// Settle chooses the subnets of the network "bridge" before it is first used, and makes nothing in the kernel. Other networks have
// theirs since they were created.
func (s Store) Settle(n Network) (Network, error) {
	if n.Name != NameBridge || len(n.Subnets) > 0 {
		return n, nil
	}
	l, err := s.lock()
	if err != nil {
		return n, err
	}
	defer l.Unlock()
	if n, err = s.load(n.Name); err != nil || len(n.Subnets) > 0 {
		return n, err
	}
	err = s.settleSubnets(&n)
	return n, err
}

// settleSubnets makes sure that the subnets of a network whose bridge is about to be made are nobody else's. Those of the network
// "bridge" are chosen here, and again if the host has come to use them since.
func (s Store) settleSubnets(n *Network) error {
	chosen, err := s.settledSubnets(*n)
	if err == nil && n.Name == NameBridge && !reflect.DeepEqual(chosen.Subnets, n.Subnets) {
		err = s.write(chosen)
	}
	*n = chosen
	return err
}

// settledSubnets is the network with the subnets that settleSubnets would give it.
func (s Store) settledSubnets(n Network) (Network, error) {
	others, err := s.List()
	if err != nil {
		return n, err
	}
	if n.Name == NameBridge && len(n.Subnets) > 0 {
		if _, err := s.chooseSubnets(n, others, nil); err == nil {
			return n, nil
		}
		if endpoints, err := s.Endpoints(n.Name); err != nil || len(endpoints) > 0 {
			return n, errors.Join(err, errdef.New(errdef.Conflict, "the subnets of the network %s are used by this host, too", n.Name))
		}
		n.Subnets = nil
	}
	return s.chooseSubnets(n, others, append([]pool{bridgePool}, pools...))
}

// ensureRules makes the table unless it is there and whole.
func (s Store) ensureRules(k kernel) error {
	ok, err := k.nft.Intact(frame(s.TableName()))
	if err != nil || ok {
		return err
	}
	return s.repair(k)
}

// Repair makes the table of rules anew, with the elements of all networks and endpoints, in one transaction: for when somebody has
// flushed it, and after a change of what is in it.
func (s Store) Repair() error {
	l, err := s.lock()
	if err != nil {
		return err
	}
	defer l.Unlock()
	return s.repairLocked()
}

// Heal is Repair unless the table is intact; repaired says that it was not. For whom Watch has woken: of many the first repairs.
func (s Store) Heal() (repaired bool, err error) {
	if ok, err := s.Intact(); ok || err != nil {
		return false, err
	}
	l, err := s.lock()
	if err != nil {
		return false, err
	}
	defer l.Unlock()
	if ok, err := s.Intact(); ok || err != nil {
		return false, err
	}
	return true, s.repairLocked()
}

// Watch returns a socket that becomes readable when somebody may have removed the table of rules: firewalld at each reload, or
// nft flush ruleset. Who waits for it empties it, and calls Heal.
func (s Store) Watch() (w *os.File, err error) {
	err = s.atHome(func() error {
		w, err = nft.Watch()
		return err
	})
	return w, err
}

func (s Store) repairLocked() error {
	k, err := s.connect()
	if err != nil {
		return err
	}
	defer k.close()
	return s.repair(k)
}

// Intact reports whether the table of rules is there and whole; elements are not looked at.
func (s Store) Intact() (bool, error) {
	c, err := s.openRules()
	if err != nil {
		return false, err
	}
	defer c.Close()
	return c.Intact(frame(s.TableName()))
}

func (s Store) repair(k kernel) error {
	t, err := s.wanted()
	if err != nil {
		return err
	}
	return k.nft.Commit(t.Delete(), t.Make())
}

// wanted is the table as the records say it should be.
func (s Store) wanted() (nft.Table, error) {
	networks, err := s.List()
	if err != nil {
		return nft.Table{}, err
	}
	endpoints, err := s.allEndpoints()
	if err != nil {
		return nft.Table{}, err
	}
	return table(s.TableName(), networks, endpoints, s.uplink())
}

// repairIfMade makes the table anew if it is there: where no container has run yet, none is made.
func (s Store) repairIfMade() error {
	c, err := s.openRules()
	if err != nil {
		return nil // a kernel without nf_tables: there is no table
	}
	defer c.Close()
	made, err := c.Exists(nft.Table{Name: s.TableName()})
	if err != nil || !made {
		return nil
	}
	return s.repairLocked()
}

// takeDown removes the bridge of a network, and the interfaces of berth's that are still on it: those of containers that have ended.
// The name of another kind of interface is not touched.
func (s Store) takeDown(n Network) error {
	if n.Driver != DriverBridge || !s.ownsBridge(n) {
		return nil
	}
	c, err := s.openRoutes()
	if err != nil {
		return err
	}
	defer c.Close()
	bridge, err := c.LinkByName(n.BridgeName())
	if errdef.Is(err, errdef.NotFound) || err == nil && bridge.Kind != "bridge" {
		return nil
	}
	if err != nil {
		return err
	}
	links, err := c.Links()
	if err != nil {
		return err
	}
	var requests []netlink.Request
	for _, l := range links {
		if l.Master == bridge.Index && ownLink(l) {
			requests = append(requests, netlink.DeleteLink(l.Name).Tolerate(unix.ENODEV))
		}
	}
	return c.Do(append(requests, netlink.DeleteLink(bridge.Name).Tolerate(unix.ENODEV))...)
}

// ownLink reports whether an interface on a bridge of berth's can be one that berth has made for a container.
func ownLink(l netlink.Link) bool {
	return l.Kind == "veth" && strings.HasPrefix(l.Name, hostLinkPrefix)
}
