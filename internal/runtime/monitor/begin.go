package monitor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"berth/internal/errdef"
	"berth/internal/runtime/cgroup"
	"berth/internal/runtime/lifecycle"
	"berth/internal/runtime/lsm"
	"berth/internal/state"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A container is started by the command, and looked after by a monitor that is executed meanwhile:
//
//	command                              the process that becomes the monitor     the container's first process
//	Assemble, pipes, control group
//	clone ------------------------------> clone ---------------------------------> namespaces, mounts
//	process.json                          execve: the monitor starts               waits
//	release --------------------------------------------------------------------> the rest, execve
//	FrameBegin -------------------------> takes over: log, clients, the end
//
// Whoever of them is killed: a container that is not yet written down in process.json ends by itself, since nobody lets it go on;
// one that is written down lives, and the monitor, or the next command's, looks after it.

// Launch is how a monitor is executed.
type Launch struct {
	// Program is the monitor's program, in which no container can write.
	Program *os.File
	// Args are its arguments but for the last one, which Begin adds; Env its environment.
	Args, Env []string
}

// Begin starts a container whose monitor's lock is o.Alive, and returns a connection to the monitor, which is for what request asks.
// On an error nothing runs, and what the container held is given back; its record says why.
func Begin(o Options, l Launch, request AttachRequest) (*Conn, error) {
	conn, born, err := begin(o, l, request)
	if err != nil && !born {
		r := state.Record{Status: state.Created, ExitCode: startExitCode(err), Error: err.Error()}
		err = errors.Join(err, settle(o, r))
		o.Alive.Unlock()
	}
	return conn, err
}

// begin is Begin without the putting right of failures; once the process is born, that is the monitor's.
func begin(o Options, l Launch, request AttachRequest) (_ *Conn, born bool, _ error) {
	if err := hide(); err != nil {
		return nil, false, err
	}
	if err := startSender(o, l.Env); err != nil {
		return nil, false, err
	}
	p, err := prepare(o, true)
	if err != nil {
		return nil, false, err
	}
	defer p.close()
	conn, b, err := launch(o, l, p)
	if err != nil {
		return nil, false, errors.Join(err, p.pending.Abandon())
	}
	word := BeginRequest{AttachRequest: request}
	word.Version = Version
	if err := p.connectLate(o, b.PID, true); err != nil {
		// The process waits for a word that does not come, and goes; the monitor clears away.
		p.pending.Close()
		f := failed(err)
		word.PID, word.Failed = b.PID, &f
		_ = conn.Send(FrameBegin, word)
		return nil, true, errors.Join(err, conn.AwaitEnd())
	}
	if err := o.note(b); err != nil {
		return nil, true, errors.Join(err, conn.Close())
	}
	left, err := b.Release()
	if err == nil && left != 0 {
		err = o.note(b) // it has split
	}
	word.PID, word.Left = b.PID, left
	if err != nil {
		f := failed(err)
		word.Failed = &f
		_ = conn.Send(FrameBegin, word) // if it has gone, the next command puts right what is left
		return nil, true, errors.Join(err, conn.AwaitEnd())
	}
	var fds []int
	if p.late {
		word.Networks, fds = p.net.hand()
	}
	err = conn.Send(FrameBegin, word, fds...)
	p.net.letGo()
	if err != nil {
		return nil, true, errors.Join(err, conn.Close())
	}
	return conn, true, nil
}

