// Package monitor is the small process that stays with a running container: it starts the container, carries its streams
// to a log and to clients, notices its end, restarts it as the policy says, and gives everything back.
//
// It is started by a command and outlives it; when it is killed, the container lives on, and the next command starts
// another that adopts it. It pulls no images, creates and names no containers, and knows no other container.
//
// What survives its death: the named pipes in the run directory (a container's output never meets a pipe without a
// reader, because the container's own end is open for reading, too), process.json, and the log.
package monitor

import (
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"berth/internal/container"
	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/host"
	"berth/internal/runtime/cgroup"
	"berth/internal/runtime/lifecycle"
	"berth/internal/runtime/lsm"
	"berth/internal/runtime/spec"
	"berth/internal/state"
	"berth/internal/volume"

	"golang.org/x/sys/unix"
)

// Options is how a monitor is told what to do.
type Options struct {
	Store     state.Store
	Container *state.Container
	Host      host.Facts
	// Layers are the container's layers, the topmost first.
	Layers []string
	// First is what the command that started the monitor wants.
	First Request
	// Inherited is what a monitor that renews itself has kept; nil for any other.
	Inherited *Inherited
	// Alive is the lock that says that the monitor lives.
	Alive *disk.Lock
	// RemoveTree deletes a container's directory, whoever owns what is in it.
	RemoveTree func(dir string) error
}

// monitor is the state of the process.
type monitor struct {
	Options
	c        *state.Container // Options.Container
	host     host.Facts       // Options.Host
	durable  disk.Durability
	runDir   string
	listener *net.UnixListener
	halt     chan struct{} // closed: do not start the container again
	haltOnce sync.Once
	// What exec needs of the running container: the namespaces to join, and whether they map a single id.
	namespaces uintptr
	singleID   bool
	streams    *streams
	execs      sync.WaitGroup
	accepting  sync.WaitGroup
	recording  sync.WaitGroup
	renewal    renewal
	notBefore  time.Time    // the next renewal
	busy       atomic.Int32 // connections that are being served

	mu      sync.Mutex // guards what follows
	clients map[*client]bool
	process state.Process
	pidfd   int
	running bool
	over    bool // the monitor is about to go: no new clients
}

// Run starts the container and stays until it has ended for good.
func Run(o Options) error { return run(o, false) }

// Renew goes on where this same process was before it executed its program again.
func Renew(o Options) error { return run(o, false) }

// Adopt stays with a container that runs already, or puts right what is left of one that has ended unseen.
func Adopt(o Options) error { return run(o, true) }

func run(o Options, adopt bool) (err error) {
	m := &monitor{
		Options: o, c: o.Container, host: o.Host, clients: map[*client]bool{}, halt: make(chan struct{}), pidfd: -1,
		runDir: o.Store.RunDir(o.Container.ID), durable: disk.Durability(!o.Container.Config.AutoRemove),
	}
	if o.Inherited == nil {
		defer func() {
			if err != nil {
				_ = o.First.conn.Send(FrameFailed, failed(err))
			}
			_ = o.First.conn.Close()
		}()
	}
	// The engine's memory and descriptors are nobody's business in a container that shares its parent's pid namespace. A user's
	// containers cannot look out of their user namespace; and the id maps of a child that is not dumpable are root's to write.
	if m.host.Privileged() {
		if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
			return os.NewSyscallError("prctl", err)
		}
	}
	if m.streams, err = newStreams(m); err != nil {
		return err
	}
	if o.Inherited != nil {
		if err := m.inherit(o.Inherited); err != nil {
			return err
		}
		return m.live(adopt)
	}
	if err := m.listen(); err != nil {
		return err
	}
	if err := m.answer(o.First); err != nil {
		return err
	}
	return m.live(adopt)
}

