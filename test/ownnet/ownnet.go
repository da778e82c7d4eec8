// Package ownnet gives a test's program a host of its own as far as networks go, and lists what berth holds there. A container on a
// network changes the host that it is started on, and the machine that tests run on is nobody's to change.
//
// It is no sandbox: processes, files and control groups are the machine's.
package ownnet

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"berth/internal/network"
	"berth/internal/network/netlink"
	"berth/internal/network/nft"

	"golang.org/x/sys/unix"
)

// inside says that the program runs in a network namespace of its own.
const inside = "BERTH_TEST_OWNNET"

// Enter runs this program again in a network namespace of its own, which looks like a host with one card, and ends with its status. It
// returns in there.
func Enter() error {
	if os.Getenv(inside) != "" {
		return Uplink()
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	if err == nil || errors.As(err, &exit) {
		os.Exit(cmd.ProcessState.ExitCode())
	}
	return fmt.Errorf("cannot run in a network namespace of its own: %w", err)
}

const card = "uplink"

// Uplink makes what a host has, in a new network namespace: its loopback, a card with an address, and a way out.
func Uplink() error {
	c, err := netlink.Open(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.Do(netlink.CreateBridge(card, netlink.MAC{2, 0, 0, 0, 0, 1}, 0), netlink.SetUp("lo"), netlink.SetUp(card)); err != nil {
		return err
	}
	link, err := c.LinkByName(card)
	if err != nil {
		return err
	}
	return c.Do(
		netlink.AddAddress(link.Index, netip.MustParsePrefix("10.99.0.1/24")),
		netlink.AddRoute(netlink.Route{To: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Gateway: netip.MustParseAddr("10.99.0.2"), Index: link.Index}),
	)
}

// Clear removes what an instance has made in the kernel, whatever its files say: as the end of the host does.
func Clear(s network.Store) error {
	c, err := netlink.Open(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer c.Close()
	links, err := c.Links()
	if err != nil {
		return err
	}
	for _, l := range links {
		if l.Name != card && (l.Kind == "bridge" || l.Kind == "veth") {
			err = errors.Join(err, c.Do(netlink.DeleteLink(l.Name).Tolerate(unix.ENODEV)))
		}
	}
	filter, e := nft.Open()
	if e != nil {
		return errors.Join(err, e)
	}
	defer filter.Close()
	return errors.Join(err, filter.Commit(nft.Table{Name: s.TableName()}.Delete()))
}

// Held is what the containers of an instance hold of the host, a line each: leases, records, interfaces, elements of published ports.
func Held(s network.Store) (held []string, err error) {
	if held, err = Records(s); err != nil {
		return nil, err
	}
	look := func() error {
		links, err := interfaces(s)
		if err != nil {
			return err
		}
		elements, err := elements(s)
		held = append(append(held, links...), elements...)
		return err
	}
	if s.Home == nil {
		return held, look()
	}
	ns, err := s.Home()
	if err != nil {
		return nil, err
	}
	return held, netlink.InNamespace(ns, look)
}

// Records are the leases and records of an instance, a line each.
func Records(s network.Store) (held []string, err error) {
	for _, kind := range []string{"leases", "endpoints"} {
		found, err := filepath.Glob(filepath.Join(s.Run, "networks", "*", kind, "*"))
		if err != nil {
			return nil, err
		}
		for _, path := range found {
			held = append(held, strings.TrimPrefix(path, s.Run+"/"))
		}
	}
	return held, nil
}

// interfaces are those on the instance's bridges, and those that are on no bridge any more.
func interfaces(s network.Store) ([]string, error) {
	networks, err := s.List()
	if err != nil {
		return nil, err
	}
	c, err := netlink.Open(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	links, err := c.Links()
	if err != nil {
		return nil, err
	}
	ours := map[int]bool{0: true} // no bridge at all
	for _, l := range links {
		if slices.ContainsFunc(networks, func(n network.Network) bool { return l.Name == n.BridgeName() }) {
			ours[l.Index] = true
		}
	}
	var held []string
	for _, l := range links {
		if l.Kind == "veth" && ours[l.Master] {
			held = append(held, "interface "+l.Name)
		}
	}
	return held, nil
}

// elements are those of published ports in the instance's table.
func elements(s network.Store) ([]string, error) {
	c, err := nft.Open()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	t := nft.Table{Name: s.TableName()}
	if there, err := c.Exists(t); err != nil || !there {
		return nil, err
	}
	var held []string
	for _, set := range []string{"ports4", "ports6", "any4", "any6"} {
		found, err := c.Elements(t, set)
		if err != nil {
			return nil, err
		}
		for _, e := range found {
			held = append(held, "element "+hex.EncodeToString(e.Key)+" of "+set)
		}
	}
	return held, nil
}
