package engine

import (
	"context"
	"errors"
	"io"

	"berth/internal/container"
	"berth/internal/errdef"
	"berth/internal/ident"
	"berth/internal/runtime/monitor"
	"berth/internal/settings"
	"berth/internal/state"
)

// Session is a connection to a running container.
type Session struct {
	Container *state.Container
	conn      *monitor.Conn
	settings  settings.Values
}

// Run creates a container and starts it. When it cannot be started, one that would have been removed at its end is gone.
//
// The monitor's program is started first, and gets ready while the container is made: that is a third of the time of both.
func (e *Engine) Run(ctx context.Context, cfg container.Config, pull string, attach monitor.AttachRequest, created func(*state.Container) error) (*Session, error) {
	id := ident.New()
	summoned := make(chan summons, 1)
	go func() { summoned <- e.summon(id, "run") }()
	c, err := e.create(ctx, id, cfg, pull)
	made := err == nil
	if made && created != nil {
		err = created(c)
	}
	m := <-summoned
	if err == nil {
		err = m.err
	}
	if err == nil {
		var s *Session
		if s, err = e.beginNew(c, m, attach); err == nil {
			return s, nil
		}
		return nil, err
	}
	m.dismiss()
	if made {
		err = errors.Join(err, e.remove(c, true))
	}
	return nil, err
}

// beginNew starts a container that has just been made; its lock keeps those out who would remove it meanwhile.
func (e *Engine) beginNew(c *state.Container, m summons, attach monitor.AttachRequest) (*Session, error) {
	l, err := e.lock(c.ID)
	if err != nil {
		m.dismiss()
		return nil, err
	}
	defer l.Unlock()
	if err := e.copyImage(c); err != nil {
		m.dismiss()
		return nil, err
	}
	if err := e.begin(c, m, attach); err != nil {
		return nil, err
	}
	s := &Session{c, m.conn, e.Settings}
	if err := s.untilStarted(); err != nil {
		return nil, errors.Join(err, m.conn.Close())
	}
	return s, nil
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
	if err := e.copyImage(c); err != nil {
		return nil, err
	}
	conn, err := e.launch(c, false, attach)
	if err != nil {
		return nil, err
	}
	s := &Session{c, conn, e.Settings}
	if err := s.untilStarted(); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return s, nil
}

func (s *Session) untilStarted() error {
	kind, payload, err := s.conn.Receive()
	switch {
	case err != nil:
		return errdef.Hint(errdef.New(errdef.Unknown, "the container's monitor ended before it had started the container: %w", err), "berth ps -a shows what became of it")
	case kind == monitor.FrameFailed:
		return failure(s.settings, payload)
	case kind == monitor.FrameStarted:
		return nil
	}
	return errdef.New(errdef.Unknown, "the container's monitor said %q instead of whether the container has started", kind)
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
	return e.connect(c, attach)
}

// connect connects to a container's monitor.
func (e *Engine) connect(c *state.Container, attach monitor.AttachRequest) (*Session, error) {
	conn, err := monitor.Dial(e.Containers.RunDir(c.ID))
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