// live is the container's life: start, end, and again if its policy says so.
func (m *monitor) live(adopt bool) error {
	record, err := m.Store.Record(m.c.ID)
	if err != nil {
		return err
	}
	pause := restartPause{}
	for {
		began := time.Now()
		var exit Ended
		switch {
		case m.Inherited != nil:
			m.Inherited = nil
			exit, err = m.resume(&record)
			began = m.process.StartedAt
		case adopt:
			adopt = false
			exit, err = m.adopt(&record)
			if errors.Is(err, errNothingToAdopt) {
				return m.leave(nil)
			}
		default:
			exit, err = m.once(&record)
		}
		if err != nil {
			record.ExitCode, record.Error = startExitCode(err), err.Error()
			if record.Status == state.Restarting {
				record.Status = state.Exited
			}
			return m.giveUp(record, err)
		}
		record.Status, record.FinishedAt = state.Exited, time.Now()
		record.ExitCode, record.OOMKilled, record.Error = exit.ExitCode, exit.OOMKilled, exit.Error
		record.Stopped = m.stopped()
		if !m.restarts(record) {
			return m.finish(record, exit)
		}
		record.Status = state.Restarting
		record.RestartCount++
		m.renewal.forbid() // the pause before the next start is known here alone
		if err := m.Store.SetRecord(m.c.ID, record, m.durable); err != nil {
			return err
		}
		m.tellAll(FrameEnded, exit)
		if !pause.wait(time.Since(began), m.halt) {
			record.Status, record.Stopped = state.Exited, true
			return m.finish(record, exit)
		}
	}
}

// once starts the container and waits for its end.
func (m *monitor) once(record *state.Record) (Ended, error) {
	in, err := Assemble(m.Store, m.c, m.host, m.Layers)
	if err != nil {
		return Ended{}, err
	}
	if err := writeEtc(m.Store, m.c, spec.Hostname(spec.Input{ID: m.c.ID, Config: m.c.Config})); err != nil {
		return Ended{}, err
	}
	if err := m.streams.open(in.Spec.Process.User.UID); err != nil {
		return Ended{}, err
	}
	if profile := in.Spec.Process.ApparmorProfile; profile != "" {
		if err := lsm.Ensure(profile); err != nil {
			return Ended{}, err
		}
	}
	in.Stdin, in.Stdout, in.Stderr = m.streams.theirs()
	r, err := lifecycle.Start(in)
	m.streams.closeTheirs()
	if err != nil {
		return Ended{}, errors.Join(err, m.streams.close())
	}
	m.entering(in)
	now := time.Now()
	p := state.Process{PID: r.PID, StartTime: state.StartTime(r.PID), Cgroup: in.Spec.Linux.CgroupsPath, StartedAt: now, MonitorID: os.Getpid()}
	if err := m.Store.SetProcess(m.c.ID, p); err != nil {
		_ = unix.PidfdSendSignal(r.PIDFD, unix.SIGKILL, nil, 0)
		return Ended{}, err
	}
	if err := os.Remove(m.stopFile()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Ended{}, err
	}
	m.streams.begin(r.Console)
	m.mu.Lock()
	m.process, m.pidfd, m.running = p, r.PIDFD, true
	m.mu.Unlock()
	m.tellAll(FrameStarted, Started{r.PID}) // before any output
	m.streams.flow()
	*record = state.Record{Status: state.Running, StartedAt: now, RestartCount: record.RestartCount}
	var recorded error
	written := *record
	m.recording.Go(func() { recorded = m.Store.SetRecord(m.c.ID, written, m.durable) })
	m.renewal.begin()
	m.renewSoon()
	exit := m.untilEnd(r.PIDFD, r.PID)
	m.recording.Wait()
	if recorded != nil && exit.Error == "" {
		exit.Error = recorded.Error()
	}
	return exit, nil
}

// untilEnd waits for the end of the first process and clears away what the container held.
func (m *monitor) untilEnd(pidfd, child int) Ended {
	err := awaitEnd(pidfd)
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
	if g := m.group(); g != nil {
		exit.OOMKilled = g.OOMKills() > 0
		// Without a pid namespace of its own, processes of the container may be left; they go with it.
		if err := g.Remove(); err != nil {
			exit.Error = err.Error()
		}
	}
	m.execs.Wait()
	if err := m.streams.drain(); err != nil && exit.Error == "" {
		exit.Error = err.Error()
	}
	return exit
}

