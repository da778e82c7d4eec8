package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/network/netlink"

	"golang.org/x/sys/unix"
)

// Change is a setting of the host that was changed because a network needs it: one that is not an own interface's of berth's.
type Change struct {
	Name     string // as sysctl(8) has it
	Old, New string
	Why      string // what it is for, and what else it does
}

func (c Change) String() string {
	return fmt.Sprintf("%s was %s and is %s now: %s", c.Name, c.Old, c.New, c.Why)
}

// sysctlName is sysctl(8)'s name of a file below /proc/sys: dots in the names of interfaces are its slashes.
func sysctlName(path string) string {
	return strings.NewReplacer("/", ".", ".", "/").Replace(strings.TrimPrefix(path, "/proc/sys/"))
}

func (s Store) changesFile() string { return filepath.Join(s.Run, "networks", ".settings") }

// Changes are the settings of the host that this instance has changed since the host was started.
func (s Store) Changes() ([]Change, error) {
	data, err := disk.Read(s.changesFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []Change
	if err := json.Unmarshal(data, &all); err != nil {
		return nil, errdef.New(errdef.Corrupt, "cannot read which settings of the host were changed: %w", err)
	}
	return all, nil
}

// setting is a setting of the kernel, a file below /proc/sys, as a network needs it.
type setting struct{ path, value, why string }

// change writes a setting if it has another value, and writes down before what it was: of one that was changed before, what it was
// at first. changed is false if it had the value. The caller holds the lock.
func (s Store) change(to setting) (c Change, changed bool, err error) {
	old, err := readSetting(to.path)
	if err != nil || old == to.value {
		return c, false, err
	}
	if s.Home != nil { // where nothing but berth's own is: nobody else's business
		return c, false, writeSetting(to.path, to.value)
	}
	c = Change{Name: sysctlName(to.path), Old: old, New: to.value, Why: to.why}
	all, err := s.Changes()
	if err != nil {
		return c, false, err
	}
	if !slices.ContainsFunc(all, func(b Change) bool { return b.Name == c.Name }) {
		data, err := json.Marshal(append(all, c))
		if err != nil {
			return c, false, err
		}
		if err := disk.Replace(s.changesFile(), append(data, '\n'), 0o600, disk.Volatile); err != nil {
			return c, false, err
		}
	}
	if err := writeSetting(to.path, to.value); err != nil {
		return c, false, errdef.Hint(err, "sysctl -w %s=%s, as the host's root", c.Name, to.value)
	}
	return c, true, nil
}

// forwards is what forwarding is for, and what else it does.
const forwards = "containers reach other hosts through this one, which forwards between its other interfaces, too"

// hostSettings makes the kernel do what a network needs. What is changed beyond the bridge is returned.
func (s Store) hostSettings(n Network) (changes []Change, err error) {
	for _, own := range bridgeSettings(n) {
		if err := writeSetting(own.path, own.value); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	shared, err := sharedSettings(n)
	if err != nil {
		return nil, err
	}
	for _, to := range shared {
		c, changed, err := s.change(to)
		if err != nil {
			return changes, err
		}
		if changed {
			changes = append(changes, c)
		}
	}
	return changes, nil
}

// bridgeSettings are those of a network's bridge. A kernel without IPv6 has none of them.
func bridgeSettings(n Network) []setting {
	disable := setting{"disable_ipv6", "1", "the network has no IPv6"}
	if _, ipv6 := n.subnet(false); ipv6 {
		disable = setting{"disable_ipv6", "0", "the network has IPv6"}
	}
	all := []setting{{"accept_ra", "0", "the host believes no router that a container claims to be"}, disable}
	for i := range all {
		all[i].path = filepath.Join("/proc/sys/net/ipv6/conf", n.BridgeName(), all[i].path)
	}
	return all
}

// sharedSettings are those of the host: it forwards, unless nothing leaves the network. One that forwards no longer learns its own
// routes from routers, unless accept_ra is 2 (Documentation/networking/ip-sysctl.rst): interfaces that do learn them must go on, or
// the host loses its network.
func sharedSettings(n Network) (all []setting, err error) {
	if n.Internal {
		return nil, nil
	}
	all = []setting{{"/proc/sys/net/ipv4/ip_forward", "1", forwards}}
	if _, ipv6 := n.subnet(false); !ipv6 {
		return all, nil
	}
	const conf = "/proc/sys/net/ipv6/conf"
	entries, err := os.ReadDir(conf)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		learns, err := readSetting(filepath.Join(conf, e.Name(), "accept_ra"))
		forwarding, err2 := readSetting(filepath.Join(conf, e.Name(), "forwarding"))
		if errors.Join(err, err2) != nil || learns != "1" || forwarding != "0" || hearsNoRouter(e.Name()) {
			continue
		}
		all = append(all, setting{filepath.Join(conf, e.Name(), "accept_ra"), "2", "a host that forwards learns its own routes from routers only so"})
	}
	return append(all, setting{filepath.Join(conf, "all/forwarding"), "1", forwards}), nil
}

// hearsNoRouter reports whether accept_ra means nothing for an interface: of all at once the kernel does not read it (ipv6_accept_ra of
// include/net/ipv6.h), and ports of our bridges have no addresses.
func hearsNoRouter(name string) bool {
	return name == "all" || name == "lo" || strings.HasPrefix(name, hostLinkPrefix) && len(name) == len(hostLinkPrefix)+hostLinkDigits
}

// localnet is what lets answers to the host's own 127.0.0.1 come in by the network's bridge, if a port is published there. The rules
// of the chain "early" keep others out.
func localnet(n Network, ports []Published) []setting {
	if n.Driver != DriverBridge || !onLoopback(ports, true) {
		return nil
	}
	return []setting{{filepath.Join("/proc/sys/net/ipv4/conf", n.BridgeName(), "route_localnet"), "1", "the port is reached by 127.0.0.1, and by this host only"}}
}

// onLoopback reports whether ports are published on the host's own loopback address of a family.
func onLoopback(ports []Published, ipv4 bool) bool {
	return slices.ContainsFunc(ports, func(p Published) bool {
		return p.HostIP.Is4() == ipv4 && (p.HostIP.IsUnspecified() || p.HostIP.IsLoopback())
	})
}

// localnet6 is localnet for ::1, where a route does what a setting does for IPv4. index is the bridge's.
func localnet6(n Network, ports []Published, index int) []netlink.Request {
	if n.Driver != DriverBridge || !onLoopback(ports, false) {
		return nil
	}
	return []netlink.Request{netlink.AddLoopbackRoute(index).Tolerate(unix.EEXIST)}
}

func readSetting(path string) (string, error) {
	data, err := disk.Read(path)
	return strings.TrimSpace(string(data)), err
}

func writeSetting(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}