// note writes down where the container runs.
func (o Options) note(b *lifecycle.Born) error {
	if err := os.Remove(StopFile(o.Store, o.Container.ID)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	group, driver := b.Cgroup()
	return o.Store.SetProcess(o.Container.ID, state.Process{
		PID: b.PID, StartTime: state.StartTime(b.PID), Cgroup: group, CgroupDriver: string(driver), StartedAt: time.Now().UTC(), MonitorID: b.ParentPID,
	})
}

// pending is how a container is to be started: by this program (*lifecycle.Pending), or by another runtime (*lifecycle.ForeignPending).
type pending interface {
	// StartWhen starts it as a child of this process, and calls ready before its program runs.
	StartWhen(ready func(pid int) error) (*lifecycle.Running, error)
	// Joinable and Cgroup are what others need to know of it.
	Joinable() (namespaces uintptr, noSetgroups bool)
	Cgroup() (string, cgroup.Driver)
	// Abandon gives back what has been made for it, Close what is open here.
	Abandon() error
	Close()
}

// prepared is a container that is ready to be started.
type prepared struct {
	pending pending
	scope   *cgroup.Scope // nil unless systemd makes one
	pipes   pipes
	net     connection
	network *lifecycle.Network // its network namespace, if it is ours to let go of
	// late says that the container is connected to its networks when it is born: its network namespace is then made with it, since it
	// belongs to its user namespace.
	late     bool
	hostname string
	links    told
	owner    *os.File // the user namespace of the container whose network namespace this one shares, without root
	trees    []*os.File
	given    map[int]*os.File
	root     *os.File   // the mount of a container's root that a program serves
	joined   []*os.File // namespaces of other containers, and shared memory
}

// joinOwner has a container join the user namespace that owns the network namespace which it shares: from another one it would have
// no rights there.
func joinOwner(in *lifecycle.Input, shared *lifecycle.Network) (*os.File, error) {
	ns, err := shared.Wait()
	if err != nil {
		return nil, err
	}
	owner, err := ownerOf(ns)
	if err != nil {
		return nil, err
	}
	in.Network = nil
	joinPaths(in.Spec, descriptor(owner), descriptor(ns))
	return owner, nil
}

// joinPaths has a container join a user and a network namespace.
func joinPaths(s *specs.Spec, user, network string) {
	s.Linux.UIDMappings, s.Linux.GIDMappings = nil, nil
	for i, n := range s.Linux.Namespaces {
		switch n.Type {
		case specs.UserNamespace:
			s.Linux.Namespaces[i].Path = user
		case specs.NetworkNamespace:
			s.Linux.Namespaces[i].Path = network
		}
	}
}

// descriptor is the path of an open file, for a process that is a copy of this one.
func descriptor(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

// close closes all that is open of it here.
func (p *prepared) close() {
	if p.pending != nil {
		p.pending.Close()
	}
	if p.network != nil {
		p.network.Close()
	}
	for _, f := range append(append(p.trees, p.joined...), p.owner, p.root) {
		if f != nil {
			_ = f.Close()
		}
	}
	lifecycle.CloseGiven(p.given)
	p.pipes.close()
	p.net.close()
}

// prepare decides how the container is made, and makes what it is given: its place on networks, the files of /etc, its standard
// streams, its control group.
func prepare(o Options, await bool) (p prepared, err error) {
	defer func() {
		if err != nil {
			if p.scope != nil {
				// systemd keeps a scope around a process that has ended before it is in it.
				_, _ = p.scope.Wait()
			}
			if p.pending != nil {
				err = errors.Join(err, p.pending.Abandon())
			}
			p.close()
			err = errors.Join(err, o.release())
			p = prepared{}
		}
	}()
	layers, err := o.Layers()
	if err != nil {
		return p, err
	}
	c, h := o.Container, o.Host()
	in, err := Assemble(o.Store, c, h, layers, o.CgroupManager, o.CDIDirs)
	if err != nil {
		return p, err
	}
	if in.Driver == cgroup.Systemd {
		p.scope = cgroup.EnterScope(h, scopeInput(c, in.Spec.Linux.Resources)) // meanwhile, as the network is made
		in.Scope = p.scope
	}
	in.Network = o.Network
	p.late = c.Config.OwnNetwork() && in.Maps.UID != nil
	switch id, shares := c.Config.SharesNetwork(); {
	case shares:
		if p.network, err = sharedNetwork(o.Store, id); err != nil {
			return p, err
		}
		in.Network = p.network
		switch {
		case h.Rootless && sharesHost(o.Store, c):
			in.Network = nil
		case h.Rootless:
			if p.owner, err = joinOwner(&in, p.network); err != nil {
				return p, err
			}
		}
	case c.Config.OwnNetwork() && in.Network == nil && !p.late:
		p.network = lifecycle.MakeNetwork()
		in.Network = p.network
	}
	if h.Rootless {
		if err := checkJoin(c.Config); err != nil {
			return p, err
		}
	}
	if p.joined, err = join(o.Store, c, &in, p.owner); err != nil {
		return p, err
	}
	if p.links, err = tellOfLinks(o.Store, o.networks(), c); err != nil {
		return p, err
	}
	in.Spec.Process.Env = addEnv(in.Spec.Process.Env, p.links.env)
	if p.hostname, err = hostnameOf(c); err != nil {
		return p, err
	}
	if err := writeEtc(o.Store, c, p.hostname); err != nil {
		return p, err
	}
	if c.UIDMaps != nil {
		if p.trees, err = lifecycle.OpenTrees(in.Spec); err != nil {
			return p, err
		}
		in.Trees = p.trees
	}
	if p.given, err = lifecycle.OpenGiven(in.Spec); err != nil {
		return p, err
	}
	in.Given = p.given
	if in.Served {
		if p.scope != nil { // what serves is in it, then, as this process is
			if _, err := p.scope.Wait(); err != nil {
				return p, err
			}
		}
		if p.root, err = ServeRoot(o.Store, c, layers); err != nil {
			return p, err
		}
		in.Root = p.root
	}
	if err := p.net.reserve(o); err != nil {
		return p, err
	}
	if p.late {
		p.pipes, p.pending, err = prepareProcess(o, in, true)
		return p, err
	}
	// Meanwhile: most of both is the kernel's work.
	connected := make(chan error, 1)
	go func() { connected <- p.net.connectIn(o, in.Network, await) }()
	p.pipes, p.pending, err = prepareProcess(o, in, await)
	if err = errors.Join(<-connected, err); err != nil {
		return p, err
	}
	return p, p.writeHosts(o)
}

// connectLate connects the container whose first process is pid, if that was not possible before it was born. That one goes on as far
// as it can meanwhile.
func (p *prepared) connectLate(o Options, pid int, keep bool) error {
	if !p.late {
		return nil
	}
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return err
	}
	defer ns.Close()
	if err := p.net.connect(o, ns, keep); err != nil {
		return err
	}
	return p.writeHosts(o)
}

// writeHosts writes the container's hosts, with those of containers that it is linked to.
func (p *prepared) writeHosts(o Options) error {
	c := *o.Container
	c.Config.Hosts = slices.Concat(p.links.hosts, c.Config.Hosts)
	return writeHosts(o.Store, &c, p.hostname, &p.net)
}

// prepareProcess makes the container's standard streams, and all else that its first process needs.
func prepareProcess(o Options, in lifecycle.Input, await bool) (p pipes, _ pending, err error) {
	if profile := in.Spec.Process.ApparmorProfile; profile != "" {
		if err := lsm.Ensure(profile); err != nil {
			return p, nil, err
		}
	}
	if cfg := o.Container.Config; !cfg.TTY {
		owner := in.Spec.Process.User.UID
		if in.Maps.UID != nil {
			owner, _ = in.Maps.User(owner) // there is one: Assemble has looked
		}
		if p, err = makePipes(o.Store.RunDir(o.Container.ID), cfg.Interactive, int(owner)); err != nil {
			return p, nil, err
		}
	}
	in.Stdin, in.Stdout, in.Stderr = p.theirs[0], p.theirs[1], p.theirs[2]
	if f := o.foreign(); f != nil {
		pending, err := f.Prepare(in)
		if err != nil {
			return p, nil, err
		}
		return p, pending, nil
	}
	pending, err := lifecycle.Prepare(in, await)
	if err != nil {
		return p, nil, err
	}
	return p, pending, nil
}

// launch makes the two processes and the connection to the one that becomes the monitor.
func launch(o Options, l Launch, p prepared) (_ *Conn, _ *lifecycle.Born, err error) {
	own := p.pending.(*lifecycle.Pending) // other runtimes are the monitor's to call (Start)
	var open []int
	defer func() {
		for _, fd := range open {
			_ = unix.Close(fd)
		}
	}()
	null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, &os.PathError{Op: "open", Path: os.DevNull, Err: err}
	}
	open = append(open, null)
	journal, err := openJournal(o.Store.RunDir(o.Container.ID))
	if err != nil {
		return nil, nil, err
	}
	open = append(open, journal)
	listener, err := listen(o.Store.RunDir(o.Container.ID))
	if err != nil {
		return nil, nil, err
	}
	open = append(open, listener)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	open = append(open, pair[1])
	conn, err := FromFile(os.NewFile(uintptr(pair[0]), "monitor"))
	if err != nil {
		return nil, nil, err
	}
	home := -1
	if p.late {
		ns, err := o.Home.Namespace()
		if err != nil {
			return nil, nil, errors.Join(err, conn.Close())
		}
		home = raw(ns)
	}
	i := &Inherited{Uplink: -1}
	i.Namespaces, i.NoSetgroups = own.Joinable()
	files := []int{null, null, journal}
	for _, f := range []struct {
		number *int
		fd     int
	}{
		{&i.Alive, raw(o.Alive.File())},
		{&i.Listener, listener},
		{&i.Command, pair[1]},
		{&i.Console, own.Console()},
		{&i.In, raw(p.pipes.in)},
		{&i.Out, raw(p.pipes.end(0))},
		{&i.Err, raw(p.pipes.end(1))},
		{&i.Terminal, -1},
		{&i.Queries, raw(p.net.resolver.UDP)},
		{&i.TCPQueries, raw(p.net.resolver.TCP)},
		{&i.Home, home},
	} {
		if *f.number = -1; f.fd >= 0 {
			*f.number = len(files)
			files = append(files, f.fd)
		}
	}
	for _, f := range p.net.ports {
		i.Ports = append(i.Ports, len(files))
		files = append(files, raw(f))
	}
	for _, f := range p.net.kept {
		i.Kept = append(i.Kept, len(files))
		files = append(files, raw(f))
	}
	b, err := own.StartUnder(lifecycle.Parent{
		Program: l.Program, Args: append(l.Args, i.String()), Env: l.Env, Files: files,
	})
	if err != nil {
		return nil, nil, errors.Join(err, conn.Close())
	}
	return conn, b, nil
}

