package engine

import (
	"context"
	"errors"
	"io"
	"time"

	"berth/internal/container"
	"berth/internal/errdef"
	"berth/internal/runtime/lifecycle"
	"berth/internal/runtime/monitor"
	"berth/internal/settings"
	"berth/internal/state"

	"golang.org/x/sys/unix"
)

// Session is a connection to a running container.
type Session struct {
	Container *state.Container
	conn      *monitor.Conn
	settings  settings.Values
}

// Run creates a container and starts it. When it cannot be started, one that would have been removed at its end is gone.
func (e *Engine) Run(ctx context.Context, cfg container.Config, pull string, attach monitor.AttachRequest, created func(*state.Container) error) (*Session, error) {
	var network *lifecycle.Network
	if _, shares := cfg.SharesNetwork(); !shares && cfg.Network != container.NetworkHost && (!e.Host().Rootless || cfg.UserNS == container.UserNSHost) {
		network = lifecycle.MakeNetwork() // while the container is made on disk
		defer network.Close()
	}
	c, err := e.Create(ctx, cfg, pull)
	if err != nil {
		return nil, err
	}
	if created != nil {
		if err := created(c); err != nil {
			return nil, errors.Join(err, e.remove(c, true))
		}
	}
	l, err := e.lock(c.ID) // keeps those out who would remove it meanwhile
	if err != nil {
		return nil, err
	}
	defer l.Unlock()
	if err := errors.Join(e.sharesMemory(c), e.prepareFiles(c)); err != nil {
		return nil, err
	}
	return e.start(c, network, attach)
}

// Start starts a container that does not run and returns when its process does.
func (e *Engine) Start(c *state.Container, attach monitor.AttachRequest) (*Session, error) {
	l, err := e.lock(c.ID)
	if err != nil {
		return nil, err
	}
	defer l.Unlock()
	if err := e.settleLocked(c); err != nil {
		return nil, err
	}
	if err := errors.Join(e.sharesMemory(c), e.prepareFiles(c)); err != nil {
		return nil, err
	}
	return e.start(c, nil, attach)
}

// Attach connects to a container that runs.
func (e *Engine) Attach(c *state.Container, attach monitor.AttachRequest) (*Session, error) {
	status, _, err := e.Status(c)
	if err != nil {
		return nil, err
	}
	switch status {
	case state.Running:
	case state.Paused:
		return nil, errdef.New(errdef.Conflict, "You cannot attach to a paused container, unpause it first")
	case state.Restarting:
		return nil, errdef.New(errdef.Conflict, "You cannot attach to a restarting container, wait until it is running")
	default:
		return nil, errdef.New(errdef.Conflict, "You cannot attach to a stopped container, start it first")
	}
	e.Containers.Note(c, "attach")
	return e.connect(c, attach)
}

// dial connects to a container's monitor. One that is being killed has its lock for a moment longer than its socket; it has a successor.
func (e *Engine) dial(c *state.Container) (*monitor.Conn, error) {
	for end := time.Now().Add(endTime); ; time.Sleep(time.Millisecond) {
		conn, err := monitor.Dial(e.Containers.RunDir(c.ID))
		if !errors.Is(err, unix.ECONNREFUSED) || time.Now().After(end) {
			return conn, err
		}
		if e.Containers.Monitored(c.ID) {
			continue
		}
		if status, _, statusErr := e.Status(c); statusErr != nil || status != state.Running && status != state.Paused && status != state.Restarting {
			return nil, err
		}
	}
}

// connect connects to a container's monitor.
func (e *Engine) connect(c *state.Container, attach monitor.AttachRequest) (*Session, error) {
	conn, err := e.dial(c)
	if err != nil {
		return nil, errdef.New(errdef.Unavailable, "cannot reach the monitor of container %s: %w", c.Name, err)
	}
	attach.Version = monitor.Version
	if err := conn.Send(monitor.FrameAttach, attach); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return &Session{c, conn, e.Settings}, nil
}

// Output copies what the container prints until it ends, and says how.
func (s *Session) Output(stdout, stderr io.Writer) (monitor.Ended, error) {
	for {
		kind, payload, err := s.conn.Receive()
		if err != nil {
			return monitor.Ended{}, err
		}
		switch kind {
		case monitor.FrameStdout:
			_, err = stdout.Write(payload)
		case monitor.FrameStderr:
			_, err = stderr.Write(payload)
		case monitor.FrameFailed:
			return monitor.Ended{}, failure(s.settings, payload)
		case monitor.FrameEnded:
			return ended(payload)
		}
		if err != nil {
			return monitor.Ended{}, err
		}
	}
}

// Input sends p to the container's standard input.
func (s *Session) Input(p []byte) error { return s.conn.Send(monitor.FrameStdin, p) }

// CloseInput ends the container's standard input.
func (s *Session) CloseInput() error { return s.conn.Send(monitor.FrameCloseIn, nil) }

// Resize tells the container the size of its terminal.
func (s *Session) Resize(rows, columns uint16) error {
	return s.conn.Send(monitor.FrameResize, []byte{byte(rows >> 8), byte(rows), byte(columns >> 8), byte(columns)})
}

// Close lets go of the container, which runs on.
func (s *Session) Close() error { return s.conn.Close() }
