package engine

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"

	"berth/internal/container"
	"berth/internal/errdef"
	"berth/internal/ownjson"
	"berth/internal/runtime/cgroup"
	"berth/internal/runtime/lifecycle"
	"berth/internal/runtime/monitor"
	"berth/internal/settings"
	"berth/internal/state"

	"golang.org/x/sys/unix"
)

// Status says what a container is doing, having put right what killed processes of berth have left.
func (e *Engine) Status(c *state.Container) (state.Status, state.Record, error) {
	attendance, r, err := e.look(c.ID)
	if err == nil && (unsettled(attendance, r) || attendance != state.Settled && e.Containers.Updating(c.ID)) {
		err := e.settle(c)
		if errors.Is(err, unix.EROFS) {
			return e.unsettledStatus(c.ID, r, err)
		}
		if err != nil {
			return "", state.Record{}, err
		}
		attendance, r, err = e.look(c.ID)
		if err != nil {
			return "", r, err
		}
	}
	if err != nil {
		return "", r, err
	}
	if attendance != state.Attended {
		if r.Status == state.Created { // or it is no more, and has no record for that reason
			if _, err := os.Stat(e.Containers.Dir(c.ID)); errors.Is(err, fs.ErrNotExist) {
				return "", r, errdef.New(errdef.NotFound, "No such container: %s", c.ID)
			}
		}
		return r.Status, r, nil
	}
	if p, err := e.Containers.Process(c.ID); err == nil && r.Status != state.Restarting {
		r.Status, r.StartedAt = state.Running, p.StartedAt
		if e.frozen(p) && !e.goesOn(c) {
			r.Status = state.Paused
		}
	}
	return r.Status, r, nil
}

// goesOn has a paused container go on that a command had held still, and reports whether it has: the command was killed.
func (e *Engine) goesOn(c *state.Container) bool {
	l := e.Containers.Abandoned(c.ID)
	if l == nil {
		return false
	}
	if err := e.freeze(c, false); err != nil {
		l.Unlock()
		return false
	}
	e.Containers.Note(c, "unpause")
	_ = e.Containers.LetGo(c.ID, l) // what is left of it says nothing about a container that is not paused
	return true
}

func (e *Engine) settle(c *state.Container) error {
	l, err := e.lock(c.ID)
	if err != nil {
		return err
	}
	defer l.Unlock()
	return e.settleLocked(c)
}

// unsettledStatus is what can be said of a container that cannot be put right because its file system has become read-only, as a broken disk's
// does: what is broken already is still shown, with all that is well.
func (e *Engine) unsettledStatus(id string, r state.Record, cause error) (state.Status, state.Record, error) {
	if p, err := e.Containers.Process(id); err == nil {
		if pidfd := p.Open(); pidfd >= 0 {
			_ = unix.Close(pidfd)
			r.Status, r.StartedAt = state.Running, p.StartedAt
			if e.frozen(p) {
				r.Status = state.Paused
			}
			return r.Status, r, nil
		}
	}
	r.Status, r.ExitCode, r.Error = state.Exited, 255, "it has ended, which cannot be written down: "+cause.Error()
	return r.Status, r, nil
}

// look reads who looks after a container and what is written of it, in this order: a monitor that goes meanwhile has written before.
func (e *Engine) look(id string) (state.Attendance, state.Record, error) {
	attendance := e.Containers.Attendance(id)
	r, err := e.Containers.Record(id)
	return attendance, r, err
}

// unsettled reports whether a container has no monitor and yet the traces of a run.
func unsettled(a state.Attendance, r state.Record) bool {
	return a == state.Deserted || a == state.Settled && (r.Status == state.Running || r.Status == state.Restarting)
}

func (e *Engine) frozen(p state.Process) bool {
	if p.Cgroup == "" {
		return false
	}
	g, err := cgroup.Open(e.Host(), p.Cgroup)
	return err == nil && g.Frozen()
}

