// Package runtimecli is the front for those who bring an OCI bundle instead of an image, and for the engines that drive a
// runtime by its command line: runc's commands, by runtime/lifecycle, with a directory of states of its own (Store).
//
// It has no images, names, logs or monitor: whoever calls it waits for the containers that it makes. How the command line is read is
// cli's.
package runtimecli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/host"
	"berth/internal/runtime/cgroup"
	"berth/internal/runtime/lifecycle"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Options are those of create, run and exec.
type Options struct {
	ID      string
	Dir     string // of the bundle; empty is the working directory
	Config  string // the path of its config.json, where that is elsewhere
	PidFile string
	// PidfdSocket is the path of a socket that takes a pidfd of the process.
	PidfdSocket string
	// ConsoleSocket is the path of a socket that takes the first side of the process's terminal.
	ConsoleSocket string
	PreserveFDs   int
	NoKeyring     bool
	Detach        bool
	Keep          bool // the state, when run has ended
	// ListenFDs is how many descriptors from 3 on are a service manager's sockets, before those of PreserveFDs; NotifySocket is where it
	// waits to hear that the container is ready, or empty.
	ListenFDs    int
	NotifySocket string
	// Terminal is used for a process with a terminal: its size to begin with, zero if there is none, and what connects its
	// console with ours. The returned function waits for the end of its output and lets go.
	Rows, Columns uint16
	Connect       func(console *os.File) (disconnect func(), err error)
}

// Create makes the container of a bundle, up to the execve of its process.
func (s Store) Create(o Options) error {
	if o.ConsoleSocket != "" {
		o.Detach = true
	}
	r, err := s.make(o, true)
	if err != nil {
		return err
	}
	return unix.Close(r.PIDFD)
}

// Run runs the container of a bundle with our own standard input, output and error, and returns its exit status; with Detach it returns
// when the container runs.
func (s Store) Run(o Options) (int, error) {
	r, err := s.make(o, false)
	if err != nil {
		return 0, err
	}
	defer unix.Close(r.PIDFD)
	o.ConsoleSocket, o.PidFile, o.PidfdSocket = "", "", "" // they have had it
	status, err := o.attend(r)
	if err != nil {
		return 0, errors.Join(err, s.Delete(o.ID, true))
	}
	if !o.Detach && !o.Keep {
		err = s.Delete(o.ID, true)
	}
	return status, err
}

func exitStatus(ws unix.WaitStatus) int {
	if ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return ws.ExitStatus()
}

