package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"berth/internal/container"
	"berth/internal/errdef"
	"berth/internal/event"
	"berth/internal/network"
	"berth/internal/network/netlink"
	"berth/internal/runtime/monitor"
	"berth/internal/runtime/spec"
	"berth/internal/state"

	"golang.org/x/sys/unix"
)

// Networks are the networks of this instance.
func (e *Engine) Networks() network.Store {
	return monitor.Networks(e.Settings.DataRoot, e.Settings.RunRoot, e.home)
}

// checkNetworks finds the networks that a container names, and puts their own names in the place of IDs.
func (e *Engine) checkNetworks(c *state.Container) error {
	if !c.Config.OwnNetwork() {
		name, shares := c.Config.SharesNetwork()
		switch {
		case shares:
			return e.shareNetwork(c, name)
		case c.Config.Network == container.NetworkNone, c.Config.Network == container.NetworkHost:
			return nil
		}
		return errdef.New(errdef.Invalid, "the container names no network")
	}
	seen := map[string]bool{}
	for i := range c.Config.Networks {
		asked := &c.Config.Networks[i]
		n, err := e.Networks().Load(asked.Network)
		if errdef.Is(err, errdef.NotFound) {
			if hint := container.OtherMode(asked.Network); hint != "" {
				err = errdef.Hint(err, "%s", hint)
			}
		}
		if err != nil {
			return err
		}
		if n.ConfigOnly { // docker's words
			return errdef.New(errdef.Denied, "cannot create endpoint on configuration-only network")
		}
		if seen[n.Name] {
			return errdef.New(errdef.Invalid, "the network %s is named twice", n.Name)
		}
		seen[n.Name] = true
		asked.Network = n.Name
	}
	c.Config.Network = c.Config.Networks[0].Network
	return nil
}

// shareNetwork finds the container whose network namespace another one is to share, and gives that one its host name.
func (e *Engine) shareNetwork(c *state.Container, name string) error {
	other, err := e.Containers.Resolve(name)
	if err != nil {
		return err
	}
	c.Config.Network = container.ShareNetwork(other.ID)
	if c.Config.UTS != "host" {
		c.Config.Hostname = spec.Hostname(spec.Input{ID: other.ID, Config: other.Config})
		c.Config.Domainname = other.Config.Domainname
	}
	return nil
}

// findLinks finds the containers that another one is linked to.
func (e *Engine) findLinks(c *state.Container) error {
	c.Config.Links = slices.Clone(c.Config.Links)
	for i, l := range c.Config.Links {
		linked, err := e.Containers.Resolve(l.Container)
		if err != nil {
			return err
		}
		c.Config.Links[i].Container = linked.ID
	}
	return nil
}

// shareNamespaces finds the containers whose process and IPC namespaces another one is to share.
func (e *Engine) shareNamespaces(c *state.Container) error {
	for _, mode := range []*string{&c.Config.PID, &c.Config.IPC} {
		name, shares := container.Shares(*mode)
		if !shares {
			continue
		}
		other, err := e.Containers.Resolve(name)
		if err != nil {
			return err
		}
		if mode == &c.Config.IPC && other.Config.IPC != container.IPCShareable {
			err := errdef.New(errdef.Invalid, "can't join IPC of container %s: non-shareable IPC (hint: use IpcMode:shareable for the donor container)", other.ID)
			return errdef.Hint(err, "make that one with --ipc shareable")
		}
		*mode = container.Share(other.ID)
	}
	return nil
}

// CreateNetwork makes a network.
func (e *Engine) CreateNetwork(n network.Network) (network.Network, error) {
	return e.Networks().Create(n)
}

// PruneNetworks removes the networks that no container is on, but for those that every instance has and those that are to be kept.
// One that cannot be removed does not keep the others from being.
func (e *Engine) PruneNetworks(p *Pruning, keep func(network.Network) bool) (removed []string, errs error) {
	all, err := e.Networks().List()
	if err != nil {
		return nil, err
	}
	for _, n := range all {
		if network.BuiltIn(n.Name) || n.ConfigOnly || keep(n) {
			continue
		}
		held, err := e.Networks().Endpoints(n.Name)
		if err == nil && len(held) > 0 {
			continue
		}
		if err == nil && !p.Dry {
			err = e.Networks().Remove(n.Name)
		}
		switch {
		case err == nil:
			removed = append(removed, n.Name)
		case errdef.Is(err, errdef.NotFound), errdef.Is(err, errdef.Conflict): // somebody was quicker
		default:
			errs = errors.Join(errs, err)
		}
	}
	if !p.Dry {
		e.NotePrune(event.Network, 0)
	}
	return removed, errs
}

