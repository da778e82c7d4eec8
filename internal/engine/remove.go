package engine

import (
	"context"
	"errors"
	"os"
	"time"

	"berth/internal/errdef"
	"berth/internal/event"
	"berth/internal/network"
	"berth/internal/runtime/cgroup"
	"berth/internal/state"

	"golang.org/x/sys/unix"
)

// Remove removes a container, with volumes also its anonymous volumes. One that runs is only removed by force, which
// kills it.
func (e *Engine) Remove(c *state.Container, force, volumes bool) error {
	for end := time.Now().Add(endTime); ; time.Sleep(time.Millisecond) {
		gone, err := e.removeEnded(c, force, volumes)
		if gone || err != nil {
			return err
		}
		if time.Now().After(end) {
			return errdef.New(errdef.Conflict, "cannot remove container \"/%s\": it was started again", c.Name)
		}
	}
}

// endTime is how long a monitor whose container has ended may take to be done with it.
const endTime = 5 * time.Second

// removeEnded removes a container that does not run, having killed one that does by force. gone is false while a monitor is still, or
// again, there: it is just giving back what the container held, or somebody else has started the container.
func (e *Engine) removeEnded(c *state.Container, force, volumes bool) (gone bool, _ error) {
	status, _, err := e.Status(c)
	if errdef.Is(err, errdef.NotFound) && force {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	switch status {
	case state.Running, state.Paused, state.Restarting:
		if !force {
			return false, errdef.New(errdef.Conflict, "cannot remove container \"/%s\": container is %s: stop the container before removing or force remove", c.Name, status)
		}
		if err := e.Kill(c, unix.SIGKILL); err != nil && !errdef.Is(err, errdef.Conflict) {
			return false, err
		}
	}
	l, err := e.lock(c.ID)
	if errdef.Is(err, errdef.NotFound) {
		return true, nil // it removed itself
	}
	if err != nil {
		return false, err
	}
	defer l.Unlock()
	if err := e.settleLocked(c); err != nil || e.Containers.Monitored(c.ID) {
		return false, err
	}
	return true, e.remove(c, volumes)
}

func (e *Engine) remove(c *state.Container, volumes bool) error {
	// A container that does not run holds nothing of a network, unless something was killed.
	if err := e.Networks().ReleaseAll(c.ID, network.Disconnected); err != nil {
		return err
	}
	err := e.Containers.Remove(c, e.RemoveTree)
	if err == nil {
		e.Containers.Note(c, "destroy")
	}
	if !volumes {
		return err
	}
	own, ownErr := e.Containers.OwnVolumes(c)
	err = errors.Join(err, ownErr)
	for _, name := range own {
		if gone := e.removeVolume(name); !errdef.Is(gone, errdef.NotFound) {
			err = errors.Join(err, gone)
		}
	}
	return err
}

// Prune removes all containers that do not run, but for those that keep names, and what killed commands have left. It returns what it has removed, and
// how many bytes they had written.
func (e *Engine) Prune(ctx context.Context, p *Pruning, keep func(*state.Container) bool) (removed []string, bytes int64, _ error) {
	all, err := e.ListOwn()
	if err != nil {
		return nil, 0, err
	}
	for _, c := range all {
		if c.Record.Status != state.Exited && c.Record.Status != state.Created || keep(c.Container) {
			continue
		}
		written, _, err := e.Sizes(c.Container)
		if err != nil {
			written = 0 // it cannot be read, and goes all the same
		}
		if p.Dry {
			p.gone = append(p.gone, c.ID)
			removed, bytes = append(removed, c.ID), bytes+written
			continue
		}
		if err := e.Remove(c.Container, false, true); err != nil {
			if errdef.Is(err, errdef.Conflict) {
				continue
			}
			return removed, bytes, err
		}
		removed, bytes = append(removed, c.ID), bytes+written
	}
	if p.Dry {
		return removed, bytes, ctx.Err()
	}
	e.NotePrune(event.Container, bytes)
	return removed, bytes, errors.Join(e.Sweep(), ctx.Err())
}

// Sweep removes what killed commands have left: half-made containers, those of steps without a build, names without containers, run directories and
// control groups of containers that are no more, and what those hold on networks.
func (e *Engine) Sweep() error {
	return errors.Join(e.sweepGroups(), e.sweepSteps(), e.Containers.Sweep(e.RemoveTree), e.Volumes.Sweep(e.RemoveTree), e.sweepNetworks())
}

// sweepGroups removes the control groups of containers of this instance that are no more. Those of other instances are not
// known here, and left.
func (e *Engine) sweepGroups() error {
	h := e.Host()
	var errs error
	for _, id := range cgroup.IDs(h) {
		if _, err := os.Stat(e.Containers.RunDir(id)); err != nil || e.Containers.Monitored(id) {
			continue
		}
		if _, err := e.Containers.Load(id); errdef.Is(err, errdef.NotFound) {
			for _, path := range cgroup.PathsOf(h, "", id) {
				if g, err := cgroup.Open(h, path); err == nil {
					errs = errors.Join(errs, g.Remove())
				}
			}
		}
	}
	return errs
}
