package monitor

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/network/dns"
	"berth/internal/state"

	"golang.org/x/sys/unix"
)

// A monitor renews itself when an exec, or a start of its own, has needed memory and nobody talks to it: it executes its own
// program again, which keeps its pid, its children, its lock, its socket and its pipes, and leaves that memory behind. A garbage collection would not do: after it, a Go program has more memory for itself than a new one needs in all
// (docs/decisions/0006).

const (
	// settled is when a container, or the monitor after an exec, counts as quiet.
	settled = 500 * time.Millisecond
	// renewed is how long a monitor that has renewed itself does not do so again.
	renewed = 10 * time.Second
)

// renewal decides when.
type renewal struct {
	mu    sync.Mutex // held during a renewal
	live  bool       // a process runs whose status nobody has collected
	never bool
	timer *time.Timer
}

// begin allows renewals: the container's process runs.
func (r *renewal) begin() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.live = !r.never
}

// end waits for a renewal that is under way, and allows no other: the container has ended.
func (r *renewal) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.live = false
	if r.timer != nil {
		r.timer.Stop()
	}
}

// forbid allows renewals never more.
func (r *renewal) forbid() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.never = true
}

// hold keeps the monitor from renewing itself, until it is idle.
func (r *renewal) hold(m *monitor) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m.busy.Add(1)
}

// after calls renew when d has passed, instead of whenever was said before.
func (r *renewal) after(d time.Duration, renew func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.live {
		return
	}
	if r.timer != nil {
		r.timer.Stop()
	}
	r.timer = time.AfterFunc(d, renew)
}

// idle says that one of those who keep the monitor busy has gone.
func (m *monitor) idle() {
	if m.busy.Add(-1) == 0 {
		m.renewSoon()
	}
}

func (m *monitor) renewSoon() {
	m.renewal.after(max(settled, time.Until(m.notBefore)), m.renew)
}

// renew executes the monitor's program again, unless somebody is talking to it or something is half done.
func (m *monitor) renew() {
	m.renewal.mu.Lock()
	defer m.renewal.mu.Unlock()
	if !m.renewal.live || !m.grown.Load() || m.busy.Load() > 0 || m.halted() {
		return
	}
	m.recording.Wait()
	_ = m.listener.SetDeadline(time.Now())
	m.accepting.Wait()
	whole := m.streams.halt()
	if whole && m.busy.Load() == 0 {
		fmt.Fprintln(os.Stderr, "cannot renew the monitor:", m.execute()) // monitor.log; the old one is as good
		m.renewal.live = false
	}
	m.streams.goOn()
	_ = m.listener.SetDeadline(time.Time{})
	m.accept()
}

func (m *monitor) halted() bool {
	select {
	case <-m.halt:
		return true
	default:
		return false
	}
}

// Inherited is what a monitor is given at its execve, in the last of its arguments: descriptors, -1 for none, and what exec
// needs. Command and Console are for the start of a container: the command that starts it, and the socket by which its terminal comes.
type Inherited struct {
	Alive, Listener  int
	Command, Console int
	In, Out, Err     int
	Terminal         int
	// Queries and TCPQueries are the resolver's sockets, Ports those that hold published ports, and Kept those that are only to be kept.
	Queries, TCPQueries int
	Ports, Kept         []int
	// Home is the network namespace of a user's networks, Uplink the connection to their uplink.
	Home, Uplink int
	Namespaces   uintptr
	NoSetgroups  bool
}

// fields are its descriptors and their names.
func (i *Inherited) fields() map[string]*int {
	return map[string]*int{
		"alive": &i.Alive, "listener": &i.Listener, "command": &i.Command, "console": &i.Console,
		"in": &i.In, "out": &i.Out, "err": &i.Err, "terminal": &i.Terminal,
		"queries": &i.Queries, "tcpqueries": &i.TCPQueries, "home": &i.Home, "uplink": &i.Uplink,
	}
}

func (i *Inherited) String() string {
	parts := []string{"namespaces=" + strconv.Itoa(int(i.Namespaces))}
	for name, n := range i.fields() {
		parts = append(parts, name+"="+strconv.Itoa(*n))
	}
	if i.NoSetgroups {
		parts = append(parts, "nosetgroups=1")
	}
	for _, fd := range i.Ports {
		parts = append(parts, "port="+strconv.Itoa(fd))
	}
	for _, fd := range i.Kept {
		parts = append(parts, "kept="+strconv.Itoa(fd))
	}
	return strings.Join(parts, ",")
}

// ParseInherited reads what String has written.
func ParseInherited(s string) (*Inherited, error) {
	i := new(Inherited)
	fields := i.fields()
	for part := range strings.SplitSeq(s, ",") {
		name, value, _ := strings.Cut(part, "=")
		n, err := strconv.Atoi(value)
		if err != nil {
			break
		}
		switch to := fields[name]; {
		case to != nil:
			*to = n
			delete(fields, name)
		case name == "namespaces":
			i.Namespaces = uintptr(n)
		case name == "nosetgroups":
			i.NoSetgroups = n == 1
		case name == "port":
			i.Ports = append(i.Ports, n)
		case name == "kept":
			i.Kept = append(i.Kept, n)
		}
	}
	if len(fields) > 0 {
		return nil, errdef.New(errdef.Invalid, "a monitor is started by other commands")
	}
	return i, nil
}