// Endpoints are what a container holds of its networks, in their order: nothing unless it runs.
func (e *Engine) Endpoints(c *state.Container) ([]network.Endpoint, error) {
	var all []network.Endpoint
	for _, asked := range c.Config.Networks {
		held, err := e.Networks().Endpoint(asked.Network, c.ID)
		switch {
		case errdef.Is(err, errdef.NotFound):
		case err != nil:
			return nil, err
		default:
			all = append(all, held)
		}
	}
	return all, nil
}

// Connect connects a container to one more network: at once if it runs, and at every start from then on.
// links are further names by which it finds containers.
func (e *Engine) Connect(ref string, asked container.Endpoint, links []container.Link) error {
	return e.changeNetworks(ref, asked.Network, func(c *state.Container, n network.Network, p state.Process) error {
		asked.Network = n.Name
		if err := checkConnect(c, n, asked, len(links)); err != nil {
			return err
		}
		for i, l := range links {
			linked, err := e.Containers.Resolve(l.Container)
			if err != nil {
				return err
			}
			links[i].Container = linked.ID
		}
		ns, err := p.Network()
		if err != nil {
			return err
		}
		var held network.Endpoint
		if ns != nil {
			defer ns.Close()
			if held, err = e.attach(c, asked, ns); err != nil {
				return fmt.Errorf("cannot connect container %s to the network %s: %w", c.Name, n.Name, err)
			}
		}
		now := c.Config
		now.Networks = append(slices.Clone(now.Networks), asked)
		now.Links = append(slices.Clone(now.Links), links...)
		if err := e.Containers.SetConfig(c, now); err != nil {
			return errors.Join(err, e.takeBack(held))
		}
		if ns != nil {
			if err := e.route(c, ns); err != nil {
				return errors.Join(err, e.announce(c, p))
			}
		}
		if err := e.announce(c, p); err != nil || runs(p) {
			return err
		}
		return e.takeBack(held) // it has ended meanwhile, and its monitor may not have seen what it got
	})
}

// takeBack gives back what has just been taken for a container, unless that has been started again since.
func (e *Engine) takeBack(held network.Endpoint) error {
	now, err := e.Networks().Endpoint(held.Network, held.Container)
	if errdef.Is(err, errdef.NotFound) || err == nil && now.HostLink != held.HostLink {
		return nil
	}
	if err != nil {
		return err
	}
	return e.Networks().Release(held.Network, held.Container, network.Disconnected)
}

// checkConnect refuses what docker refuses, in its words.
func checkConnect(c *state.Container, n network.Network, asked container.Endpoint, links int) error {
	_, shares := c.Config.SharesNetwork()
	switch {
	case n.ConfigOnly:
		return errdef.New(errdef.Denied, "cannot create endpoint on configuration-only network")
	case n.Driver == network.DriverHost:
		return errdef.New(errdef.Denied, "cannot connect container to host network - container must be created in host network mode")
	case n.Driver == network.DriverNull:
		return errdef.New(errdef.Denied, "container cannot be connected to multiple networks with one of the networks in private (none) mode")
	case c.Config.Network == container.NetworkHost || shares:
		return errdef.New(errdef.Denied, "container sharing network namespace with another container or host cannot be connected to any other network")
	case n.Name == container.NetworkBridge && links > 0:
		return errdef.New(errdef.Invalid, "links are only supported for user-defined networks: on the network bridge they are made when the container is (--link of run)")
	case n.Name == container.NetworkBridge && len(asked.Aliases) > 0:
		return errdef.New(errdef.Invalid, "network-scoped aliases are only supported for user-defined networks")
	case on(c, n.Name):
		return errdef.New(errdef.Conflict, "endpoint with name %s already exists in network %s", c.Name, n.Name)
	}
	return nil
}