// entering keeps what exec needs of a start, and lets the rest of it go.
func (m *monitor) entering(in lifecycle.Input) {
	m.namespaces, m.singleID = lifecycle.NamespacesOf(in.Spec), in.Maps.Single
}

// group is the container's control group, or nil.
func (m *monitor) group() *cgroup.Group {
	m.mu.Lock()
	path := m.process.Cgroup
	m.mu.Unlock()
	if path == "" {
		return nil
	}
	g, err := cgroup.Open(m.host, path)
	if err != nil {
		return nil
	}
	return g
}

// stopFile says that a command has ended the container on purpose.
func (m *monitor) stopFile() string { return StopFile(m.Store, m.c.ID) }

// StopFile is the file by which a command says that a container's end is on purpose.
func StopFile(s state.Store, id string) string { return filepath.Join(s.RunDir(id), "stopped") }

func (m *monitor) stopped() bool {
	_, err := os.Stat(m.stopFile())
	return err == nil
}

func (m *monitor) restarts(r state.Record) bool {
	p := m.c.Config.Restart
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
	err := m.settle(r)
	m.tellAll(FrameEnded, exit)
	return m.leave(err)
}

// settle makes the container's end the truth on disk.
func (m *monitor) settle(r state.Record) error {
	if m.c.Config.AutoRemove {
		err := m.Store.Remove(m.c, m.RemoveTree)
		volumes := volume.Store{Dir: filepath.Join(m.Store.Data, "volumes")}
		for _, v := range m.c.Volumes {
			if v.Anonymous {
				if e := volumes.Remove(v.Name, m.RemoveTree); !errdef.Is(e, errdef.NotFound) {
					err = errors.Join(err, e)
				}
			}
		}
		return err
	}
	if err := m.Store.SetRecord(m.c.ID, r, m.durable); err != nil {
		return err
	}
	return m.Store.Forget(m.c.ID)
}

// giveUp ends a container that could not be started.
func (m *monitor) giveUp(r state.Record, cause error) error {
	err := m.settle(r)
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

var errNothingToAdopt = errors.New("nothing to adopt")

// adopt takes over from a monitor that is gone.
func (m *monitor) adopt(record *state.Record) (Ended, error) {
	p, err := m.Store.Process(m.c.ID)
	if err != nil {
		// It was killed before it had recorded a process. What it may have started is in the control group.
		if g, e := cgroup.Open(m.host, cgroup.PathOf(m.c.ID)); e == nil {
			if e := g.Remove(); e != nil {
				return Ended{}, e
			}
		}
		if m.c.Config.AutoRemove || record.Status == state.Running {
			return Ended{ExitCode: unknownExit, Error: "it ended unseen"}, nil
		}
		return Ended{}, errors.Join(errNothingToAdopt, m.Store.Forget(m.c.ID))
	}
	m.mu.Lock()
	m.process = p
	m.mu.Unlock()
	in, err := Assemble(m.Store, m.c, m.host, m.Layers)
	if err != nil {
		return Ended{}, err
	}
	m.entering(in)
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
	m.streams.begin(nil)
	p.MonitorID = os.Getpid()
	if err := m.Store.SetProcess(m.c.ID, p); err != nil {
		return Ended{}, err
	}
	m.mu.Lock()
	m.process, m.pidfd, m.running = p, pidfd, true
	m.mu.Unlock()
	*record = state.Record{Status: state.Running, StartedAt: p.StartedAt, RestartCount: record.RestartCount}
	if err := m.Store.SetRecord(m.c.ID, *record, m.durable); err != nil {
		return Ended{}, err
	}
	m.tellAll(FrameStarted, Started{p.PID})
	m.streams.flow()
	return m.untilEnd(pidfd, 0), nil
}

// unmarshal reads a request.
func unmarshal(payload []byte, v any) error {
	if err := json.Unmarshal(payload, v); err != nil {
		return errdef.New(errdef.Invalid, "cannot understand the request: %w", err)
	}
	return nil
}
