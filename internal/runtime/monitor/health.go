package monitor

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"syscall"
	"time"

	"berth/internal/container"
	"berth/internal/runtime/lifecycle"
	"berth/internal/state"

	"golang.org/x/sys/unix"
)

// The monitor keeps nothing of a container's health in its memory between two looks: it is in health.json, from where a monitor that has
// renewed itself, or has adopted the container, goes on.

// lingering is how long the output of a health check is waited for when it has ended and something that it has started holds it open.
const lingering = 50 * time.Millisecond

// watchHealth looks after the container's health until the function that it returns is called.
func (m *monitor) watchHealth() (end func()) {
	command := m.c.Config.HealthCommand()
	if command == nil {
		return func() {}
	}
	over, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		m.lookRepeatedly(command, over)
	}()
	return func() {
		close(over)
		<-done
	}
}

func (m *monitor) lookRepeatedly(command []string, over <-chan struct{}) {
	check, process := m.c.Config.Health, m.process // it changes only when the container has ended
	h, _ := m.Store.Health(m.c.ID, process.StartedAt)
	if len(h.Log) == 0 {
		m.noteHealth(process, h)
	}
	last := time.Now().Add(-process.Age())
	if n := len(h.Log); n > 0 {
		last = h.Log[n-1].End
	}
	for {
		interval := h.Interval(check, process.Age())
		t := time.NewTimer(min(interval, time.Until(last.Add(interval)))) // the clock may have been put back
		select {
		case <-over:
			t.Stop()
			return
		case <-t.C:
		}
		if g := m.group(); g != nil && g.Frozen() {
			last = time.Now() // it is left alone for a whole interval
			continue
		}
		m.renewal.hold(m)
		ran := process.Age()
		r, ended := m.look(command, process, over)
		if !ended {
			before := h.Status
			last = r.End
			h = h.After(check, ran, r)
			m.noteHealth(process, h)
			if h.Status != before {
				m.healthChanged(h.Status)
			}
		}
		m.idle()
	}
}

// noteHealth writes the health down. Where that is not possible, the container lives on, and monitor.log says why.
func (m *monitor) noteHealth(p state.Process, h container.Health) {
	if err := m.Store.SetHealth(m.c.ID, p.StartedAt, h); err != nil {
		fmt.Fprintln(os.Stderr, "cannot write down the container's health:", err)
	}
}

// look carries out the health check once; ended says that the container has ended meanwhile, which says nothing about its health.
func (m *monitor) look(command []string, p state.Process, over <-chan struct{}) (r container.HealthResult, ended bool) {
	r.Start = time.Now()
	timeout := container.HealthTimeout(m.c.Config.Health)
	status, output, err := m.runCheck(command, p, timeout, over)
	r.End, r.ExitCode, r.Output = time.Now(), status, output
	switch {
	case errors.Is(err, errOver):
		return r, true
	case errors.Is(err, os.ErrDeadlineExceeded):
		r.ExitCode, r.Output = -1, fmt.Sprintf("Health check exceeded timeout (%v)", timeout)
		if output != "" {
			r.Output += ": " + output
		}
	case err != nil:
		r.ExitCode, r.Output = -1, err.Error()
	}
	return r, false
}

// runCheck runs a command in the container, and kills it, with all that is in its session's first process group, when its time is over.
func (m *monitor) runCheck(command []string, p state.Process, timeout time.Duration, over <-chan struct{}) (status int, output string, _ error) {
	cfg := m.c.Config
	cfg.Entrypoint, cfg.Command, cfg.Init, cfg.TTY = nil, command, false, false
	request, err := Further(m.c, cfg, p, m.Host(), m.files)
	if err != nil {
		return 0, "", err
	}
	null, err := lifecycle.OpenNull(os.O_RDONLY)
	if err != nil {
		return 0, "", err
	}
	defer null.Close()
	ours, theirs, err := os.Pipe()
	if err != nil {
		return 0, "", err
	}
	defer ours.Close()
	running, err := m.startFurther(request, []*os.File{null, theirs, theirs})
	_ = theirs.Close()
	if err != nil {
		return 0, "", err
	}
	defer running.done()
	said := make(chan string, 1)
	go func() { said <- bounded(ours) }()
	ended := make(chan error, 1)
	go func() { ended <- awaitEnd(running.PIDFD) }()
	late := time.NewTimer(timeout)
	defer late.Stop()
	var cut error
	select {
	case err = <-ended:
	case <-late.C:
		cut = os.ErrDeadlineExceeded
	case <-over:
		cut = errOver
	}
	if cut != nil {
		// It began a session, so the group is its own; and nobody has its number while it is not waited for.
		_ = unix.Kill(-running.PID, unix.SIGKILL)
		_ = unix.PidfdSendSignal(running.PIDFD, unix.SIGKILL, nil, 0)
		err = <-ended
	}
	exit := running.collect()
	_ = ours.SetReadDeadline(time.Now().Add(lingering))
	return exit.ExitCode, <-said, errors.Join(cut, err)
}

var errOver = errors.New("the container has ended")

// bounded reads to the end, and keeps the beginning.
func bounded(r io.Reader) string {
	kept := make([]byte, 0, 512)
	buf := make([]byte, 4<<10)
	cut := false
	for {
		n, err := r.Read(buf)
		room := min(n, container.HealthOutputBytes-len(kept))
		kept = append(kept, buf[:room]...)
		cut = cut || n > room
		if err != nil {
			if cut {
				kept = append(kept, "..."...)
			}
			return string(kept)
		}
	}
}

// healthChanged does what is to be done when the container has become healthy, or unhealthy.
func (m *monitor) healthChanged(s container.HealthStatus) {
	m.Store.Note(m.current(), "health_status: "+string(s))
	if s != container.HealthUnhealthy {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.running {
		return
	}
	var err error
	switch m.c.Config.HealthOnFailure {
	case container.OnFailureKill:
		err = os.WriteFile(m.stopFile(), nil, 0o600)
		m.noteSignal(unix.SIGKILL)
		_ = unix.PidfdSendSignal(m.pidfd, unix.SIGKILL, nil, 0)
	case container.OnFailureStop:
		if err = os.WriteFile(m.stopFile(), nil, 0o600); err == nil {
			err = m.askToEnd()
		}
	case container.OnFailureRestart:
		m.startOver = true
		err = m.askToEnd()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "the container is unhealthy:", err)
	}
}

// askToEnd asks the container to end, and kills it when its time is over. The caller holds m.mu.
func (m *monitor) askToEnd() error {
	signal, timeout, err := m.c.Config.StopHow(0, nil)
	if err != nil {
		return err
	}
	pidfd, err := unix.FcntlInt(uintptr(m.pidfd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	m.noteSignal(signal)
	_ = unix.PidfdSendSignal(pidfd, signal, nil, 0)
	ended := m.ended
	m.renewal.forbid() // who waits for the end is here alone
	go func() {
		defer unix.Close(pidfd)
		if timeout < 0 {
			return
		}
		select {
		case <-time.After(timeout):
			m.noteSignal(unix.SIGKILL)
			_ = unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)
		case <-ended:
		}
	}()
	return nil
}

func (m *monitor) noteSignal(s syscall.Signal) {
	m.Store.Note(m.current(), "kill", "signal", strconv.Itoa(int(s)))
}
