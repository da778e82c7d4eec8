// Package monitor is the small process that stays with a running container: it carries the container's streams to a log and to
// clients, answers its queries for names, notices its end, restarts it as the policy says, and gives everything back.
//
// The command that starts the container (Begin) makes the monitor its parent. It outlives the command; when it is killed, the container lives on, and the next command starts
// another that adopts it. It pulls no images, creates and names no containers, and knows no other container.
//
// What survives its death: the named pipes in the run directory (a container's output never meets a pipe without a
// reader, because the container's own end is open for reading, too), process.json, and the log.
package monitor

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"berth/internal/container"
	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/event"
	"berth/internal/host"
	"berth/internal/network"
	"berth/internal/network/dns"
	"berth/internal/network/uplink"
	"berth/internal/ownjson"
	"berth/internal/runtime/cgroup"
	"berth/internal/runtime/lifecycle"
	"berth/internal/state"
	"berth/internal/volume"

	"golang.org/x/sys/unix"
)

// Options is how a monitor is told what to do.
type Options struct {
	Store     state.Store
	Container *state.Container
	// Host looks at this machine, Layers for the container's layers, the topmost first; both are asked when they are needed.
	Host   func() host.Facts
	Layers func() ([]string, error)
	// CgroupManager is the driver of control groups that is asked for; empty leaves the choice to the host.
	CgroupManager cgroup.Driver
	// CDIDirs are where CDI's specifications of devices are.
	CDIDirs []string
	// First is what the command that started the monitor wants; a monitor that has Inherited has none.
	First Request
	// Inherited is what a monitor has been given at its execve, by the command that starts the container or by itself.
	Inherited *Inherited
	// Home is where the networks of a user without root are; nil as root.
	Home *Home
	// Program finds a program that comes with berth, if that is not to be looked for in this one.
	Program func(name string) (string, error)
	// HostLoopback lets a user's containers reach the host's loopback interface, by way of the uplink.
	HostLoopback bool
	// Uplink is UplinkPasta for a user who wants that; otherwise the uplink is berth's own.
	Uplink string
	// Network is the container's network namespace, if it is being made already.
	Network *lifecycle.Network
	// Settle puts right what a killed monitor of another container has left: it is adopted, or what it held is given back.
	Settle func(id string) error
	// Notice, unless it is nil, says something to whoever has the container started.
	Notice func(text string)
	// Alive is the lock that says that the monitor lives.
	Alive *disk.Lock
	// RemoveTree deletes a container's directory, whoever owns what is in it.
	RemoveTree func(dir string) error
}

// monitor is the state of the process.
type monitor struct {
	Options
	c        *state.Container // Options.Container
	durable  disk.Durability
	runDir   string
	listener *net.UnixListener
	halt     chan struct{} // closed: do not start the container again
	haltOnce sync.Once
	entering sync.Mutex // held while another runtime is called for a further process
	starting sync.Mutex // held while the container is started again: halt comes before, or finds it running
	// What exec needs of the running container: the namespaces to join, and whether setgroups(2) is forbidden in them.
	namespaces  uintptr
	noSetgroups bool
	streams     *streams
	networking  sync.Mutex // guards net, names, namesIn and watch, and which networks the configuration names, while the container runs
	net         connection
	kept        []*os.File     // until this process ends: connections that the command has handed on
	names       *dns.Server    // the container's resolver, if it has one
	watched     *uplink.Client // the connection to the uplink whose end is waited for
	watch       *os.File       // tells when the rules of networks are removed
	guarding    sync.WaitGroup
	namesIn     *os.File       // the network namespace from which that asks, if it is the container's
	fading      sync.WaitGroup // interfaces that may have outlived the container's namespace are removed
	command     *Conn          // the command that is starting the container
	console     *os.File       // the socket by which the container's terminal comes
	execs       sync.WaitGroup
	accepting   sync.WaitGroup
	recording   sync.WaitGroup
	recorded    error         // of the last recording
	ended       chan struct{} // closed: the process has ended
	renewal     renewal
	notBefore   time.Time    // the next renewal
	busy        atomic.Int32 // connections that are being served
	grown       atomic.Bool  // something has been done that needed much memory

	oomNoted atomic.Bool // the container's memory has run out, and watchOOM has said so
	began    time.Time   // when the container's configuration was read

	mu      sync.Mutex // guards what follows
	clients map[*client]bool
	process state.Process
	pidfd   int
	running bool
	over    bool // the monitor is about to go: no new clients
	// startOver says that the container is to be started again when it has ended, whatever its policy.
	startOver bool
	doomed    bool // the container is to be killed as soon as it runs
}

