package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"berth/internal/errdef"
	"berth/internal/host"
)

// Below is the group as a process sees it that is to be in groups below it: PATH in all hierarchies, or CONTROLLER[,CONTROLLER]:PATH in those
// of version 1 alone; the others stay. They must be there.
func (g *Group) Below(wanted []string) (*Group, error) {
	below := *g
	below.v1 = slices.Clone(g.v1)
	for _, w := range wanted {
		controllers, sub, named := strings.Cut(w, ":")
		if !named {
			sub = w
		}
		if clean := filepath.Join("/", sub); strings.HasPrefix(filepath.Clean(strings.TrimLeft(sub, "/")), "..") {
			return nil, errdef.New(errdef.Invalid, "bad sub cgroup path: %q is not below the container's cgroup", sub)
		} else {
			sub = strings.TrimSuffix(clean, "/")
		}
		if !named {
			for i := range below.v1 {
				below.v1[i].path = g.v1[i].path + sub
			}
			if g.v2 != "" && g.host.Cgroup == host.CgroupUnified {
				below.v2 = g.v2 + sub
			}
			continue
		}
		for controller := range strings.SplitSeq(controllers, ",") {
			i := slices.IndexFunc(g.v1, func(d directory) bool { return slices.Contains(d.controllers, controller) })
			if i < 0 {
				return nil, errdef.New(errdef.Invalid, "unknown controller %s in %q: this host has it in no hierarchy of its own", controller, w)
			}
			below.v1[i].path = g.v1[i].path + sub
		}
	}
	return &below, below.isThere()
}

// isThere says which of the group's directories is missing.
func (g *Group) isThere() error {
	for _, p := range g.Paths() {
		if _, err := os.Stat(p); err != nil {
			return errdef.As(errdef.NotFound, fmt.Errorf("error adding pid of the new process to cgroups: %w", err))
		}
	}
	return nil
}

// Beside is the group below this one in which a process is (version 2).
func (g *Group) Beside(pid int) (*Group, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(data)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok && strings.HasPrefix(path, g.path+"/") {
			return Open(g.host, path)
		}
	}
	return nil, errdef.New(errdef.Conflict, "the container's process is in no control group below %s", g.path)
}
