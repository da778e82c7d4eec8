package network

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/ident"
	"berth/internal/network/netlink"
	"berth/internal/ownjson"
)

// Format is the version of the files of this package.
const Format = 1

// Store is the networks of one instance.
type Store struct {
	Data string // the data root: networks/NAME/network.json
	Run  string // the run root: networks/NAME/leases, endpoints
	// Keep, unless it is nil, takes the connection to nftables that Attach has used, in a process that ends soon: another one keeps it
	// for at least Lingering. So the end of this one waits for nothing.
	Keep func(*os.File)
	// Home, unless it is nil, opens the network namespace in which the bridges and the rules are. Otherwise that is the host's, which
	// means the calling thread's.
	Home func() (*os.File, error)
	// Uplink, with a Home, is the interface in there by which the host is reached, and Reserved are the prefixes that it uses.
	Uplink   string
	Reserved []netip.Prefix
}

// defaultRun is the run root whose bridge and table have the plain names; other instances' have a key in theirs.
const defaultRun = "/run/berth"

// key tells this instance from others on the host: 64 hexadecimal digits.
func (s Store) key(what string) string {
	sum := sha256.Sum256([]byte(filepath.Clean(s.Run) + "\x00" + what))
	return hex.EncodeToString(sum[:])
}

// TableName is the name of the instance's nftables table, of family inet.
func (s Store) TableName() string {
	if filepath.Clean(s.Run) == defaultRun {
		return "berth"
	}
	return "berth-" + ident.Short(s.key(""))
}

func (s Store) dataDir(name string) string { return filepath.Join(s.Data, "networks", name) }
func (s Store) runDir(name string) string  { return filepath.Join(s.Run, "networks", name) }

func (s Store) lock() (*disk.Lock, error) {
	path := filepath.Join(s.Run, "networks", ".lock")
	l, err := disk.TakeLock(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return nil, err
		}
		l, err = disk.TakeLock(path)
	}
	return l, err
}

// builtIn is a network that every instance has, as it is before it is first used.
func (s Store) builtIn(name string) Network {
	n := Network{Format: Format, Name: name, ID: s.key(name)}
	switch name {
	case NameHost:
		n.Driver = DriverHost
	case NameNone:
		n.Driver = DriverNull
	default:
		n.Driver = DriverBridge
		if filepath.Clean(s.Run) == defaultRun {
			n.Options = map[string]string{OptionBridgeName: "berth0"}
		}
	}
	return n
}

// Load finds a network by its name, its ID or the beginning of its ID.
func (s Store) Load(nameOrID string) (Network, error) {
	n, err := s.load(nameOrID)
	if err == nil || !errdef.Is(err, errdef.NotFound) || !ident.Is(nameOrID) {
		return n, err
	}
	all, err := s.List()
	if err != nil {
		return n, err
	}
	var found []Network
	for _, n := range all {
		if strings.HasPrefix(n.ID, nameOrID) {
			found = append(found, n)
		}
	}
	switch len(found) {
	case 0:
		return n, notFound(nameOrID)
	case 1:
		return found[0], nil
	}
	return n, errdef.New(errdef.Invalid, "network %s is ambiguous (%d matches found on name)", nameOrID, len(found))
}

func notFound(name string) error {
	return errdef.Hint(errdef.New(errdef.NotFound, "network %s not found", name), "berth network ls lists the networks")
}

// load reads the network of that name.
func (s Store) load(name string) (Network, error) {
	if checkName(name) != nil {
		return Network{}, notFound(name)
	}
	data, err := disk.Read(filepath.Join(s.dataDir(name), "network.json"))
	if errors.Is(err, fs.ErrNotExist) {
		if BuiltIn(name) {
			return s.builtIn(name), nil
		}
		return Network{}, notFound(name)
	}
	if err != nil {
		return Network{}, err
	}
	var n Network
	if err := ownjson.Unmarshal(data, &n); err != nil {
		return n, errdef.New(errdef.Corrupt, "cannot read the network %s: %w", name, err)
	}
	return n, nil
}

