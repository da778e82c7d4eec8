package network

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/network/netlink"
	"berth/internal/ownjson"
)

// Endpoint is what a container holds in one network: RUN/networks/NAME/endpoints/CONTAINER.
type Endpoint struct {
	Format    int
	Network   string
	NetworkID string `json:",omitempty"`
	Driver    Driver `json:",omitempty"` // the network's
	Container string // its ID
	Name      string // the container's
	Interface string // in the container
	HostLink  string `json:",omitempty"` // the other side, on the host
	MAC       netlink.MAC
	LinkLocal []netip.Addr   `json:",omitempty"`
	Addresses []netip.Prefix // with the lengths of their subnets
	Gateways  []netip.Addr   `json:",omitempty"`
	// DefaultRoute says that what leaves the container's networks goes through this one.
	DefaultRoute bool        `json:",omitempty"`
	Internal     bool        `json:",omitempty"` // the network is
	Aliases      []string    `json:",omitempty"`
	Ports        []Published `json:",omitempty"`
}

// Address is the endpoint's address of a family.
func (e Endpoint) Address(ipv4 bool) (netip.Addr, bool) {
	for _, p := range e.Addresses {
		if p.Addr().Is4() == ipv4 {
			return p.Addr(), true
		}
	}
	return netip.Addr{}, false
}

func (s Store) endpointFile(network, container string) string {
	return filepath.Join(s.runDir(network), "endpoints", container)
}

func (s Store) leaseFile(network string, a netip.Addr) string {
	return filepath.Join(s.runDir(network), "leases", a.String())
}

// Endpoint reads what a container holds in a network. One that holds nothing is an error of kind NotFound.
func (s Store) Endpoint(network, container string) (Endpoint, error) {
	var e Endpoint
	if checkName(network) != nil || checkName(container) != nil {
		return e, errdef.New(errdef.NotFound, "container %s is not connected to network %s", container, network)
	}
	data, err := disk.Read(s.endpointFile(network, container))
	if errors.Is(err, fs.ErrNotExist) {
		return e, errdef.New(errdef.NotFound, "container %s is not connected to network %s", container, network)
	}
	if err != nil {
		return e, err
	}
	if err := ownjson.Unmarshal(data, &e); err != nil {
		return e, errdef.New(errdef.Corrupt, "cannot read what the container %s holds in the network %s: %w", container, network, err)
	}
	return e, nil
}

// Endpoints reads what all containers hold in a network, by container.
func (s Store) Endpoints(network string) ([]Endpoint, error) {
	entries, err := os.ReadDir(filepath.Join(s.runDir(network), "endpoints"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []Endpoint
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), disk.TemporaryPrefix) {
			continue
		}
		e, err := s.Endpoint(network, entry.Name())
		switch {
		case errdef.Is(err, errdef.NotFound):
		case err != nil:
			return nil, err
		default:
			all = append(all, e)
		}
	}
	return all, nil
}

// usedNetworks are the names of the networks that have something in the run root.
func (s Store) usedNetworks() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(s.Run, "networks"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var all []string
	for _, e := range entries {
		if e.IsDir() && checkName(e.Name()) == nil {
			all = append(all, e.Name())
		}
	}
	return all, nil
}

func (s Store) allEndpoints() ([]Endpoint, error) {
	names, err := s.usedNetworks()
	if err != nil {
		return nil, err
	}
	var all []Endpoint
	for _, name := range names {
		some, err := s.Endpoints(name)
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	return all, nil
}

func (s Store) record(e Endpoint) error {
	data, err := ownjson.Marshal(e)
	if err != nil {
		return err
	}
	path := s.endpointFile(e.Network, e.Container)
	err = disk.Replace(path, append(data, '\n'), 0o600, disk.Volatile)
	if errors.Is(err, fs.ErrNotExist) {
		for _, dir := range []string{"endpoints", "leases"} {
			if err := os.MkdirAll(filepath.Join(s.runDir(e.Network), dir), 0o700); err != nil {
				return err
			}
		}
		err = disk.Replace(path, append(data, '\n'), 0o600, disk.Volatile)
	}
	return err
}

// Rename gives a container another name on all networks that it is on.
func (s Store) Rename(container, name string) error {
	l, err := s.lock()
	if err != nil {
		return err
	}
	defer l.Unlock()
	names, err := s.usedNetworks()
	if err != nil {
		return err
	}
	for _, network := range names {
		e, err := s.Endpoint(network, container)
		if errdef.Is(err, errdef.NotFound) {
			continue
		}
		if err == nil {
			err = s.rename(e, name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s Store) rename(e Endpoint, name string) error {
	if e.Name == name {
		return nil
	}
	e.Name = name
	return s.record(e)
}

// leased are the addresses of a network that somebody holds.
func (s Store) leased(network string) (map[netip.Addr]bool, error) {
	entries, err := os.ReadDir(filepath.Join(s.runDir(network), "leases"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	taken := make(map[netip.Addr]bool, len(entries))
	for _, e := range entries {
		if a, err := netip.ParseAddr(e.Name()); err == nil {
			taken[a] = true
		}
	}
	return taken, nil
}

// chooseAddress is the address in a subnet that an endpoint is to have.
func chooseAddress(n Network, subnet Subnet, asked []netip.Addr, taken map[netip.Addr]bool) (netip.Addr, error) {
	i := slices.IndexFunc(asked, func(a netip.Addr) bool { return a.IsValid() && a.Is4() == subnet.Prefix.Addr().Is4() })
	if i < 0 {
		a, ok := pickAddress(subnet, taken)
		if !ok {
			return a, errdef.New(errdef.Conflict, "no available addresses on this network's address pools: %s (%s)", n.Name, n.ID)
		}
		return a, nil
	}
	switch a := asked[i]; {
	case !usable(subnet, a): // docker's words
		return a, errdef.New(errdef.Invalid, "invalid address %s: It does not belong to any of this network's subnets", a)
	case taken[a]:
		return a, errdef.New(errdef.Conflict, "Address already in use: %s", a)
	default:
		return a, nil
	}
}

// takeLeases takes the addresses that the endpoint's record names.
func (s Store) takeLeases(e Endpoint) error {
	for _, p := range e.Addresses {
		if err := os.Symlink(e.Container, s.leaseFile(e.Network, p.Addr())); err != nil {
			return err
		}
	}
	return nil
}

// giveLeases gives addresses back, where they are the endpoint's.
func (s Store) giveLeases(e Endpoint) error {
	var errs error
	for _, p := range e.Addresses {
		path := s.leaseFile(e.Network, p.Addr())
		if holder, err := os.Readlink(path); err != nil || holder != e.Container {
			continue
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = errors.Join(errs, err)
		}
	}
	return errs
}
