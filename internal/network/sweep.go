package network

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/network/netlink"
	"berth/internal/network/nft"

	"golang.org/x/sys/unix"
)

// Swept is something that a container had left and that was given back.
type Swept struct{ Network, Container, What string }

// Sweep gives back what containers hold that are no more, finishes what was cut off, and makes the rules anew if they are there. alive
// says whether a container may hold something, from before its first Attach on, and its name, if that is known.
func (s Store) Sweep(alive func(container string) (name string, ok bool)) ([]Swept, error) {
	l, err := s.lock()
	if err != nil {
		return nil, err
	}
	defer l.Unlock()
	k, err := s.connect()
	if err != nil {
		return nil, err
	}
	defer k.close()
	names, err := s.usedNetworks()
	if err != nil {
		return nil, err
	}
	var swept []Swept
	var errs error
	for _, name := range names {
		some, err := s.sweepNetwork(k, name, alive)
		swept, errs = append(swept, some...), errors.Join(errs, err)
	}
	some, err := s.sweepLinks(k.host)
	return append(swept, some...), errors.Join(errs, err, s.repairIfMade())
}

func (s Store) sweepNetwork(k kernel, name string, alive func(string) (string, bool)) ([]Swept, error) {
	var swept []Swept
	endpoints, err := s.Endpoints(name)
	if err != nil {
		return nil, err
	}
	errs := disk.SweepTemporaries(filepath.Join(s.runDir(name), "endpoints"))
	held := map[string]bool{} // leases that records name
	for _, e := range endpoints {
		called, ok := alive(e.Container)
		if !ok {
			errs = errors.Join(errs, s.release(k, e, Disconnected))
			swept = append(swept, Swept{name, e.Container, "endpoint"})
			continue
		}
		if called != "" {
			errs = errors.Join(errs, s.rename(e, called))
		}
		for _, p := range e.Addresses {
			held[p.Addr().String()] = true
		}
	}
	leases, err := os.ReadDir(filepath.Join(s.runDir(name), "leases"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = errors.Join(errs, err)
	}
	for _, lease := range leases {
		path := filepath.Join(s.runDir(name), "leases", lease.Name())
		container, err := os.Readlink(path)
		if held[lease.Name()] {
			continue
		}
		if _, ok := alive(container); ok && err == nil {
			continue
		}
		errs = errors.Join(errs, os.Remove(path))
		swept = append(swept, Swept{name, container, "lease of " + lease.Name()})
	}
	return swept, errs
}

// sweepLinks removes interfaces on this instance's bridges that no record names.
func (s Store) sweepLinks(host *netlink.Conn) ([]Swept, error) {
	networks, err := s.List()
	if err != nil {
		return nil, err
	}
	endpoints, err := s.allEndpoints()
	if err != nil {
		return nil, err
	}
	recorded := map[string]bool{}
	for _, e := range endpoints {
		recorded[e.HostLink] = true
	}
	links, err := host.Links()
	if err != nil {
		return nil, err
	}
	bridges := map[int]string{}
	for _, l := range links {
		for _, n := range networks {
			if n.Driver == DriverBridge && l.Name == n.BridgeName() {
				bridges[l.Index] = n.Name
			}
		}
	}
	var swept []Swept
	var errs error
	for _, l := range links {
		network, ours := bridges[l.Master]
		if !ours || !ownLink(l) || recorded[l.Name] {
			continue
		}
		errs = errors.Join(errs, host.Do(netlink.DeleteLink(l.Name).Tolerate(unix.ENODEV)))
		swept = append(swept, Swept{network, "", "interface " + l.Name})
	}
	return swept, errs
}

// Vacate removes the rules and the bridges of an instance, for when it is to be no more. While a container holds something it is an
// error.
func (s Store) Vacate() error {
	l, err := s.lock()
	if err != nil {
		return err
	}
	defer l.Unlock()
	held, err := s.allEndpoints()
	if err != nil {
		return err
	}
	if len(held) > 0 {
		return errdef.New(errdef.Conflict, "cannot take the networks down: container %s is on the network %s", held[0].Name, held[0].Network)
	}
	networks, err := s.List()
	if err != nil {
		return err
	}
	var errs error
	for _, n := range networks {
		errs = errors.Join(errs, s.takeDown(n))
	}
	c, err := s.openRules()
	if err != nil {
		return errs // a kernel without nf_tables has no table
	}
	defer c.Close()
	t := nft.Table{Name: s.TableName()}
	if made, err := c.Exists(t); err != nil || !made {
		return errs
	}
	return errors.Join(errs, c.Commit(t.Delete()))
}
