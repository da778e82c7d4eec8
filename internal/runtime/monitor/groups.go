package monitor

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"berth/internal/container"
	"berth/internal/runtime/cgroup"
	"berth/internal/state"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// scopeInput is what systemd is told of a container. When it stops the scope, as it does when the host goes down, the container has as
// long to end as `stop` would give it.
func scopeInput(c *state.Container, r *specs.LinuxResources) cgroup.ScopeInput {
	timeout := container.DefaultStopTimeout
	if s := c.Config.StopTimeout; s != nil && *s >= 0 {
		timeout = time.Duration(*s) * time.Second
	}
	return cgroup.ScopeInput{
		ID: c.ID, Description: fmt.Sprintf("container %s (%s)", c.Name, c.Image.Name), Slice: c.Config.CgroupParent, Resources: r, StopTimeout: timeout,
	}
}

// driver is that of the container's control group.
func (m *monitor) driver() cgroup.Driver {
	m.mu.Lock()
	defer m.mu.Unlock()
	return DriverOf(m.process)
}

// DriverOf is the driver with which a container was started, whatever the settings say now; empty leaves the choice to the host.
func DriverOf(p state.Process) cgroup.Driver {
	switch {
	case p.Cgroup == "":
		return ""
	case p.CgroupDriver == "": // of a berth that made all groups by mkdir
		return cgroup.FS
	}
	return cgroup.Driver(p.CgroupDriver)
}

// group is the container's control group, or nil.
func (m *monitor) group() *cgroup.Group {
	m.mu.Lock()
	path := m.process.Cgroup
	m.mu.Unlock()
	if path == "" {
		return nil
	}
	g, err := cgroup.Open(m.Host(), path)
	if err != nil {
		return nil
	}
	return g
}

// clear removes the container's control group, and ends what is left in there; also what somebody has made who was killed before it had
// written that down. A scope is systemd's to remove: it goes with this process.
func (m *monitor) clear() error {
	var errs error
	if f := m.foreign(); f != nil {
		errs = f.Delete()
	}
	h := m.Host()
	paths := cgroup.PathsOf(h, m.c.Config.CgroupParent, m.c.ID)
	m.mu.Lock()
	if p := m.process.Cgroup; p != "" && !slices.Contains(paths, p) {
		paths = append(paths, p) // delegated to whoever has started it, and not to us
	}
	m.mu.Unlock()
	for _, path := range paths {
		if g, err := cgroup.Open(h, path); err == nil {
			errs = errors.Join(errs, g.Remove())
		}
	}
	return errs
}
