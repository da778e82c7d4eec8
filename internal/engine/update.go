package engine

import (
	"errors"
	"fmt"
	"io/fs"

	"berth/internal/container"
	"berth/internal/errdef"
	"berth/internal/runtime/cgroup"
	"berth/internal/runtime/monitor"
	"berth/internal/runtime/spec"
	"berth/internal/state"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// UpdateOptions is what `update` asks for.
type UpdateOptions struct {
	Limits  *container.ResourceChange // nil leaves them as they are, and need not have a control group to change
	Restart *container.RestartPolicy  // nil leaves it as it is
}

// Update changes the limits and the restart policy of a container, all that is asked for or nothing. A running one has its limits at once;
// its monitor reads the policy when the container ends.
//
// The kernel is asked first, so that the configuration never says what it has refused. Who is killed in between leaves a file behind, for
// which the next command gives the container the limits that its configuration says.
func (e *Engine) Update(ref *state.Container, o UpdateOptions) (err error) {
	defer func() {
		if err == nil {
			e.Containers.Note(ref, "update")
		}
	}()
	l, err := e.lock(ref.ID)
	if err != nil {
		return err
	}
	defer l.Unlock()
	if err := e.settleLocked(ref); err != nil {
		return err
	}
	c, err := e.Containers.Load(ref.ID) // as it is under the lock
	if err != nil {
		return err
	}
	//lint:ignore ST1005 docker's words
	cannot := func(err error) error { return fmt.Errorf("Cannot update container %s: %w", c.ID, err) }
	cfg, err := updated(c.Config, o)
	if err != nil {
		return cannot(err)
	}
	old, limits, err := bothLimits(c.Config.Resources, cfg.Resources)
	if err != nil {
		return cannot(err)
	}
	if o.Limits == nil {
		return e.Containers.SetConfig(c, cfg)
	}
	group, err := e.groupOf(c)
	if err != nil {
		return cannot(err)
	}
	if group == nil {
		return e.Containers.SetConfig(c, cfg)
	}
	if err := e.Containers.BeginUpdate(c.ID); err != nil {
		return cannot(err)
	}
	err = group.Replace(old, limits)
	if err == nil {
		if err = e.Containers.SetConfig(c, cfg); err != nil {
			err = errors.Join(err, group.Update(old))
		}
	}
	if err = errors.Join(err, e.Containers.EndUpdate(c.ID)); err != nil {
		return cannot(e.groupRemoved(c, err))
	}
	return nil
}

// updated is a configuration with the changes that are asked for.
func updated(c container.Config, o UpdateOptions) (container.Config, error) {
	if o.Limits != nil {
		limits, err := c.Resources.Change(*o.Limits)
		if err == nil {
			err = limits.Check(processors(limits))
		}
		if err != nil {
			return c, err
		}
		c.Resources = limits
	}
	if o.Restart != nil {
		if c.AutoRemove && o.Restart.Lasting() {
			return c, errdef.New(errdef.Conflict, "Restart policy cannot be updated because AutoRemove is enabled for the container")
		}
		c.Restart = *o.Restart
	}
	return c, nil
}

// bothLimits are limits before and after a change in the words of the OCI spec.
func bothLimits(before, after container.Resources) (old, limits *specs.LinuxResources, err error) {
	devices, err := monitor.BlockDevices(after) // which update does not change
	if err != nil {
		return nil, nil, err
	}
	return spec.Resources(before, devices), spec.Resources(after, devices), nil
}

// groupOf is the control group of a running container; nil of one that does not run. The caller holds the container's lock.
func (e *Engine) groupOf(c *state.Container) (*cgroup.Group, error) {
	p, err := e.Containers.Process(c.ID)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !runs(p) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if p.Cgroup == "" {
		return nil, errdef.Hint(errdef.New(errdef.Unsupported, "it runs without a control group"), "`berth info` says why; start it again where there are some")
	}
	return cgroup.Open(e.Host(), p.Cgroup)
}

// groupRemoved says of a failure that a running container has no control group any more, if that is so: somebody else has moved its processes
// elsewhere, and removed it. They go on, without limits.
func (e *Engine) groupRemoved(c *state.Container, err error) error {
	p, e2 := e.Containers.Process(c.ID)
	if err == nil || e2 != nil || p.Cgroup == "" || !runs(p) {
		return err
	}
	if g, e2 := cgroup.Open(e.Host(), p.Cgroup); e2 == nil && g.Exists() {
		return err
	}
	return errdef.Hint(errdef.New(errdef.KindOf(err), "the control group of container %s is gone, and its limits with it: another program has removed it", c.Name),
		"berth restart %s gives it another", c.Name)
}

// settleUpdate gives a container whose update was cut off the limits of its configuration. If the kernel refuses them, the next command
// tries again; until then `explain` shows the difference. The caller holds the container's lock.
func (e *Engine) settleUpdate(c *state.Container) error {
	if !e.Containers.Updating(c.ID) {
		return nil
	}
	now, err := e.Containers.Load(c.ID)
	if err != nil {
		return err
	}
	group, err := e.groupOf(now)
	if err != nil {
		return err
	}
	if group != nil {
		limits, _, err := bothLimits(now.Config.Resources, now.Config.Resources)
		if err != nil || group.Update(limits) != nil {
			return nil //nolint:nilerr // what can be done with the container is not to depend on that
		}
	}
	return e.Containers.EndUpdate(c.ID)
}