// make makes a container; its process then waits at its gate, if only that was asked for, or has executed its program. On an error
// nothing is left.
func (s Store) make(o Options, create bool) (_ *lifecycle.Running, err error) {
	b, err := s.open(o, create)
	if err != nil {
		return nil, err
	}
	if err := o.checkPreserved(); err != nil {
		return nil, err
	}
	hooks := b.in.Spec.Hooks
	gated := create || hooks != nil && len(hooks.StartContainer) > 0 || listens(b.in.Spec.Linux.Seccomp)
	if err := checkTerminal(b.in.Spec.Process.Terminal, create || o.Detach, o.ConsoleSocket); err != nil {
		return nil, err
	}
	if p := b.in.Spec.Process; p.Terminal && o.Rows > 0 && p.ConsoleSize == nil {
		p.ConsoleSize = &specs.Box{Height: uint(o.Rows), Width: uint(o.Columns)}
	}
	h, err := s.reserve(o.ID)
	if err != nil {
		return nil, err
	}
	defer h.lock.Unlock()
	defer func() {
		if err != nil {
			err = errors.Join(err, h.forget())
		}
	}()
	if err := disk.Replace(filepath.Join(h.dir, configFile), b.config, 0o600, disk.Volatile); err != nil {
		return nil, err
	}
	if err := o.serve(b.in.Spec, h.dir); err != nil {
		return nil, err
	}
	b.in.PreserveFDs, b.in.NoKeyring = o.ListenFDs+o.PreserveFDs, o.NoKeyring
	b.in.Tell = len(all(hooks)) > 0 || len(b.in.Spec.Linux.NetDevices) > 0
	var waits *gate
	defer func() { waits.close() }()
	if gated {
		if waits, err = makeGate(h.dir); err != nil {
			return nil, err
		}
		b.in.Gate = &waits.Gate
	}
	if err := b.groupIsFree(); err != nil {
		return nil, err
	}
	if b.scopeInput != nil {
		b.in.Scope = cgroup.EnterScope(b.in.Host, *b.scopeInput)
	}
	if b.in.Given, err = lifecycle.OpenGiven(b.in.Spec); err != nil {
		return nil, err
	}
	defer lifecycle.CloseGiven(b.in.Given)
	giveStreams(b.in.Spec.Process, b.in.Spec.Linux.UIDMappings)
	p, err := lifecycle.Prepare(b.in, true)
	if err != nil {
		return nil, err
	}
	h.record = record{
		Version: SpecVersion, ID: o.ID, Bundle: b.dir, Rootfs: b.in.Spec.Root.Path, Created: time.Now().UTC(), UID: os.Getuid(),
		Annotations: b.in.Spec.Annotations, Ready: !gated,
	}
	h.Cgroup, h.Driver = p.Cgroup()
	h.Namespaces, h.NoSetgroups = p.Joinable()
	if gated {
		h.First, h.Steps = p.Steps()
	}
	var ready *readiness
	if !create {
		if ready, err = h.listenReadiness(o.NotifySocket); err != nil {
			return nil, errors.Join(err, p.Abandon())
		}
	}
	r, err := p.StartWhen(func(pid int) error { return h.born(b.in.Spec, pid) })
	if err != nil {
		ready.close()
		if h.PID != 0 {
			h.poststop(s, hooks)
		}
		return nil, err
	}
	waits.close()
	waits = nil
	err = h.announce(o, r, gated)
	if err == nil {
		err = tellListener(b.in.Spec.Linux.Seccomp, r, h.state(creating))
	}
	if err == nil && !create {
		if gated {
			err = h.start(b.in.Spec)
		}
		if err == nil {
			err = h.poststart(hooks)
		}
		if err == nil {
			if ready != nil {
				h.lock.Unlock() // nobody else need wait until it is ready
			}
			err = s.ready(ready, r, h.Begun, o.Detach)
		} else {
			ready.close()
		}
	}
	if err != nil {
		_ = unix.PidfdSendSignal(r.PIDFD, unix.SIGKILL, nil, 0)
		_, failed := wait(r.PID)
		return nil, errors.Join(err, failed, unix.Close(r.PIDFD), h.end(s, hooks))
	}
	return r, nil
}

// born writes a new process down, gives it network devices, and runs the hooks for which it waits.
func (h *held) born(c *specs.Spec, pid int) (err error) {
	h.PID = pid
	if h.Begun, err = startOf(pid); err != nil {
		return err
	}
	if err := h.save(); err != nil {
		return err
	}
	if err := moveDevices(c.Linux.NetDevices, pid); err != nil {
		return err
	}
	hooks := c.Hooks
	if hooks == nil {
		return nil
	}
	state := h.state(creating)
	if err := runHooks("prestart", prestart(hooks), state, nil); err != nil {
		return err
	}
	if err := runHooks("createRuntime", hooks.CreateRuntime, state, nil); err != nil {
		return err
	}
	return h.inside("createContainer", hooks.CreateContainer, state, nil)
}

// inside runs hooks in the container's namespaces: with all rights that there are in them, or, with a spec, with those of its process.
func (h *held) inside(name string, hooks []specs.Hook, state State, as *specs.Spec) error {
	if len(hooks) == 0 {
		return nil
	}
	pidfd, err := unix.PidfdOpen(h.PID, 0)
	if err != nil {
		return errNotRunning
	}
	defer unix.Close(pidfd)
	if as != nil {
		completeEnv(as.Process, func() []byte { return passwdInside(h.PID) })
	}
	return runHooks(name, hooks, state, &joint{host: host.Probe(), id: h.ID, pidfd: pidfd, namespaces: h.Namespaces, noSetgroups: h.NoSetgroups, as: as})
}

// announce tells of a process that is there: to whoever waits for its terminal, in its pid file, and in the state.
func (h *held) announce(o Options, r *lifecycle.Running, gated bool) error {
	// The process that is there now may not be the one that was born first: it has entered a pid namespace.
	changed := h.PID != r.PID || gated
	h.PID, h.Ready = r.PID, true
	if changed {
		var err error
		if h.Begun, err = startOf(r.PID); err != nil {
			return err
		}
		if err := h.save(); err != nil {
			return err
		}
	}
	if o.ConsoleSocket != "" {
		if err := sendConsole(o.ConsoleSocket, r.Console); err != nil {
			return err
		}
		r.Console = nil
	}
	return o.tell(r)
}