// Attend stays with a container that a command is just starting (Begin), until it has ended for good.
func Attend(o Options) error { return run(o, (*monitor).attend) }

// Renew goes on where this same process was before it executed its program again.
func Renew(o Options) error { return run(o, (*monitor).resume) }

// Adopt stays with a container that runs already, or puts right what is left of one that has ended unseen.
func Adopt(o Options) error { return run(o, (*monitor).adopt) }

// life is a part of a container's life, up to its end.
type life func(*monitor, *state.Record) (Ended, error)

func run(o Options, first life) (err error) {
	m := &monitor{
		began:   time.Now(),
		Options: o, c: o.Container, clients: map[*client]bool{}, halt: make(chan struct{}), pidfd: -1,
		runDir: o.Store.RunDir(o.Container.ID), durable: disk.DurableUnless(o.Container.Config.AutoRemove),
	}
	// The engine's memory and descriptors are nobody's business in a container that shares its parent's pid namespace.
	if err := hide(); err != nil {
		return err
	}
	m.outlast()
	if m.streams, err = newStreams(m); err != nil {
		return err
	}
	m.keepSending()
	if o.Inherited != nil {
		if err := m.inherit(o.Inherited); err != nil {
			return err
		}
		return m.live(first)
	}
	defer func() {
		if err != nil {
			_ = o.First.conn.Send(FrameFailed, failed(err))
		}
		_ = o.First.conn.Close()
	}()
	listener, err := listen(m.runDir)
	if err != nil {
		return err
	}
	if err := m.hear(listener); err != nil {
		return err
	}
	m.accept()
	if err := m.answer(o.First); err != nil {
		return err
	}
	return m.live(first)
}

// hide makes this process one that only the host's root can look into: no process of a container in its pid namespace can.
func hide() error {
	return os.NewSyscallError("prctl", unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0))
}

// outlast keeps SIGTERM from ending this process before its container. Whoever stops a scope, as systemd does when the host goes down,
// sends it to both; the container is not started again then.
func (m *monitor) outlast() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGTERM)
	go func() {
		<-signals
		m.haltOnce.Do(func() { close(m.halt) })
	}()
}

// live is the container's life: start, end, and again if its policy says so.
func (m *monitor) live(next life) error {
	record, err := m.Store.Record(m.c.ID)
	if err != nil {
		return err
	}
	pause := restartPause{}
	var exit Ended
	halted := func() error {
		record.Status, record.Stopped = state.Exited, m.stopped()
		return m.finish(record, exit)
	}
	for {
		now, err := next(m, &record)
		next = (*monitor).once
		switch {
		case errors.Is(err, errNothingToAdopt):
			return m.leave(nil)
		case errors.Is(err, errHalted):
			return halted()
		case err != nil:
			record.ExitCode, record.Error = startExitCode(err), err.Error()
			if record.Status == state.Restarting {
				record.Status = state.Exited
			}
			return m.giveUp(record, err)
		}
		exit = now
		record.Status, record.FinishedAt = state.Exited, time.Now().UTC()
		record.ExitCode, record.OOMKilled, record.Error = exit.ExitCode, exit.OOMKilled, exit.Error
		record.Stopped = m.stopped()
		startOver := m.isToStartOver() && !record.Stopped && !m.halted()
		if !startOver && !m.restarts(record) {
			return m.finish(record, exit)
		}
		if err := m.clear(); err != nil {
			return err
		}
		record.Status = state.Restarting
		if !startOver {
			record.RestartCount++
		}
		m.renewal.forbid() // the pause before the next start is known here alone
		if err := m.Store.SetRecord(m.c.ID, record, m.durable); err != nil {
			return err
		}
		m.tellAll(FrameEnded, exit)
		if !startOver && !pause.wait(m.process.Age(), m.halt) {
			return halted()
		}
	}
}

// isToStartOver reports, once, whether the container has ended to be started again.
func (m *monitor) isToStartOver() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	yes := m.startOver
	m.startOver = false
	return yes
}

// once starts the container again and waits for its end.
func (m *monitor) once(record *state.Record) (Ended, error) { return m.whole(m.again, record) }

