package engine

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strconv"
	"syscall"
	"time"

	"berth/internal/errdef"
	"berth/internal/runtime/cgroup"
	"berth/internal/runtime/monitor"
	"berth/internal/state"

	"golang.org/x/sys/unix"
)

// StopOptions are what --signal and --timeout say; zero values mean the container's own.
type StopOptions struct {
	Signal  syscall.Signal
	Timeout *int // seconds; negative waits for ever
}

// Stop asks a container to end, kills it when its time is over, and returns when it has ended. One that does not run is
// stopped already.
func (e *Engine) Stop(ctx context.Context, c *state.Container, o StopOptions) (err error) {
	status, _, err := e.Status(c)
	if err != nil {
		return err
	}
	if status != state.Running && status != state.Paused && status != state.Restarting {
		return nil
	}
	signal, timeout, err := c.Config.StopHow(o.Signal, o.Timeout)
	if err != nil {
		return err
	}
	s, err := e.endOnPurpose(c)
	if err != nil || s == nil {
		return err
	}
	defer s.Close()
	over := e.over(s)
	if err := e.signalNoted(c, signal); err != nil {
		return err
	}
	defer func() {
		if err == nil {
			e.Containers.Note(c, "stop")
		}
	}()
	if status == state.Paused {
		if err := e.freeze(c, false); err != nil {
			return err
		}
	}
	var late <-chan time.Time
	if timeout >= 0 {
		t := time.NewTimer(timeout)
		defer t.Stop()
		late = t.C
	}
	select {
	case <-over:
		return nil
	case <-late:
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := e.signalNoted(c, unix.SIGKILL); err != nil {
		return err
	}
	return afterKill(ctx, c, over)
}

// killTime is how long a killed container may take to be gone: a process in an uninterruptible wait is not waited for longer.
const killTime = 30 * time.Second

func afterKill(ctx context.Context, c *state.Container, over <-chan struct{}) error {
	late := time.NewTimer(killTime)
	defer late.Stop()
	select {
	case <-over:
		return nil
	case <-late.C:
		return errdef.Hint(errdef.New(errdef.Unavailable, "container %s was killed and has not ended after %v", c.Name, killTime), "a process of it may hang in the kernel: see `ps` for state D")
	case <-ctx.Done():
		return errdef.New(errdef.Cancelled, "cancelled while container %s was ending", c.Name)
	}
}

// endOnPurpose says that the end that is to come is wanted: no restart policy answers it. The session hears of the end; nil
// means that it has come already.
func (e *Engine) endOnPurpose(c *state.Container) (*Session, error) {
	err := os.WriteFile(monitor.StopFile(e.Containers, c.ID), nil, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	s, err := e.connect(c, monitor.AttachRequest{})
	if err != nil {
		if e.Containers.Monitored(c.ID) {
			return nil, err
		}
		// The monitor has gone, because the container has ended, or because somebody has killed it: its successor knows.
		status, _, err := e.Status(c)
		if errdef.Is(err, errdef.NotFound) || err == nil && status != state.Running && status != state.Paused && status != state.Restarting {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		return e.endOnPurpose(c)
	}
	if halt, err := e.dial(c); err == nil {
		_ = halt.Send(monitor.FrameHalt, nil)
		_ = halt.AwaitEnd()
	}
	return s, nil
}

// over is closed when the container has ended and its monitor has recorded it. A monitor that is killed meanwhile has a
// successor, which knows.
func (e *Engine) over(s *Session) <-chan struct{} {
	over := make(chan struct{})
	go func() {
		defer close(over)
		for {
			kind, _, err := s.conn.Receive()
			if err != nil {
				break
			}
			if kind == monitor.FrameEnded || kind == monitor.FrameFailed {
				return
			}
		}
		_, _ = e.Wait(s.Container)
	}()
	return over
}

// signal sends a signal to the first process. One that has just ended is no error.
func (e *Engine) signal(c *state.Container, signal syscall.Signal) error {
	p, err := e.Containers.Process(c.ID)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	fd := p.Open()
	if fd < 0 {
		return nil
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, signal, nil, 0); err != nil && err != unix.ESRCH {
		return errdef.New(errdef.Denied, "cannot signal container %s: %w", c.Name, err)
	}
	return nil
}

// signalNoted sends a signal that somebody has asked for.
func (e *Engine) signalNoted(c *state.Container, signal syscall.Signal) error {
	e.Containers.Note(c, "kill", "signal", strconv.Itoa(int(signal)))
	return e.signal(c, signal)
}

// Kill sends a signal to a running container. One that ends it does so on purpose.
func (e *Engine) Kill(c *state.Container, signal syscall.Signal) error {
	status, _, err := e.Status(c)
	if err != nil {
		return err
	}
	if status != state.Running && status != state.Paused && status != state.Restarting {
		return errdef.New(errdef.Conflict, "cannot kill container: %s: container %s is not running", c.Name, c.ID)
	}
	if signal != unix.SIGKILL {
		return e.signalNoted(c, signal)
	}
	s, err := e.endOnPurpose(c)
	if err != nil || s == nil {
		return err
	}
	defer s.Close()
	over := e.over(s)
	if err := e.signalNoted(c, signal); err != nil {
		return err
	}
	if status == state.Paused {
		if err := e.freeze(c, false); err != nil {
			return err
		}
	}
	return afterKill(context.Background(), c, over)
}

// Pause stops every process of a container, or lets them go on.
func (e *Engine) Pause(c *state.Container, pause bool) error {
	status, _, err := e.Status(c)
	if err != nil {
		return err
	}
	switch {
	case pause && status == state.Paused:
		return errdef.New(errdef.Conflict, "container %s is already paused", c.ID)
	case pause && status != state.Running:
		return errdef.New(errdef.Conflict, "container %s is not running", c.ID)
	case !pause && status != state.Paused:
		return errdef.New(errdef.Conflict, "container %s is not paused", c.ID)
	}
	if err := e.freeze(c, pause); err != nil {
		return e.groupRemoved(c, err)
	}
	action := "unpause"
	if pause {
		action = "pause"
	}
	e.Containers.Note(c, action)
	return nil
}

func (e *Engine) freeze(c *state.Container, frozen bool) error {
	p, err := e.Containers.Process(c.ID)
	if err != nil {
		return err
	}
	if p.Cgroup == "" {
		return errdef.Hint(errdef.New(errdef.Unsupported, "cannot pause container %s: it has no control group", c.Name), "`berth info` says why; start it again where there are some")
	}
	g, err := cgroup.Open(e.Host(), p.Cgroup)
	if err != nil {
		return err
	}
	return g.Freeze(frozen)
}

// Wait waits until a container ends and returns its exit status; of one that does not run, the last.
func (e *Engine) Wait(c *state.Container) (int, error) {
	for {
		status, r, err := e.Status(c)
		if err != nil {
			return 0, err
		}
		if status != state.Running && status != state.Paused && status != state.Restarting {
			if status == state.Created && e.Containers.Monitored(c.ID) {
				time.Sleep(10 * time.Millisecond) // it is being started just now
				continue
			}
			return r.ExitCode, nil
		}
		s, err := e.connect(c, monitor.AttachRequest{})
		if err != nil {
			if e.Containers.Monitored(c.ID) {
				return 0, err
			}
			continue
		}
		exit, err := s.Output(nil, nil)
		_ = s.Close()
		if err == nil {
			return exit.ExitCode, nil
		}
		// The monitor was killed; another one will know.
	}
}

// Signal hands a signal on to a container's first process; what it does with it is its own affair.
func (e *Engine) Signal(c *state.Container, signal syscall.Signal) error { return e.signal(c, signal) }
