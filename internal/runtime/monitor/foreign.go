package monitor

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"berth/internal/runtime/lifecycle"
	"berth/internal/state"
)

// A container with another OCI runtime (`run --runtime`) is started by its monitor, which is then the parent of what the runtime leaves behind:
//
//	command                        monitor                           the other runtime
//	starts a monitor ------------> prepares as for any start
//	                               config.json, create ------------> makes the container, whose first process waits
//	                               connects it, start -------------> lets it go on
//	                               process.json
//	<----------------- FrameStarted
//
// Whoever of them is killed: what the runtime has made is known to it by its state in the run directory, and deleted when the next command
// finds that nobody looks after the container and no process is written down.

// Start starts a container that has another OCI runtime, and stays with it until it has ended for good. The command that has asked for it holds
// the container's lock until it is told how that went.
func Start(o Options) error { return run(o, (*monitor).first) }

// foreign is the OCI runtime that has the container, or nil if that is this program.
func (o Options) foreign() *lifecycle.Foreign {
	c := o.Container
	if c.RuntimeProgram == "" {
		return nil
	}
	return &lifecycle.Foreign{Name: c.Config.Runtime, Program: c.RuntimeProgram, ID: c.ID, Dir: filepath.Join(o.Store.RunDir(c.ID), "runtime")}
}

// first is the first life of a container that has another runtime.
func (m *monitor) first(record *state.Record) (Ended, error) {
	return m.whole(func(record *state.Record) (*lifecycle.Running, error) {
		m.starting.Lock()
		defer m.starting.Unlock()
		if err := os.Remove(m.stopFile()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		return m.startHere(record)
	}, record)
}

// enter starts a further process in the container.
func (m *monitor) enter(in lifecycle.ExecInput) (*lifecycle.Running, error) {
	f := m.foreign()
	if f == nil {
		return lifecycle.Exec(in)
	}
	m.entering.Lock()
	defer m.entering.Unlock()
	return f.Exec(in.Process, [3]*os.File{in.Stdin, in.Stdout, in.Stderr})
}
