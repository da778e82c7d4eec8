package engine

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"berth/internal/errdef"
	"berth/internal/ident"
	"berth/internal/ownjson"
	"berth/internal/runtime/monitor"
	"berth/internal/state"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// ExecOptions is what exec was asked for.
type ExecOptions struct {
	Command       []string
	TTY           bool
	User, Workdir string
	Env           []string
	Privileged    bool
	Detach        bool
	Rows, Columns uint16 // of the terminal
}

// Exec is a further process of a container.
type Exec struct {
	conn *monitor.Conn
	// Console is the first side of the process's terminal, if it has one.
	Console *os.File
	note    func() // that somebody has let go of it
}

// Exec starts a process in a running container. stdio is its standard input, output and error unless it gets a terminal; they
// must be the engine's own: what is handed into a container can be opened again there.
func (e *Engine) Exec(c *state.Container, o ExecOptions, stdio [3]*os.File) (*Exec, error) {
	status, _, err := e.Status(c)
	if err != nil {
		return nil, err
	}
	switch status {
	case state.Running:
	case state.Paused:
		return nil, errdef.New(errdef.Conflict, "Container %s is paused, unpause the container before exec", c.Name)
	default:
		return nil, errdef.New(errdef.Conflict, "container %s is not running", c.ID)
	}
	request, err := e.execRequest(c, o)
	if err != nil {
		return nil, notStarted(err)
	}
	conn, err := e.dial(c)
	if err != nil {
		return nil, errdef.New(errdef.Unavailable, "cannot reach the monitor of container %s: %w", c.Name, err)
	}
	var fds []int
	if !o.TTY {
		for _, f := range stdio {
			fds = append(fds, int(f.Fd()))
		}
	}
	x := &Exec{conn: conn, note: func() { e.Containers.Note(c, "exec_detach", "execID", request.ID) }}
	if err := conn.Send(monitor.FrameExec, request, fds...); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	kind, payload, err := conn.Receive()
	switch {
	case err != nil:
		err = errdef.New(errdef.Unavailable, "the monitor of container %s does not answer: %w", c.Name, err)
	case kind == monitor.FrameFailed:
		err = e.groupRemoved(c, notStarted(failure(e.Settings, payload)))
	case kind != monitor.FrameStarted:
		err = fmt.Errorf("the monitor of container %s said %q", c.Name, kind)
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	if files := conn.Files(); len(files) == 1 && o.TTY {
		x.Console = files[0]
	}
	return x, nil
}

// notStarted is the error of a process that could not be started for a reason of its own, as docker's exit status tells it: a user or a
// working directory that is not there counts as a command that cannot be executed.
func notStarted(err error) error {
	switch errdef.KindOf(err) {
	case errdef.NoCommand, errdef.Conflict, errdef.Unavailable:
		return err
	}
	return errdef.As(errdef.NotExecutable, err)
}

// execRequest decides what the process is: the container's configuration with what was asked for in its place.
func (e *Engine) execRequest(c *state.Container, o ExecOptions) (monitor.ExecRequest, error) {
	cfg := c.Config
	cfg.Entrypoint, cfg.Command, cfg.Init = nil, o.Command, false
	cfg.TTY = o.TTY
	cfg.Env = append(slices.Clone(cfg.Env), o.Env...)
	cfg.Privileged = cfg.Privileged || o.Privileged
	if o.User != "" {
		cfg.User = o.User
	}
	if o.Workdir != "" {
		cfg.Workdir = o.Workdir
	}
	p, err := e.process(c)
	if err != nil {
		return monitor.ExecRequest{}, err
	}
	r, err := monitor.Further(c, cfg, p, e.Host(), func() ([]string, error) { return e.Stack(c) })
	if err == nil && o.TTY && o.Rows > 0 {
		r.Process.ConsoleSize = &specs.Box{Height: uint(o.Rows), Width: uint(o.Columns)}
	}
	r.Detach, r.ID = o.Detach, ident.New()
	return r, err
}

// Detach lets go of the process, which runs on, because somebody has asked for it.
func (x *Exec) Detach() error {
	x.note()
	return x.Close()
}

// Wait waits for the end of the process.
func (x *Exec) Wait() (int, error) {
	defer x.conn.Close()
	for {
		kind, payload, err := x.conn.Receive()
		if err != nil {
			return 0, errdef.New(errdef.Unavailable, "the container's monitor was killed: %w", err)
		}
		if kind == monitor.FrameEnded {
			var m monitor.Ended
			return m.ExitCode, ownjson.Unmarshal(payload, &m)
		}
	}
}

// Close lets go of the process, which runs on.
func (x *Exec) Close() error { return x.conn.Close() }
