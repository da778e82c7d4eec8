package runtimecli

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"berth/internal/errdef"
	"berth/internal/network/netlink"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// checkDevices refuses network devices that cannot be moved (config-linux.md, "Network Devices").
func checkDevices(linux *specs.Linux) error {
	if len(linux.NetDevices) == 0 {
		return nil
	}
	if !slices.ContainsFunc(linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.NetworkNamespace }) {
		return errdef.New(errdef.Invalid, "unable to move network devices without a NET namespace of the container's own")
	}
	for name, d := range linux.NetDevices {
		for _, n := range []string{name, d.Name} {
			if n == "." || n == ".." || len(n) > netlink.NameBytes || strings.ContainsAny(n, "/: \t\n") || name == "" {
				return errdef.New(errdef.Invalid, "%q in linux.netDevices cannot be the name of a network device", n)
			}
		}
	}
	return nil
}

// moveDevices moves network devices of ours into the namespace of a process that has made it, with their permanent addresses, and switches
// them on.
func moveDevices(devices map[string]specs.LinuxNetDevice, pid int) error {
	if len(devices) == 0 {
		return nil
	}
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return err
	}
	defer ns.Close()
	if err := notOurs(ns); err != nil {
		return err
	}
	here, err := netlink.Open(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer here.Close()
	there, err := netlink.OpenIn(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer there.Close()
	addresses, err := here.Addresses()
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(devices)) {
		if err := moveDevice(here, there, ns, name, devices[name].Name, addresses); err != nil {
			return errdef.New(errdef.Invalid, "cannot give the container the network device %s: %w", name, err)
		}
	}
	return nil
}

// notOurs refuses our own namespace: this thread's, since the thread that made the container's has stayed there.
func notOurs(ns *os.File) error {
	var theirs, ours unix.Stat_t
	if err := errors.Join(unix.Fstat(int(ns.Fd()), &theirs), unix.Stat("/proc/thread-self/ns/net", &ours)); err != nil {
		return err
	}
	if theirs.Ino == ours.Ino && theirs.Dev == ours.Dev {
		return errdef.New(errdef.Invalid, "linux.netDevices cannot be moved: the container's network namespace is the runtime's")
	}
	return nil
}

func moveDevice(here, there *netlink.Conn, ns *os.File, name, as string, addresses []netlink.Address) error {
	if as == "" {
		as = name
	}
	link, err := here.LinkByName(name)
	if err != nil {
		return err
	}
	if !strings.Contains(as, "%d") {
		if _, err := there.LinkByName(as); !errdef.Is(err, errdef.NotFound) {
			return errors.Join(err, fmt.Errorf("there is a device %s in the container's network namespace already", as))
		}
	}
	before, err := there.Links()
	if err != nil {
		return err
	}
	if err := here.Do(netlink.Move(link.Index, ns, as)); err != nil {
		return err
	}
	after, err := there.Links()
	if err != nil {
		return err
	}
	for _, l := range after {
		if slices.ContainsFunc(before, func(b netlink.Link) bool { return b.Index == l.Index }) {
			continue
		}
		var give []netlink.Request
		for _, a := range addresses {
			if a.Index == link.Index && a.Global && a.Permanent {
				give = append(give, netlink.AddAddress(l.Index, a.Prefix))
			}
		}
		return there.Do(append(give, netlink.SetUp(l.Name))...)
	}
	return errors.New("it is not there when it has been moved")
}
