package engine

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"berth/internal/errdef"
	"berth/internal/state"
	"berth/internal/storage"
)

// Migration is what moving all containers to another storage driver comes to.
type Migration struct {
	To    string
	Moves []*state.Container
	Stays []Stay
}

// Stay is a container that keeps its driver, and why.
type Stay struct {
	Container *state.Container
	Why       string
}

// PlanMigration decides what is to be moved to the storage driver to; empty is the one that new containers get.
func (e *Engine) PlanMigration(to string) (Migration, error) {
	driver, err := e.Driver()
	if to != "" {
		v := *e
		v.Settings.StorageDriver = to
		driver, err = v.Driver()
	}
	if err != nil {
		return Migration{}, err
	}
	all, err := e.ListOwn()
	if err != nil {
		return Migration{}, err
	}
	return planMigration(all, driver.Name)
}

// planMigration is the decision alone. Nothing is moved while any container runs: of what is moved under it nothing would be left to it.
func planMigration(all []Listed, to string) (Migration, error) {
	m := Migration{To: to}
	var running []string
	for _, l := range all {
		switch why := staysWith(l.Container, to); {
		case driverOf(l.Container) == to:
		case l.Record.Status == state.Running || l.Record.Status == state.Paused || l.Record.Status == state.Restarting:
			running = append(running, l.Name)
		case why != "":
			m.Stays = append(m.Stays, Stay{l.Container, why})
		default:
			m.Moves = append(m.Moves, l.Container)
		}
	}
	if len(running) > 0 {
		slices.Sort(running)
		return m, errdef.Hint(errdef.New(errdef.Conflict, "cannot move containers to the storage driver %s while they run: %s", to, strings.Join(running, ", ")),
			"berth stop %s", strings.Join(running, " "))
	}
	return m, nil
}

// staysWith is why a container cannot have another driver, or empty.
func staysWith(c *state.Container, to string) string {
	switch {
	case c.UIDMaps != nil:
		return "it has ids of its own (--userns), and so a copy of its image"
	case c.Config.StorageBytes > 0:
		return "what it may write is limited (--storage-opt size), which takes " + storage.Overlay
	case c.RuntimeProgram != "" && to == storage.Fuse:
		return "it has the runtime " + c.Config.Runtime
	}
	return ""
}

// Migrate moves containers, one after another; moved is told of each. One that was started or removed since the decision is an error of its own, or
// none; those before it stay moved.
func (e *Engine) Migrate(ctx context.Context, m Migration, moved func(c *state.Container, from string)) error {
	for _, c := range m.Moves {
		if ctx.Err() != nil {
			return errdef.As(errdef.Cancelled, context.Cause(ctx))
		}
		from, err := e.moveTo(c.ID, m.To)
		if errdef.Is(err, errdef.NotFound) {
			continue // removed meanwhile
		}
		if err != nil {
			return fmt.Errorf("cannot move container %s to the storage driver %s: %w", c.Name, m.To, err)
		}
		moved(c, from)
	}
	if m.To == storage.Btrfs {
		return nil
	}
	return e.dropBases()
}

// moveTo moves one container, which must not run, and returns the driver that it had.
func (e *Engine) moveTo(id, to string) (from string, _ error) {
	l, err := e.lock(id)
	if err != nil {
		return "", err
	}
	defer l.Unlock()
	c, err := e.Containers.Load(id) // it may have changed
	if err != nil {
		return "", err
	}
	if err := e.settleLocked(c); err != nil {
		return "", err
	}
	if e.Containers.Monitored(id) {
		return "", errdef.New(errdef.Conflict, "it has been started")
	}
	target, err := storage.Open(to)
	if err != nil {
		return "", err
	}
	p, err := e.placeOf(c)
	if err != nil {
		return "", err
	}
	p.Durable = true
	had := storage.Of(c.Driver)
	return had.Name(), storage.Move(p, had, target, func() error { return e.Containers.SetDriver(c, to) })
}

// dropBases removes what containers of the driver btrfs are snapshots of, when there are none.
func (e *Engine) dropBases() error {
	all, err := e.Containers.List()
	if err != nil || slices.ContainsFunc(all, func(c *state.Container) bool { return c.Driver == storage.Btrfs }) {
		return err
	}
	return e.Images.Layers.DropBases()
}