func on(c *state.Container, name string) bool {
	return slices.ContainsFunc(c.Config.Networks, func(asked container.Endpoint) bool { return asked.Network == name })
}

// attach connects a running container, by its network namespace.
func (e *Engine) attach(c *state.Container, asked container.Endpoint, ns *os.File) (network.Endpoint, error) {
	r, err := monitor.EndpointRequest(c, asked)
	if err != nil {
		return network.Endpoint{}, err
	}
	routed, err := hasDefaultRoute(ns)
	if err != nil {
		return network.Endpoint{}, err
	}
	r.DefaultRoute = !routed
	n, err := e.Networks().Load(asked.Network)
	if err != nil {
		return network.Endpoint{}, err
	}
	if len(c.Config.Networks) == 0 { // its published ports are on the first of its networks
		var sockets []*os.File
		if r.Ports, sockets, err = e.Networks().Reserve(n, c.Name, monitor.PortRequests(c.Config)); err != nil {
			return network.Endpoint{}, err
		}
		for _, f := range sockets {
			defer f.Close() // then the monitor holds them
		}
	}
	held, changes, err := e.Networks().Attach(n.Name, r, ns)
	for _, c := range changes {
		if e.Notice != nil {
			e.Notice(c.String())
		}
	}
	if err == nil {
		monitor.TellOfFirewall(e.Notice, e.Networks(), n, held)
	}
	return held, err
}

