package engine

import (
	"slices"

	"berth/internal/container"
	"berth/internal/errdef"
	"berth/internal/runtime/monitor"
	"berth/internal/state"
)

// Started is what became of a container that Boot has started.
type Started struct {
	Container *state.Container
	Err       error
}

// Boot starts the containers that are to run after the host has come up, as their restart policies say, the oldest first: what ran when it
// went down, and, as with docker, what has the policy always even if somebody had stopped it. One that needs another container, which is not
// there yet, is tried again after the others. Each has its turn once it has started, or could not be.
func (e *Engine) Boot(each func(Started)) error {
	all, err := e.ListOwn() // which puts right what the host took down with it
	if err != nil {
		return err
	}
	slices.Reverse(all)
	all = slices.DeleteFunc(all, func(l Listed) bool { return !bootStarts(l.Config, l.Record) })
	for len(all) > 0 {
		var waiting []Listed
		for _, l := range all {
			s, err := e.Start(l.Container, monitor.AttachRequest{})
			switch {
			case err == nil:
				_ = s.Close()
				each(Started{Container: l.Container})
			case errdef.Is(err, errdef.Conflict):
				waiting = append(waiting, l)
			default:
				each(Started{l.Container, err})
			}
		}
		if len(waiting) == len(all) { // none will be there
			for _, l := range waiting {
				s, err := e.Start(l.Container, monitor.AttachRequest{})
				if err == nil {
					_ = s.Close()
				}
				each(Started{l.Container, err})
			}
			return nil
		}
		all = waiting
	}
	return nil
}

// bootStarts decides whether a container is started when the host has come up.
func bootStarts(c container.Config, r state.Record) bool {
	if r.Status != state.Exited || c.AutoRemove {
		return false
	}
	switch c.Restart.Name {
	case container.RestartAlways:
		return true
	case container.RestartUnlessStopped:
		return !r.Stopped
	case container.RestartOnFailure:
		return !r.Stopped && r.ExitCode != 0 && (c.Restart.Retries == 0 || r.RestartCount < c.Restart.Retries)
	}
	return false
}
