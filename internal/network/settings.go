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
	data, err := os.ReadFile(s.changesFile())
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

// change writes a setting if it has another value, and writes down before what it was: of one that was changed before, what it was
// at first. changed is false if it had the value. The caller holds the lock.
func (s Store) change(path, value, why string) (c Change, changed bool, err error) {
	old, err := readSetting(path)
	if err != nil || old == value {
		return c, false, err
	}
	if s.Home != nil { // where nothing but berth's own is: nobody else's business
		return c, false, writeSetting(path, value)
	}
	c = Change{Name: sysctlName(path), Old: old, New: value, Why: why}
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
	if err := writeSetting(path, value); err != nil {
		return c, false, errdef.Hint(err, "sysctl -w %s=%s, as the host's root", c.Name, value)
	}
	return c, true, nil
}

// forwards is what forwarding is for, and what else it does.
const forwards = "containers reach other hosts through this one, which forwards between its other interfaces, too"

// hostSettings are what the kernel must do for a network: not listen to routers on its bridge, and forward, unless nothing leaves
// the network. What is changed beyond the bridge is returned.
func (s Store) hostSettings(n Network, bridge string) (changes []Change, err error) {
	_, ipv6 := n.subnet(false)
	own := map[string]string{"accept_ra": "0", "disable_ipv6": "1"}
	if ipv6 {
		own["disable_ipv6"] = "0"
	}
	for name, value := range own {
		err := writeSetting(filepath.Join("/proc/sys/net/ipv6/conf", bridge, name), value)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	if n.Internal {
		return nil, nil
	}
	set := func(path, value, why string) error {
		c, changed, err := s.change(path, value, why)
		if changed {
			changes = append(changes, c)
		}
		return err
	}
	if err := set("/proc/sys/net/ipv4/ip_forward", "1", forwards); err != nil || !ipv6 {
		return changes, err
	}
	return changes, forwardIPv6(set)
}

// forwardIPv6 turns forwarding on. A host that forwards no longer learns its own routes from routers, unless accept_ra is 2
// (Documentation/networking/ip-sysctl.rst): interfaces that do learn them must go on, or the host loses its network.
func forwardIPv6(set func(path, value, why string) error) error {
	const conf = "/proc/sys/net/ipv6/conf"
	entries, err := os.ReadDir(conf)
	if err != nil {
		return err
	}
	for _, e := range entries {
		learns, err := readSetting(filepath.Join(conf, e.Name(), "accept_ra"))
		forwarding, err2 := readSetting(filepath.Join(conf, e.Name(), "forwarding"))
		if errors.Join(err, err2) != nil || learns != "1" || forwarding != "0" || e.Name() == "all" || e.Name() == "lo" {
			continue // of all interfaces at once the kernel does not read accept_ra (ipv6_accept_ra of include/net/ipv6.h)
		}
		if err := set(filepath.Join(conf, e.Name(), "accept_ra"), "2", "a host that forwards learns its own routes from routers only so"); err != nil {
			return err
		}
	}
	return set(filepath.Join(conf, "all/forwarding"), "1", forwards)
}

// localnet lets answers to the host's own 127.0.0.1 come in by the network's bridge, if a port is published there. The rules of the
// chain "early" keep others out.
func localnet(n Network, ports []Published) error {
	if n.Driver != DriverBridge {
		return nil
	}
	for _, p := range ports {
		if p.HostIP.Is4() && (p.HostIP.IsUnspecified() || p.HostIP.IsLoopback()) {
			return writeSetting(filepath.Join("/proc/sys/net/ipv4/conf", n.BridgeName(), "route_localnet"), "1")
		}
	}
	return nil
}

func readSetting(path string) (string, error) {
	data, err := os.ReadFile(path)
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
