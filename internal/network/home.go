package network

import (
	"berth/internal/network/netlink"
	"berth/internal/network/nft"
)

// atHome calls f on a thread that is where the bridges and the rules are.
func (s Store) atHome(f func() error) error {
	if s.Home == nil {
		return f()
	}
	ns, err := s.Home()
	if err != nil {
		return err
	}
	return netlink.InNamespace(ns, f)
}

func (s Store) openRoutes() (c *netlink.Conn, err error) {
	err = s.atHome(func() error {
		c, err = netlink.Open(routeProtocol)
		return err
	})
	return c, err
}

func (s Store) openRules() (c nft.Conn, err error) {
	err = s.atHome(func() error {
		c, err = nft.Open()
		return err
	})
	return c, err
}

// settings makes the kernel do what a network needs.
func (s Store) settings(n Network) (changes []Change, err error) {
	err = s.atHome(func() error {
		changes, err = s.hostSettings(n)
		return err
	})
	return changes, err
}

// uplink is the interface of Home by which the host is reached, or empty.
func (s Store) uplink() string {
	if s.Home == nil {
		return ""
	}
	return s.Uplink
}