// raw is the descriptor of an open file, left as it is; -1 if there is none.
func raw(f syscall.Conn) int {
	n := -1
	if file, ok := f.(*os.File); ok && file == nil {
		return n
	}
	if c, err := f.SyscallConn(); err == nil {
		_ = c.Control(func(fd uintptr) { n = int(fd) })
	}
	return n
}

// openJournal opens the file in which a monitor says something of itself, at its worst a panic.
func openJournal(runDir string) (int, error) {
	path := filepath.Join(runDir, "monitor.log")
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_APPEND|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return fd, nil
}

// Journal makes this monitor's standard error the journal of its container.
func Journal(runDir string) error {
	fd, err := openJournal(runDir)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return os.NewSyscallError("dup3", unix.Dup3(fd, 2, 0))
}

// attend takes over a container that a command is just starting. When the command has gone without a word, what it has written down
// counts; a process that it has not written down has ended by itself.
func (m *monitor) attend(record *state.Record) (Ended, error) {
	conn := m.command
	first, err := Await(conn)
	var word BeginRequest
	if err == nil {
		err = unmarshal(first.payload, &word)
	}
	if err != nil {
		_ = conn.Close()
		p, err := m.Store.Process(m.c.ID)
		if err != nil {
			reapAll()
			return Ended{}, errdef.New(errdef.Unknown, "cannot start the container: the command that was starting it was killed")
		}
		m.doomed = m.c.Step != ""
		if err := m.openInstead(p.PID); err != nil {
			fmt.Fprintln(os.Stderr, err) // the container lives; monitor.log says what it lacks
		}
	} else {
		if err := m.takeNetworks(word.Networks, conn.Files()); err != nil {
			return Ended{}, err
		}
		if err := m.admit(&client{conn: conn, AttachRequest: word.AttachRequest}); err != nil {
			return Ended{}, err
		}
	}
	if word.Left != 0 {
		reap(word.Left)
	}
	if word.Failed != nil {
		reap(word.PID)
		return Ended{}, word.Failed.Err()
	}
	if m.console != nil {
		terminal, err := lifecycle.ReceiveConsole(m.console)
		_ = m.console.Close()
		m.console = nil
		if err != nil {
			return Ended{}, err
		}
		m.streams.begin(terminal)
	}
	pidfd, err := m.take(record)
	if err != nil {
		return Ended{}, err
	}
	if err := m.serveNames(m.process.PID); err != nil {
		_ = unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)
		m.goOn(pidfd)
		return Ended{}, err
	}
	m.recordRunning(*record)
	return m.goOn(pidfd), nil
}

// reap takes the status of a child of ours that ends by itself.
func reap(pid int) {
	for {
		if _, err := unix.Wait4(pid, nil, 0, nil); err != unix.EINTR {
			return
		}
	}
}

// reapAll waits for all children, which end by themselves.
func reapAll() {
	for {
		if _, err := unix.Wait4(-1, nil, 0, nil); err != nil && err != unix.EINTR {
			return
		}
	}
}