// settleLocked puts right what an update that was cut off has left, and gives a container whose monitor is gone another one, which adopts
// it or records its end. The caller holds the container's lock.
func (e *Engine) settleLocked(c *state.Container) error {
	if err := e.settleUpdate(c); err != nil {
		return err
	}
	attendance, r, err := e.look(c.ID)
	if err != nil || !unsettled(attendance, r) {
		return err
	}
	if attendance == state.Settled {
		// The run root went with the boot, and the container with it.
		if c.Config.AutoRemove {
			return e.remove(c, true)
		}
		r.Status, r.ExitCode, r.Error, r.FinishedAt = state.Exited, 255, "it ended with the host", time.Now().UTC()
		return e.Containers.SetRecord(c.ID, r, durability(c.Config.AutoRemove))
	}
	conn, err := e.adopt(c)
	if errdef.Is(err, errdef.Conflict) {
		return nil // somebody else was quicker
	}
	if err != nil {
		return err
	}
	defer conn.Close()
	for {
		kind, payload, err := conn.Receive()
		switch {
		case errors.Is(err, io.EOF), err != nil:
			return nil // it has done what there was to do, and is gone
		case kind == monitor.FrameFailed:
			return failure(e.Settings, payload)
		case kind == monitor.FrameStarted, kind == monitor.FrameEnded:
			return nil
		}
	}
}

// List returns all containers with what they are doing, the newest first; the steps of builds are among them.
func (e *Engine) List() ([]Listed, error) {
	all, err := e.Containers.List()
	if err != nil {
		return nil, err
	}
	var out []Listed
	for _, c := range all {
		status, r, err := e.Status(c)
		if errdef.Is(err, errdef.NotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		r.Status = status
		health := container.HealthNone
		if h := e.Health(c, r); h != nil {
			health = h.Status
		}
		out = append(out, Listed{c, r, health})
	}
	return out, nil
}

// Listed is a container with what it is doing.
type Listed struct {
	*state.Container
	Record state.Record
	Health container.HealthStatus
}

// Health is what is known of the health of a container whose record is r; nil if nobody looks, or has ever looked. One that does not run
// is unhealthy, as docker has it.
func (e *Engine) Health(c *state.Container, r state.Record) *container.Health {
	if c.Config.HealthCommand() == nil {
		return nil
	}
	h, ok := e.Containers.Health(c.ID, r.StartedAt)
	if r.Status != state.Running && r.Status != state.Paused {
		if !ok {
			return nil
		}
		h.Status = container.HealthUnhealthy
	}
	if h.Log == nil {
		h.Log = []container.HealthResult{}
	}
	return &h
}

// ListOwn is List without the steps of builds.
func (e *Engine) ListOwn() ([]Listed, error) {
	all, err := e.List()
	return slices.DeleteFunc(all, func(l Listed) bool { return l.Step != "" }), err
}

// process is where a container runs, or that it does not.
func (e *Engine) process(c *state.Container) (state.Process, error) {
	status, _, err := e.Status(c)
	if err != nil {
		return state.Process{}, err
	}
	if status != state.Running && status != state.Paused {
		return state.Process{}, errdef.New(errdef.Conflict, "container %s is not running", c.ID)
	}
	p, err := e.Containers.Process(c.ID)
	if errors.Is(err, fs.ErrNotExist) {
		return p, errdef.New(errdef.Conflict, "container %s is not running", c.ID)
	}
	return p, err
}

// Process is where a running container runs.
func (e *Engine) Process(c *state.Container) (state.Process, error) { return e.process(c) }

// failure is the error that a monitor reports, with what is missing on this host if that is why.
func failure(v settings.Values, payload []byte) error {
	var f monitor.Failed
	if err := ownjson.Unmarshal(payload, &f); err != nil {
		return err
	}
	if f.Call == nil || !f.Call.Telling() {
		return f.Err()
	}
	return explained(v, f.Err(), *f.Call)
}

// explainedStart is the error of a start with what is missing on this host, if that is why.
func explainedStart(v settings.Values, err error) error {
	call, ok := lifecycle.FailedCall(err)
	if !ok || !call.Telling() {
		return err
	}
	return explained(v, err, call)
}

func ended(payload []byte) (monitor.Ended, error) {
	var m monitor.Ended
	return m, ownjson.Unmarshal(payload, &m)
}
