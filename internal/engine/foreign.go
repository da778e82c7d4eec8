package engine

import (
	"errors"
	"io"
	"os/exec"
	"path/filepath"

	"berth/internal/container"
	"berth/internal/errdef"
	"berth/internal/runtime/monitor"
	"berth/internal/state"
)

// runtimeProgram is the program of an OCI runtime by its name, or by its path; empty is this one. runc, docker's name for what starts a
// container by default, is this one where there is no such program.
func (e *Engine) runtimeProgram(name string) (string, error) {
	if container.OwnRuntime(name) {
		return "", nil
	}
	program, known := e.Settings.Runtimes[name]
	if !known {
		program = name
	}
	path, err := exec.LookPath(program)
	if err == nil {
		return filepath.Abs(path)
	}
	switch {
	case known:
		return "", errdef.New(errdef.Invalid, "cannot use the runtime %s: %w", name, err)
	case name == "runc":
		return "", nil
	}
	return "", errdef.Hint(errdef.New(errdef.Invalid, "unknown or invalid runtime name: %s", name), "there is no such program; the table [runtimes] of the configuration gives runtimes names")
}

// startForeign starts a container that has another OCI runtime: its monitor does it. The caller holds the container's lock.
func (e *Engine) startForeign(c *state.Container, request monitor.AttachRequest) (*Session, error) {
	if request.Stdin || request.Output {
		e.Containers.Note(c, "attach")
	}
	conn, err := e.meet(c, "start", request)
	if err != nil {
		return nil, err
	}
	for {
		kind, payload, err := conn.Receive()
		switch {
		case errors.Is(err, io.EOF):
			err = errdef.New(errdef.Unknown, "cannot start container %s: its monitor was killed", c.Name)
		case kind == monitor.FrameFailed:
			err = failure(e.Settings, payload)
		case kind == monitor.FrameStarted:
			return &Session{c, conn, e.Settings}, nil
		}
		if err != nil {
			return nil, errors.Join(err, conn.Close())
		}
	}
}