// List returns all networks, by name.
func (s Store) List() ([]Network, error) {
	names := []string{NameBridge, NameHost, NameNone}
	entries, err := os.ReadDir(filepath.Join(s.Data, "networks"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		if e.IsDir() && !BuiltIn(e.Name()) && checkName(e.Name()) == nil {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	var all []Network
	for _, name := range names {
		n, err := s.load(name)
		switch {
		case errdef.Is(err, errdef.NotFound): // just removed, or half-made
		case err != nil:
			return nil, err
		default:
			all = append(all, n)
		}
	}
	return all, nil
}

// Create completes a network (ID, driver, subnets, gateways, time) and writes it. Nothing is made in the kernel before a
// container needs it.
func (s Store) Create(n Network) (Network, error) {
	if BuiltIn(n.Name) { // docker's words
		return n, errdef.New(errdef.Denied, "operation is not permitted on predefined %s network", n.Name)
	}
	l, err := s.lock()
	if err != nil {
		return n, err
	}
	defer l.Unlock()
	if n.ConfigFrom != "" {
		if n, err = s.configured(n); err != nil {
			return n, err
		}
	}
	switch {
	case n.ConfigOnly:
		n.Driver = DriverNull // docker's, whatever was asked for
	case n.Driver == "":
		n.Driver = DriverBridge
	}
	if err := Check(n); err != nil {
		return n, err
	}
	others, err := s.List()
	if err != nil {
		return n, err
	}
	for _, o := range others {
		if o.Name == n.Name {
			return n, errdef.New(errdef.Conflict, "network with name %s already exists", n.Name)
		}
		if name := n.Options[OptionBridgeName]; name != "" && o.Driver == DriverBridge && o.BridgeName() == name {
			return n, errdef.New(errdef.Conflict, "cannot create network %s: the bridge %s belongs to the network %s", n.Name, name, o.Name)
		}
	}
	n.Format, n.ID, n.Created = Format, ident.New(), time.Now()
	if !n.ConfigOnly {
		if n, err = s.chooseSubnets(n, others, pools); err != nil {
			return n, err
		}
	}
	if err := s.write(n); err != nil {
		return n, err
	}
	s.note(n, "create")
	return n, nil
}

// configured is a network with the configuration of another one, which is there for that alone.
func (s Store) configured(n Network) (Network, error) {
	from, err := s.Load(n.ConfigFrom)
	switch {
	case err != nil:
		return n, err
	case !from.ConfigOnly:
		return n, errdef.Hint(errdef.New(errdef.Invalid, "network %s is not a configuration network", from.Name), "make one with --config-only")
	case n.ConfigOnly, n.EnableIPv6, len(n.Subnets)+len(n.Options)+len(n.IPAMOptions) > 0: // docker's words
		return n, errdef.New(errdef.Invalid, "user specified configurations are not supported if the network depends on a configuration network")
	}
	n.ConfigFrom, n.Subnets, n.Options, n.IPAMOptions, n.EnableIPv6 = from.Name, from.Subnets, from.Options, from.IPAMOptions, from.EnableIPv6
	labels := maps.Clone(from.Labels)
	for name, value := range n.Labels {
		if labels == nil {
			labels = map[string]string{}
		}
		labels[name] = value
	}
	n.Labels = labels
	return n, nil
}

func (s Store) write(n Network) error {
	if err := os.MkdirAll(s.dataDir(n.Name), 0o700); err != nil {
		return err
	}
	data, err := ownjson.Marshal(n)
	if err != nil {
		return err
	}
	if err := errors.Join(disk.SyncDir(s.Data), disk.SyncDir(filepath.Join(s.Data, "networks"))); err != nil {
		return err
	}
	return disk.Replace(filepath.Join(s.dataDir(n.Name), "network.json"), append(data, '\n'), 0o600, disk.Durable)
}

// chooseSubnets completes what the user has not said, and refuses what overlaps other networks or, of a bridge, the host's routes.
func (s Store) chooseSubnets(n Network, others []Network, from []pool) (Network, error) {
	var nets, host []netip.Prefix
	for _, o := range others {
		for _, subnet := range o.Subnets {
			if o.Name != n.Name && !o.ConfigOnly {
				nets = append(nets, subnet.Prefix)
			}
		}
	}
	if n.Driver == DriverBridge {
		var err error
		if host, err = hostPrefixes(n.BridgeName()); err != nil {
			return n, err
		}
		host = append(host, s.Reserved...)
	}
	n.Subnets = slices.Clone(n.Subnets)
	for _, subnet := range n.Subnets {
		if other, overlaps := overlapping(subnet.Prefix, nets); overlaps {
			return n, errdef.New(errdef.Conflict, "invalid pool request: Pool overlaps with other one on this address space (%s and %s)", subnet.Prefix, other)
		}
		if other, overlaps := overlapping(subnet.Prefix, host); overlaps {
			return n, errdef.New(errdef.Conflict, "the subnet %s overlaps %s, which this host uses", subnet.Prefix, other)
		}
	}
	if _, has := n.subnet(true); !has {
		prefix, err := choosePrefix(from, append(nets, host...))
		if err != nil {
			return n, err
		}
		n.Subnets = append(n.Subnets, Subnet{Prefix: prefix})
	}
	if _, has := n.subnet(false); n.EnableIPv6 && !has {
		n.Subnets = append(n.Subnets, Subnet{Prefix: uniqueLocal(n.ID)})
	}
	for i, subnet := range n.Subnets {
		if !subnet.Gateway.IsValid() {
			n.Subnets[i].Gateway = subnet.Prefix.Addr().Next()
			if subnet.Range.IsValid() && subnet.Range != subnet.Prefix {
				n.Subnets[i].Gateway = firstOf(subnet)
			}
		}
	}
	return n, nil
}

// firstOf is the first address of a subnet's range that can be one.
func firstOf(s Subnet) netip.Addr {
	a := s.Range.Masked().Addr()
	if a == s.Prefix.Addr() {
		a = a.Next()
	}
	return a
}

// hostPrefixes are the subnets that the host itself uses: its routes and addresses, without those of the bridge own.
func hostPrefixes(own string) ([]netip.Prefix, error) {
	c, err := netlink.Open(routeProtocol)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	links, err := c.Links()
	if err != nil {
		return nil, err
	}
	ownIndex := -1
	for _, l := range links {
		if l.Name == own {
			ownIndex = l.Index
		}
	}
	routes, err := c.Routes()
	if err != nil {
		return nil, err
	}
	addresses, err := c.Addresses()
	if err != nil {
		return nil, err
	}
	var all []netip.Prefix
	for _, r := range routes {
		if r.Index != ownIndex {
			all = append(all, r.To)
		}
	}
	for _, a := range addresses {
		if a.Index != ownIndex {
			all = append(all, a.Prefix.Masked())
		}
	}
	return all, nil
}

// Remove removes a network that no container uses, and its bridge.
func (s Store) Remove(nameOrID string) error {
	n, err := s.Load(nameOrID)
	if err != nil {
		return err
	}
	if BuiltIn(n.Name) { // docker's words
		return errdef.New(errdef.Denied, "%s is a pre-defined network and cannot be removed", n.Name)
	}
	l, err := s.lock()
	if err != nil {
		return err
	}
	defer l.Unlock()
	endpoints, err := s.Endpoints(n.Name)
	if err != nil {
		return err
	}
	if len(endpoints) > 0 {
		return errdef.Hint(errdef.New(errdef.Conflict, "error while removing network: network %s has active endpoints (name:%q)", n.Name, endpoints[0].Name),
			"stop or disconnect its containers first")
	}
	if n.ConfigOnly {
		if err := s.checkUnused(n); err != nil {
			return err
		}
	}
	if err := s.takeDown(n); err != nil {
		return err
	}
	// What it has in the run root goes first, or a later network of its name would find it: endpoints before leases, as record makes
	// both where there are no endpoints. Without its file there is no network; what is left of its directory has no meaning.
	if err := errors.Join(os.RemoveAll(filepath.Join(s.runDir(n.Name), "endpoints")), os.RemoveAll(s.runDir(n.Name))); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(s.dataDir(n.Name), "network.json")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	s.note(n, "destroy")
	return errors.Join(disk.SyncDir(s.dataDir(n.Name)), os.RemoveAll(s.dataDir(n.Name)), s.repairIfMade())
}

// checkUnused refuses to remove a configuration that a network has.
func (s Store) checkUnused(n Network) error {
	all, err := s.List()
	if err != nil {
		return err
	}
	i := slices.IndexFunc(all, func(o Network) bool { return o.ConfigFrom == n.Name })
	if i < 0 {
		return nil
	}
	return errdef.Hint(errdef.New(errdef.Conflict, "configuration network %q is in use", n.Name), "berth network rm %s", all[i].Name)
}