// tell says which process it is: in the pid file, and over the socket that takes its pidfd.
func (o Options) tell(r *lifecycle.Running) error {
	if o.PidfdSocket != "" {
		if err := sendOver(o.PidfdSocket, "pidfd socket", "pidfd", r.PIDFD); err != nil {
			return err
		}
	}
	if o.PidFile == "" {
		return nil
	}
	return disk.OutputBytes(o.PidFile, []byte(strconv.Itoa(r.PID)), 0o644)
}

// checkPreserved refuses to preserve descriptors that the caller has not handed to us: those of their numbers are our own.
func (o Options) checkPreserved() error {
	for i := range o.PreserveFDs {
		flags, err := unix.FcntlInt(uintptr(3+o.ListenFDs+i), unix.F_GETFD, 0)
		if err != nil || flags&unix.FD_CLOEXEC != 0 {
			return errdef.New(errdef.Invalid, "please check that preserved-fd %d (of %d) is present: the caller has not opened the descriptor %d", i, o.PreserveFDs, 3+o.ListenFDs+i)
		}
	}
	return nil
}

// checkTerminal refuses a terminal that nobody would have, and a socket for none.
func checkTerminal(terminal, detached bool, socket string) error {
	switch {
	case terminal && detached && socket == "":
		return errdef.New(errdef.Invalid, "cannot allocate a terminal for a process that is left alone without a console socket (--console-socket)")
	case !terminal && socket != "":
		return errdef.New(errdef.Invalid, "a console socket is of no use: the process has no terminal")
	}
	return nil
}

// sendConsole sends the first side of a terminal over a socket, and closes it here.
func sendConsole(path string, console *os.File) error {
	defer console.Close()
	return sendOver(path, "console socket", "/dev/ptmx", int(console.Fd()))
}

// sendOver sends a descriptor over a socket.
func sendOver(path, what, message string, fd int) error {
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(s)
	if err := unix.Connect(s, &unix.SockaddrUnix{Name: path}); err != nil {
		return fmt.Errorf("cannot connect to the %s: %w", what, &os.PathError{Op: "connect", Path: path, Err: err})
	}
	return os.NewSyscallError("sendmsg", unix.Sendmsg(s, []byte(message), unix.UnixRights(fd), nil, 0))
}

// gate is a lifecycle.Gate that was opened here.
type gate struct{ lifecycle.Gate }

func makeGate(dir string) (*gate, error) {
	g := &gate{}
	for _, f := range []struct {
		name string
		file **os.File
	}{{startFIFO, &g.Start}, {reportFIFO, &g.Report}} {
		path := filepath.Join(dir, f.name)
		if err := unix.Mkfifo(path, 0o600); err != nil {
			g.close()
			return nil, &os.PathError{Op: "mkfifo", Path: path, Err: err}
		}
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			g.close()
			return nil, &os.PathError{Op: "open", Path: path, Err: err}
		}
		*f.file = os.NewFile(uintptr(fd), path)
	}
	return g, nil
}

func (g *gate) close() {
	if g == nil {
		return
	}
	for _, f := range []*os.File{g.Start, g.Report} {
		if f != nil {
			_ = f.Close()
		}
	}
}

