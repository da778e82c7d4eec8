package monitor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"berth/internal/network"

	"golang.org/x/sys/unix"
)

// reconnect takes the sockets again that a monitor before this one has held, and makes the interfaces again that are gone.
func (m *monitor) reconnect(pid int) error {
	if len(m.c.Config.Networks) == 0 {
		return nil
	}
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return err
	}
	defer ns.Close()
	store := m.networks()
	held, err := m.held()
	if err != nil {
		return err
	}
	for _, e := range held {
		if e, err = store.Restore(e, ns); err != nil {
			return fmt.Errorf("cannot connect the container to the network %s again: %w", e.Network, err)
		}
		m.net.endpoints = append(m.net.endpoints, e)
		ports, err := holdAgain(store, e.Ports)
		if err != nil {
			fmt.Fprintln(os.Stderr, err) // published all the same; somebody else has the port, too
			continue
		}
		m.net.ports = append(m.net.ports, ports...)
	}
	if err := m.open(ns); err != nil {
		return err
	}
	return m.serveNames(pid)
}

// open opens what a container, whose network namespace is ns, has besides its ports: the connection to the uplink, and the resolver's
// sockets.
func (m *monitor) open(ns *os.File) (err error) {
	if err = m.linkUp(&m.net); err == nil && Named(m.c.Config) {
		m.net.resolver, err = listenForNames(ns)
	}
	return err
}

// openInstead opens what a command that connected the container after its birth would have handed on, if it had not been killed.
func (m *monitor) openInstead(pid int) (err error) {
	if m.Home == nil || !m.c.Config.OwnNetwork() {
		return nil
	}
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it has ended already
	}
	if err != nil {
		return err
	}
	defer ns.Close()
	if m.net.endpoints, err = m.held(); err != nil {
		return err
	}
	return m.open(ns)
}

// holdAgain takes the ports that a monitor before this one has held. It may have been killed a moment ago, and not be done with its
// descriptors.
func holdAgain(store network.Store, ports []network.Published) (held []*os.File, err error) {
	for wait := time.Millisecond; ; wait *= 2 {
		if held, err = store.Hold(ports); !errors.Is(err, unix.EADDRINUSE) || wait > time.Second {
			return held, err
		}
		time.Sleep(wait)
	}
}