// whole is a life from its start on.
func (m *monitor) whole(start func(*state.Record) (*lifecycle.Running, error), record *state.Record) (Ended, error) {
	r, err := start(record)
	if err != nil {
		return Ended{}, err
	}
	m.Store.NoteAll(append(m.c.VolumeEvents("mount"), m.c.Event("start"))...)
	if err := m.serveNames(r.PID); err != nil {
		_ = unix.PidfdSendSignal(r.PIDFD, unix.SIGKILL, nil, 0)
		m.untilEnd(r.PIDFD, r.PID)
		return Ended{}, err
	}
	m.tellAll(FrameStarted, Started{r.PID}) // before any output
	m.recordRunning(*record)
	m.grown.Store(true)
	m.renewal.begin()
	m.renewSoon()
	m.streams.flow()
	return m.untilEnd(r.PIDFD, r.PID), nil
}

// again starts the container as it is to be now. A command that changes it has done so before, or finds it running: who takes it off a
// network does not see it there again.
func (m *monitor) again(record *state.Record) (*lifecycle.Running, error) {
	lock, err := m.Store.Lock(m.c.ID)
	if err != nil {
		return nil, err
	}
	defer lock.Unlock()
	m.starting.Lock()
	defer m.starting.Unlock()
	if m.halted() {
		return nil, errHalted
	}
	m.Network = nil // that was the first start's
	m.CgroupManager = m.driver()
	if err := m.reload(); err != nil {
		return nil, err
	}
	return m.startHere(record)
}

// startHere starts the container as a child of this process.
func (m *monitor) startHere(record *state.Record) (*lifecycle.Running, error) {
	p, err := prepare(m.Options, false)
	if err != nil {
		return nil, err
	}
	r, err := p.pending.StartWhen(func(pid int) error { return p.connectLate(m.Options, pid, false) })
	if err != nil {
		p.close()
		return nil, errors.Join(err, m.release())
	}
	m.streams.in, m.streams.out, m.net = p.pipes.in, p.pipes.out, p.net
	p.pipes.in, p.pipes.out, p.net = nil, nil, connection{}
	m.namespaces, m.noSetgroups = p.pending.Joinable()
	group, driver := p.pending.Cgroup()
	p.close()
	now := time.Now().UTC()
	process := state.Process{
		PID: r.PID, StartTime: state.StartTime(r.PID), Cgroup: group, CgroupDriver: string(driver), StartedAt: now, MonitorID: os.Getpid(),
	}
	if err := m.Store.SetProcess(m.c.ID, process); err != nil {
		_ = unix.PidfdSendSignal(r.PIDFD, unix.SIGKILL, nil, 0)
		return nil, err
	}
	m.streams.begin(r.Console)
	m.runs(process, r.PIDFD, record)
	return r, nil
}

// runs makes it known in this process that the container runs.
func (m *monitor) runs(p state.Process, pidfd int, record *state.Record) {
	*record = state.Record{Status: state.Running, StartedAt: p.StartedAt, RestartCount: record.RestartCount}
	m.mu.Lock()
	m.process, m.pidfd, m.running = p, pidfd, true
	if m.doomed {
		_ = unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)
	}
	m.mu.Unlock()
	m.ended = make(chan struct{})
}

// recordRunning writes on disk that the container runs, while it does. Of one that is removed at its end it is written only when
// it has lived for a moment: all that it is for is that the container is not left over when the host goes down.
func (m *monitor) recordRunning(r state.Record) {
	m.recorded = nil
	write := func() { m.recorded = m.Store.SetRecord(m.c.ID, r, m.durable) }
	if !m.c.Config.AutoRemove {
		m.recording.Go(write)
		return
	}
	m.recording.Go(func() {
		select {
		case <-time.After(settled):
			write()
		case <-m.ended:
		}
	})
}

// untilEnd waits for the end of the first process and clears away what the container held. child is its pid if it is a child of
// ours, or 0.
func (m *monitor) untilEnd(pidfd, child int) Ended {
	m.guard()
	m.watchUplink()
	mounts := mountsOf(m.process.PID)
	endHealth, endOOM := m.watchHealth(), m.watchOOM()
	err := awaitEnd(pidfd)
	endHealth()
	endOOM()
	m.renewal.end() // its status is still the kernel's: if the monitor renews itself here, the new one finds it
	exit := Ended{ExitCode: unknownExit}
	if err != nil {
		exit.Error = err.Error()
	} else {
		exit = collect(pidfd, child)
	}
	m.mu.Lock()
	m.running, m.pidfd = false, -1
	m.mu.Unlock()
	_ = unix.Close(pidfd)
	g := m.group()
	if g != nil {
		exit.OOMKilled = g.OOMKills() > 0
	}
	if _, shares := container.Shares(m.c.Config.PID); shares || m.namespaces&unix.CLONE_NEWPID == 0 {
		// Processes of the container may be left; they go with it.
		if g == nil {
			killWith(mounts)
		} else if err := g.Remove(); err != nil {
			exit.Error = err.Error()
		}
	}
	m.execs.Wait()
	m.noteEnd(exit)
	if err := m.disconnect(); err != nil && exit.Error == "" {
		exit.Error = err.Error()
	}
	if err := m.streams.drain(); err != nil && exit.Error == "" {
		exit.Error = err.Error()
	}
	m.sendRest()
	close(m.ended)
	m.recording.Wait()
	if m.recorded != nil && exit.Error == "" {
		exit.Error = m.recorded.Error()
	}
	return exit
}

