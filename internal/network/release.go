package network

import (
	"errors"
	"io/fs"
	"os"
	"time"

	"berth/internal/errdef"
	"berth/internal/network/netlink"

	"golang.org/x/sys/unix"
)

// Lingering is how long a connection to nftables stays open after its use. The end of one waits until the kernel has freed what
// anybody has deleted, some 8 ms, and holds up every other change of nftables meanwhile (nft_rcv_nl_event of
// net/netfilter/nf_tables_api.c); a moment later there is nothing to wait for. A process that has given published ports back, and
// for whose end nobody waits, does well to live that long.
const Lingering = 100 * time.Millisecond

// leave gives back what the container holds in the network, if it holds something.
func (s Store) leave(k kernel, network, container string, why Leaving) error {
	old, err := s.Endpoint(network, container)
	if errdef.Is(err, errdef.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return s.release(k, old, why)
}

// Leaving says why a container leaves a network.
type Leaving bool

const (
	// Disconnected: the container runs on. Its interface is removed, which takes some 25 ms.
	Disconnected Leaving = false
	// Ended: the container's processes are gone, and its interface goes with its network namespace. The port of the bridge is
	// closed at once; should something else keep the namespace, RemoveLinks removes the interface.
	Ended Leaving = true
)

// RemoveLinks removes the interfaces of endpoints that were released as Ended, where they are still there a moment later: a container
// that shares the network namespace keeps it, and so does a TCP connection that waits for its last acknowledgement. Their names are
// nobody else's.
func (s Store) RemoveLinks(ended []Endpoint) error {
	c, err := s.openRoutes()
	if err != nil {
		return err
	}
	var errs error
	for _, e := range ended {
		if e.HostLink != "" {
			errs = errors.Join(errs, c.Do(netlink.DeleteLink(e.HostLink).Tolerate(unix.ENODEV)))
		}
	}
	return errors.Join(errs, c.Close())
}

// Release gives back all that a container holds in a network, from its record alone. It may be repeated, and holding nothing is
// no error.
func (s Store) Release(network, container string, why Leaving) error {
	e, err := s.Endpoint(network, container)
	if errdef.Is(err, errdef.NotFound) {
		return nil
	}
	l, err := s.lock()
	if err != nil {
		return err
	}
	defer l.Unlock()
	k, err := s.connect()
	if err != nil {
		return err
	}
	defer k.close()
	if err := s.leave(k, network, container, why); err != nil {
		return err
	}
	s.noteEndpoint(e, "disconnect")
	return nil
}

// ReleaseAll is Release for every network.
func (s Store) ReleaseAll(container string, why Leaving) error {
	names, err := s.usedNetworks()
	if err != nil {
		return err
	}
	var errs error
	for _, name := range names {
		errs = errors.Join(errs, s.Release(name, container, why))
	}
	return errs
}

// release gives back, in the order that package's comment says. The record goes last, and only if all else is gone.
func (s Store) release(k kernel, e Endpoint, why Leaving) error {
	errs := s.unpublish(k, e, e.Ports)
	switch {
	case e.HostLink == "": // macvlan: the interface is in the container only
	case why == Ended:
		errs = errors.Join(errs, k.host.Do(netlink.DisablePort(e.HostLink).Tolerate(unix.ENODEV, unix.EINVAL)))
	default:
		errs = errors.Join(errs, k.host.Do(netlink.DeleteLink(e.HostLink).Tolerate(unix.ENODEV)))
	}
	if err := errors.Join(errs, s.giveLeases(e)); err != nil {
		return err
	}
	if err := os.Remove(s.endpointFile(e.Network, e.Container)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