// Lock is the lock that says that the monitor lives.
func (i *Inherited) Lock() *disk.Lock { return disk.Inherited(keep(i.Alive, "alive")) }

// keep takes a descriptor that has come through an execve, which closes it the next time.
func keep(fd int, name string) *os.File {
	unix.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), name)
}

// execute does not return, or says why it has.
func (m *monitor) execute() error {
	i := &Inherited{Command: -1, Console: -1, Queries: -1, TCPQueries: -1, In: -1, Out: -1, Err: -1, Terminal: -1, Home: -1, Uplink: -1, Namespaces: m.namespaces, NoSetgroups: m.noSetgroups}
	var open []int
	defer func() {
		for _, fd := range open {
			_ = unix.Close(fd)
		}
	}()
	var errs error
	hand := func(from syscall.Conn, to *int) {
		raw, err := from.SyscallConn()
		if err == nil {
			err = errors.Join(err, raw.Control(func(fd uintptr) {
				if *to, err = unix.FcntlInt(fd, unix.F_DUPFD, 3); err == nil {
					open = append(open, *to)
				}
			}))
		}
		errs = errors.Join(errs, err)
	}
	hand(m.Alive.File(), &i.Alive)
	hand(m.listener, &i.Listener)
	s := m.streams
	switch {
	case s.tty != nil:
		hand(s.tty, &i.Terminal)
	default:
		if s.in != nil {
			hand(s.in, &i.In)
		}
		for n, f := range s.out {
			hand(f, []*int{&i.Out, &i.Err}[n])
		}
	}
	if r := m.net.resolver; r.UDP != nil {
		hand(r.UDP, &i.Queries)
		hand(r.TCP, &i.TCPQueries)
	}
	if m.Home != nil && m.c.Config.OwnNetwork() {
		ns, err := m.Home.Namespace()
		if err != nil {
			return err
		}
		hand(ns, &i.Home)
	}
	if m.net.uplink != nil {
		hand(m.net.uplink, &i.Uplink)
	}
	i.Ports = make([]int, len(m.net.ports))
	for n, f := range m.net.ports {
		hand(f, &i.Ports[n])
	}
	if errs != nil {
		return errs
	}
	return os.NewSyscallError("execve", unix.Exec("/proc/self/exe",
		[]string{os.Args[0], "renew", m.Store.Data, m.Store.Run, m.c.ID, i.String()}, os.Environ()))
}

// inherit takes what this process has been given at its execve.
func (m *monitor) inherit(i *Inherited) (err error) {
	unix.CloseOnExec(i.Listener)
	if err := m.hear(i.Listener); err != nil {
		return err
	}
	if i.Command >= 0 {
		if m.command, err = FromFile(keep(i.Command, "command")); err != nil {
			return err
		}
	}
	if i.Console >= 0 {
		m.console = keep(i.Console, "console")
	}
	for _, fd := range i.Ports {
		m.net.ports = append(m.net.ports, keep(fd, "port"))
	}
	for _, fd := range i.Kept {
		m.kept = append(m.kept, keep(fd, "kept"))
	}
	if i.Queries >= 0 && i.TCPQueries >= 0 {
		if m.net.resolver, err = dns.FromFiles(keep(i.Queries, "queries"), keep(i.TCPQueries, "queries")); err != nil {
			return err
		}
	}
	if i.Home >= 0 {
		m.Home.hold(keep(i.Home, "network namespace"))
	}
	if i.Uplink >= 0 {
		if m.net.uplink, err = uplinkFrom(keep(i.Uplink, "uplink"), m.Store.Run); err != nil {
			return err
		}
	}
	m.namespaces, m.noSetgroups = i.Namespaces, i.NoSetgroups
	s := m.streams
	if i.Terminal >= 0 {
		s.tty = keep(i.Terminal, "terminal")
		s.in, s.out = s.tty, []*os.File{s.tty}
		return nil
	}
	if i.In >= 0 {
		s.in = keep(i.In, "stdin")
	}
	for _, out := range []struct {
		fd   int
		name string
	}{{i.Out, "stdout"}, {i.Err, "stderr"}} {
		if out.fd >= 0 {
			s.out = append(s.out, keep(out.fd, out.name))
		}
	}
	return nil
}

// resume goes on with a container whose process has been a child of this process since before its execve.
func (m *monitor) resume(record *state.Record) (Ended, error) {
	m.notBefore = time.Now().Add(renewed)
	pidfd, err := m.take(record)
	if err != nil {
		return Ended{}, err
	}
	if err := m.serveNames(m.process.PID); err != nil {
		fmt.Fprintln(os.Stderr, err) // the container lives; its names do not, and monitor.log says why
	}
	return m.goOn(pidfd), nil
}

// take finds the process that is written down, a child of ours that nobody has waited for: its number is its own, even if it has
// ended.
func (m *monitor) take(record *state.Record) (pidfd int, _ error) {
	p, err := m.Store.Process(m.c.ID)
	if err != nil {
		return -1, err
	}
	if pidfd, err = unix.PidfdOpen(p.PID, 0); err != nil {
		return -1, os.NewSyscallError("pidfd_open", err)
	}
	m.runs(p, pidfd, record)
	return pidfd, nil
}

// goOn carries output and serves clients until the process that was taken has ended.
func (m *monitor) goOn(pidfd int) Ended {
	m.renewal.begin()
	m.streams.flow()
	m.accept()
	return m.untilEnd(pidfd, m.process.PID)
}