// hasDefaultRoute reports whether something leaves the networks of a namespace.
func hasDefaultRoute(ns *os.File) (bool, error) {
	conn, err := netlink.OpenIn(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	routes, err := conn.Routes()
	return slices.ContainsFunc(routes, func(r netlink.Route) bool { return r.To.Bits() == 0 }), err
}

// removeInside removes an interface of a running container that has no other side by which it could be removed.
func removeInside(gone network.Endpoint, ns *os.File) error {
	if gone.Interface == "" || gone.HostLink != "" {
		return nil
	}
	conn, err := netlink.OpenIn(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	return errors.Join(conn.Do(netlink.DeleteLink(gone.Interface).Tolerate(unix.ENODEV)), conn.Close())
}

// bequeath gives what the network had that a running container has just left to the next one in its list, as at a start: the way
// out, and the published ports, which the monitor holds on.
func (e *Engine) bequeath(c *state.Container, gone network.Endpoint, ns *os.File) error {
	held, err := e.Endpoints(c)
	if err != nil || len(held) == 0 {
		return err
	}
	if len(gone.Ports) > 0 {
		if err := e.Networks().SetPorts(held[0].Network, c.ID, gone.Ports); err != nil {
			return err
		}
	}
	return e.route(c, ns)
}

// route makes a running container leave its networks by the one that it is to leave them by.
func (e *Engine) route(c *state.Container, ns *os.File) error {
	held, err := e.Endpoints(c)
	if err != nil {
		return err
	}
	var leading []string
	for _, h := range held {
		if !h.Internal {
			leading = append(leading, h.Network)
		}
	}
	return e.Networks().LeaveBy(held, monitor.WayOut(c.Config.Networks, leading), ns)
}

// Disconnect takes a container off a network. With force that is done, too, when only one of the two is there.
func (e *Engine) Disconnect(ref, name string, force bool) error {
	if force {
		if gone, err := e.forget(ref, name); gone || err != nil {
			return err
		}
	}
	return e.changeNetworks(ref, name, func(c *state.Container, n network.Network, p state.Process) error {
		if c.Config.Network == container.NetworkHost && n.Driver == network.DriverHost {
			return errdef.New(errdef.Denied, "cannot disconnect container from host network - container was created in host network mode")
		}
		gone, err := e.Networks().Endpoint(n.Name, c.ID)
		switch {
		case errdef.Is(err, errdef.NotFound) && !on(c, n.Name):
			return errdef.New(errdef.NotFound, "container %s is not connected to network %s", c.Name, n.Name)
		case err != nil && !errdef.Is(err, errdef.NotFound):
			return err
		}
		ns, err := p.Network()
		if err != nil {
			return err
		}
		if ns != nil {
			defer ns.Close()
			if err := removeInside(gone, ns); err != nil {
				return err
			}
		}
		if err := e.Networks().Release(n.Name, c.ID, network.Disconnected); err != nil {
			return err
		}
		rest := slices.DeleteFunc(slices.Clone(c.Config.Networks), func(asked container.Endpoint) bool { return asked.Network == n.Name })
		if err := e.Containers.SetNetworks(c, rest); err != nil {
			return err
		}
		if ns != nil {
			if err := e.bequeath(c, gone, ns); err != nil {
				return errors.Join(err, e.announce(c, p))
			}
		}
		return e.announce(c, p)
	})
}

// forget gives back what a container that is no more has left on a network. It reports whether there was something.
func (e *Engine) forget(ref, name string) (bool, error) {
	if _, err := e.Containers.Resolve(ref); !errdef.Is(err, errdef.NotFound) {
		return false, err
	}
	n, err := e.Networks().Load(name)
	if err != nil {
		return false, err
	}
	all, err := e.Networks().Endpoints(n.Name)
	if err != nil {
		return false, err
	}
	for _, held := range all {
		if held.Name == ref || held.Container == ref {
			return true, e.Networks().Release(n.Name, held.Container, network.Disconnected)
		}
	}
	return false, nil
}

// changeNetworks calls change with a container that nobody else changes meanwhile, a network, and where the container runs; the zero
// value says that it does not.
func (e *Engine) changeNetworks(ref, name string, change func(*state.Container, network.Network, state.Process) error) error {
	found, err := e.Containers.Resolve(ref)
	if err != nil {
		return err
	}
	n, err := e.Networks().Load(name)
	if err != nil {
		return err
	}
	l, err := e.lock(found.ID)
	if err != nil {
		return err
	}
	defer l.Unlock()
	if err := e.settleLocked(found); err != nil {
		return err
	}
	c, err := e.Containers.Load(found.ID) // as it is under the lock
	if err != nil {
		return err
	}
	p, err := e.Containers.Process(c.ID)
	if errors.Is(err, fs.ErrNotExist) {
		p, err = state.Process{}, nil
	}
	if err != nil {
		return err
	}
	return change(c, n, p)
}

// runs reports whether a container's first process is alive.
func runs(p state.Process) bool {
	pidfd := p.Open()
	if pidfd < 0 {
		return false
	}
	_ = unix.Close(pidfd)
	return true
}

// announce tells the monitor of a container that its networks are others, if it runs.
func (e *Engine) announce(c *state.Container, p state.Process) error {
	if !runs(p) {
		return nil
	}
	conn, err := monitor.Dial(e.Containers.RunDir(c.ID))
	if err == nil {
		err = errors.Join(conn.Send(monitor.FrameNetworks, nil), e.awaitWord(conn))
	}
	if err != nil && runs(p) {
		return fmt.Errorf("cannot tell the monitor of container %s of its networks: %w", c.Name, err)
	}
	return nil
}

// awaitWord waits until the monitor has done what it was asked for and closes the connection.
func (e *Engine) awaitWord(conn *monitor.Conn) error {
	defer conn.Close()
	for {
		kind, payload, err := conn.Receive()
		if err != nil {
			return nil // closed: done
		}
		if kind == monitor.FrameFailed {
			return failure(e.Settings, payload)
		}
	}
}

// sweepNetworks gives back what containers have left on networks that are no more, or do not run.
func (e *Engine) sweepNetworks() error {
	if _, err := os.Stat(e.Settings.RunRoot + "/networks"); err != nil {
		return nil //nolint:nilerr // no container has been on a network since the boot
	}
	_, err := e.Networks().Sweep(func(id string) (string, bool) {
		c, err := e.Containers.Load(id)
		if err != nil {
			return "", e.Containers.Monitored(id)
		}
		_, err = os.Stat(e.Containers.RunDir(id))
		return c.Name, err == nil
	})
	return err
}

// settlePorts puts right what a container of which nobody takes care has of its published ports: it is adopted if it runs, and what it
// held is given back if not.
func (e *Engine) settlePorts(id string) error {
	c, err := e.Containers.Load(id)
	if err == nil {
		_, _, err = e.Status(c)
	}
	if errdef.Is(err, errdef.NotFound) {
		return e.Networks().ReleaseAll(id, network.Ended)
	}
	if err != nil || e.Containers.Monitored(id) {
		return err
	}
	return e.Networks().ReleaseAll(id, network.Ended)
}