// current is the container under the name that it has now.
func (m *monitor) current() *state.Container {
	return m.Store.Now(m.c, m.began)
}

// noteEnd notes that the container has ended, and let go of its volumes.
func (m *monitor) noteEnd(exit Ended) {
	var all []event.Event
	now := m.current()
	if exit.OOMKilled && !m.oomNoted.Load() {
		all = append(all, now.Event("oom"))
	}
	ran := m.process.Age()
	all = append(all, now.Event("die", "execDuration", strconv.Itoa(int(ran.Seconds())), "exitCode", strconv.Itoa(exit.ExitCode)))
	m.Store.NoteAll(append(all, m.c.VolumeEvents("unmount")...)...)
}

// stopFile says that a command has ended the container on purpose.
func (m *monitor) stopFile() string { return StopFile(m.Store, m.c.ID) }

// StopFile is the file by which a command says that a container's end is on purpose.
func StopFile(s state.Store, id string) string { return filepath.Join(s.RunDir(id), "stopped") }

func (m *monitor) stopped() bool {
	_, err := os.Stat(m.stopFile())
	return err == nil
}

// restarts reports whether the policy, as it is now, has the container started again.
func (m *monitor) restarts(r state.Record) bool {
	p := m.c.Config.Restart
	if now, err := m.Store.Load(m.c.ID); err == nil {
		p = now.Config.Restart
	}
	switch {
	case r.Stopped || m.c.Config.AutoRemove:
		return false
	case p.Name == container.RestartAlways || p.Name == container.RestartUnlessStopped:
		return true
	case p.Name == container.RestartOnFailure:
		return r.ExitCode != 0 && (p.Retries == 0 || r.RestartCount < p.Retries)
	}
	return false
}

// restartPause is docker's: 100 ms, doubled up to a minute, and back to 100 ms after a run of ten seconds.
type restartPause struct{ next time.Duration }

// wait waits, or returns false when halt says that there is to be no next time.
func (p *restartPause) wait(ran time.Duration, halt <-chan struct{}) bool {
	if p.next == 0 || ran >= 10*time.Second {
		p.next = 100 * time.Millisecond
	}
	t := time.NewTimer(p.next)
	defer t.Stop()
	p.next = min(2*p.next, time.Minute)
	select {
	case <-t.C:
		return true
	case <-halt:
		return false
	}
}

// finish records the end, removes the container if it is one of those, tells the clients, and goes.
func (m *monitor) finish(r state.Record, exit Ended) error {
	if !m.c.Config.AutoRemove {
		err := errors.Join(m.clear(), settle(m.Options, r))
		m.tellAll(FrameEnded, exit)
		return m.leave(err)
	}
	// It is no more as soon as it has lost its name; nobody need wait until all is deleted.
	gone, err := m.Store.Retire(m.c)
	if err == nil {
		m.Store.Note(m.current(), "destroy")
	}
	err = errors.Join(err, removeVolumes(m.Options))
	m.tellAll(FrameEnded, exit)
	if err == nil {
		err = errors.Join(m.clear(), m.Store.Delete(m.c.ID, gone, m.RemoveTree))
	}
	return m.leave(err)
}

// settle makes a container's end the truth on disk.
func settle(o Options, r state.Record) error {
	c := o.Container
	if err := o.release(); err != nil {
		return err
	}
	if c.Config.AutoRemove {
		return errors.Join(o.Store.Remove(c, o.RemoveTree), removeVolumes(o))
	}
	if err := o.Store.SetRecord(c.ID, r, disk.Durable); err != nil {
		return err
	}
	return o.Store.Forget(c.ID)
}

// removeVolumes removes the volumes that go with a container.
func removeVolumes(o Options) error {
	volumes := volume.Store{Dir: filepath.Join(o.Store.Data, "volumes")}
	names, err := o.Store.OwnVolumes(o.Container)
	for _, name := range names {
		gone := volumes.Remove(name, o.RemoveTree)
		if gone == nil {
			o.Store.NoteAll(event.Event{Type: event.Volume, Action: "destroy", ID: name, Attributes: map[string]string{"driver": "local"}})
		}
		if !errdef.Is(gone, errdef.NotFound) {
			err = errors.Join(err, gone)
		}
	}
	return err
}