// openGate opens the gate at which a process waits, for PassGate. What it reports then ends when the process has gone on.
func openGate(dir string) (_ *gate, err error) {
	path := filepath.Join(dir, startFIFO)
	to, err := unix.Open(path, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		if err == unix.ENXIO {
			return nil, errNotRunning
		}
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	g := &gate{lifecycle.Gate{Start: os.NewFile(uintptr(to), path)}}
	path = filepath.Join(dir, reportFIFO)
	from, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		g.close()
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	g.Report = os.NewFile(uintptr(from), path)
	return g, nil
}

// Start lets a created container's process go on. With a socket of a service manager it returns when the container has said that it is ready.
func (s Store) Start(id, notifySocket string) error {
	h, err := s.take(id)
	if err != nil {
		return err
	}
	defer h.lock.Unlock()
	if err := startable(s.status(h.record)); err != nil {
		return err
	}
	c, err := s.config(id)
	if err != nil {
		return err
	}
	if c.Process == nil {
		return errdef.New(errdef.Invalid, "cannot start the container: its config.json has no process")
	}
	ready, err := h.listenReadiness(notifySocket)
	if err != nil {
		return err
	}
	if err := h.start(c); err != nil {
		ready.close()
		return err
	}
	if err := h.poststart(c.Hooks); err != nil {
		ready.close()
		return errors.Join(err, h.kill())
	}
	h.lock.Unlock() // nobody else need wait until it is ready
	return ready.wait(func() bool { return h.alive() }, h.PID)
}

// startable refuses to start what is not waiting for that, in words that engines look for.
func startable(status string) error {
	switch status {
	case created:
		return nil
	case running:
		return errdef.New(errdef.Conflict, "cannot start an already running container")
	case stopped:
		return errdef.New(errdef.Conflict, "cannot start a container that has stopped")
	}
	return errdef.New(errdef.Conflict, "cannot start a container in the %s state", status)
}

// start runs what comes before the execve of the process, lets it go on, and waits for the outcome.
func (h *held) start(c *specs.Spec) error {
	g, err := openGate(h.dir)
	if err != nil {
		return err
	}
	defer g.close()
	if c.Hooks != nil {
		if err := h.inside("startContainer", c.Hooks.StartContainer, h.state(created), c); err != nil {
			return errors.Join(err, h.signal(unix.SIGKILL))
		}
	}
	if err := lifecycle.PassGate(g.Gate, c.Process.Args[0], h.First, h.Steps); err != nil {
		return err
	}
	return errors.Join(os.Remove(filepath.Join(h.dir, startFIFO)), os.Remove(filepath.Join(h.dir, reportFIFO)))
}

// Kill sends a signal to the first process of a container, or to all. Without a pid namespace of the container's own, which ends with its
// first process, all are killed, and those are that it has left behind.
func (s Store) Kill(id string, n unix.Signal, everybody bool) error {
	r, err := s.read(id)
	if err != nil {
		return err
	}
	g := r.group()
	if n == unix.SIGKILL && r.Namespaces&unix.CLONE_NEWPID == 0 && g != nil {
		if pids, err := g.PIDs(); err == nil && len(pids) > 0 {
			return g.Kill()
		}
	}
	if everybody && s.status(r) == stopped && (g == nil || !g.Exists()) {
		return nil
	}
	if !everybody || g == nil {
		return r.signal(n)
	}
	if n == unix.SIGKILL {
		return g.Kill()
	}
	return g.Signal(n)
}

// Delete removes a container that has ended; with force one that has not, too, and none is no error.
func (s Store) Delete(id string, force bool) error {
	h, err := s.take(id)
	if err != nil {
		if force && errdef.Is(err, errdef.NotFound) {
			return nil
		}
		return err
	}
	defer h.lock.Unlock()
	switch status := s.status(h.record); {
	case status == stopped:
	case force, status == created:
		if err := h.kill(); err != nil {
			return err
		}
	default:
		return errdef.Hint(errdef.New(errdef.Conflict, "cannot delete container %s that is not stopped: %s", id, status), "--force kills it first")
	}
	var hooks *specs.Hooks
	if c, err := s.config(id); err == nil {
		hooks = c.Hooks
	}
	return errors.Join(h.end(s, hooks), h.forget())
}

// kill kills the first process, and waits until it has gone.
func (h *held) kill() error {
	if g := h.group(); g != nil {
		_ = g.Freeze(false)
	}
	fd := h.open()
	if fd < 0 {
		return nil // it has gone
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && err != unix.ESRCH {
		return os.NewSyscallError("pidfd_send_signal", err)
	}
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(poll, 10_000)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return os.NewSyscallError("poll", err)
		case n == 0:
			return errdef.New(errdef.Unavailable, "the process %d of container %s does not end, although it was killed", h.PID, h.ID)
		default:
			return nil
		}
	}
}

// end gives back what a container that has ended has had, and runs its last hooks.
func (h *held) end(s Store, hooks *specs.Hooks) error {
	var err error
	if g := h.group(); g != nil && h.Driver != cgroup.None {
		err = g.Remove()
	}
	h.poststop(s, hooks)
	return err
}

// poststart runs the hooks after the start. When one fails the container is to end.
func (h *held) poststart(hooks *specs.Hooks) error {
	if hooks == nil {
		return nil
	}
	return runHooks("poststart", hooks.Poststart, h.state(running), nil)
}

// poststop runs the last hooks, whose failure changes nothing: each is warned about, and the others follow.
func (h *held) poststop(s Store, hooks *specs.Hooks) {
	if hooks == nil {
		return
	}
	for i := range hooks.Poststop {
		if err := runHooksFrom("poststop", i, hooks.Poststop[i:i+1], h.state(stopped), nil); err != nil && s.Warn != nil {
			s.Warn(err)
		}
	}
}
