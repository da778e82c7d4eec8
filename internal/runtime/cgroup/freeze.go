package cgroup

import (
	"strings"
	"time"

	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/host"
)

// freezeTimeout bounds the wait for the last process of a group to stop; one in an uninterruptible sleep can hold it up.
const freezeTimeout = 10 * time.Second

// Freeze stops every process of the group, or lets all go on. It returns when they have.
func (g *Group) Freeze(frozen bool) error {
	file, value := g.freezer(frozen)
	if file == "" {
		return errdef.New(errdef.Unsupported, "this host has no freezer for the control group %s", g.path)
	}
	if err := write(file, value); err != nil {
		return err
	}
	pause := 50 * time.Microsecond
	for end := time.Now().Add(freezeTimeout); g.Frozen() != frozen; time.Sleep(pause) {
		if time.Now().After(end) {
			// Half frozen is worse than running.
			file, value := g.freezer(false)
			_ = write(file, value)
			return errdef.New(errdef.Unavailable, "the processes of the control group %s do not stop within %s", g.path, freezeTimeout)
		}
		pause = min(2*pause, 20*time.Millisecond)
		// A process that was forking while the group froze can hold version 1 at FREEZING until it is told again.
		if g.host.Cgroup == host.CgroupV1 {
			if err := write(file, value); err != nil {
				return err
			}
		}
	}
	return nil
}

func (g *Group) freezer(frozen bool) (file, value string) {
	if g.host.Cgroup == host.CgroupUnified {
		if frozen {
			return g.v2 + "/cgroup.freeze", "1"
		}
		return g.v2 + "/cgroup.freeze", "0"
	}
	d, ok := g.v1With("freezer")
	if !ok {
		return "", ""
	}
	if frozen {
		return d.path + "/freezer.state", "FROZEN"
	}
	return d.path + "/freezer.state", "THAWED"
}

// Frozen reports whether all processes of the group have stopped.
func (g *Group) Frozen() bool {
	if g.host.Cgroup == host.CgroupUnified {
		return keyed(g.v2+"/cgroup.events", "frozen") == 1
	}
	d, ok := g.v1With("freezer")
	if !ok {
		return false
	}
	data, err := disk.Read(d.path + "/freezer.state")
	return err == nil && strings.TrimSpace(string(data)) == "FROZEN"
}