// giveUp ends a container that could not be started, and what has been started of it.
func (m *monitor) giveUp(r state.Record, cause error) error {
	err := errors.Join(m.clear(), m.disconnect(), settle(m.Options, r))
	m.tellAll(FrameFailed, failed(cause))
	return m.leave(err)
}

// leave takes no more clients and lets those that are there hear the rest.
func (m *monitor) leave(err error) error {
	m.mu.Lock()
	m.over = true
	clients := m.clients
	m.clients = map[*client]bool{}
	m.mu.Unlock()
	err = errors.Join(err, m.listener.Close(), m.streams.closeLog())
	for c := range clients {
		_ = c.conn.Close()
	}
	m.Alive.Unlock()
	if len(m.c.Config.PublishedPorts()) > 0 {
		time.Sleep(network.Lingering)
	}
	m.fading.Wait()
	return err
}

// startExitCode is docker's exit status for a container that could not be started.
func startExitCode(err error) int {
	switch errdef.KindOf(err) {
	case errdef.NoCommand:
		return 127
	case errdef.NotExecutable:
		return 126
	}
	return 128
}

var (
	errNothingToAdopt = errors.New("nothing to adopt")
	errHalted         = errors.New("it is not to be started again")
)

// adopt takes over from a monitor that is gone.
func (m *monitor) adopt(record *state.Record) (Ended, error) {
	p, err := m.Store.Process(m.c.ID)
	if err != nil {
		// It was killed before it had recorded a process. What it may have started is in the control group.
		if err := m.clear(); err != nil {
			return Ended{}, err
		}
		if m.c.Config.AutoRemove || record.Status == state.Running {
			return Ended{ExitCode: unknownExit, Error: "it ended unseen"}, nil
		}
		return Ended{}, errors.Join(errNothingToAdopt, m.Store.Forget(m.c.ID))
	}
	m.mu.Lock()
	m.process, m.doomed = p, m.c.Step != "" // whose build has lost sight of it
	m.mu.Unlock()
	layers, err := m.Layers()
	if err != nil {
		return Ended{}, err
	}
	running := *m.c
	running.Config.Devices, running.Config.Requests = nil, nil // it has them, wherever those of the host are now
	in, err := Assemble(m.Store, &running, m.Host(), layers, m.driver(), nil)
	if err != nil {
		return Ended{}, err
	}
	m.namespaces, m.noSetgroups = lifecycle.NamespacesOf(in.Spec), in.NoSetgroups()
	pidfd := p.Open()
	if pidfd < 0 {
		if g := m.group(); g != nil {
			if err := g.Remove(); err != nil {
				return Ended{}, err
			}
		}
		exit := Ended{ExitCode: unknownExit, Error: "its monitor was killed, and its exit status is unknown"}
		if m.c.Config.TTY {
			exit.Error = "its monitor was killed, which hung up its terminal; its exit status is unknown"
		}
		*record = state.Record{Status: state.Running, StartedAt: p.StartedAt, RestartCount: record.RestartCount}
		return exit, m.streams.reopen()
	}
	if err := m.streams.reopen(); err != nil {
		return Ended{}, err
	}
	if err := m.reconnect(p.PID); err != nil {
		fmt.Fprintln(os.Stderr, err) // the container lives; its names do not, and monitor.log says why
	}
	if err := cgroup.Rejoin(m.Host(), p.Cgroup); err != nil {
		fmt.Fprintln(os.Stderr, "cannot leave the caller's control group:", err) // so it ends with that one
	}
	m.streams.begin(nil)
	p.MonitorID = os.Getpid()
	if err := m.Store.SetProcess(m.c.ID, p); err != nil {
		return Ended{}, err
	}
	m.runs(p, pidfd, record)
	if err := m.Store.SetRecord(m.c.ID, *record, m.durable); err != nil {
		return Ended{}, err
	}
	m.tellAll(FrameStarted, Started{p.PID})
	m.streams.flow()
	return m.untilEnd(pidfd, 0), nil
}

// unmarshal reads a request.
func unmarshal(payload []byte, v any) error {
	if err := ownjson.Unmarshal(payload, v); err != nil {
		return errdef.New(errdef.Invalid, "cannot understand the request: %w", err)
	}
	return nil
}
