package cgroup

import (
	"errors"
	"strings"

	"berth/internal/disk"
	"berth/internal/host"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// delegable lists the files of a group that may be handed to somebody else (Linux 4.15).
const delegable = "/sys/kernel/cgroup/delegate"

// usualDelegable are those of a kernel that has no such list.
var usualDelegable = []string{"cgroup.procs", "cgroup.threads", "cgroup.subtree_control"}

// OwnerOf is whose the control group of a container is to be, as user of this process's own user namespace: that of the container's process,
// where the container can make groups below its own (config-linux.md, "Cgroup ownership"). What would change nothing is none.
func OwnerOf(s *specs.Spec, h host.Facts) (uid int, has bool) {
	if h.Cgroup != host.CgroupUnified || s.Process == nil {
		return 0, false
	}
	own, writable := false, false
	for _, n := range s.Linux.Namespaces {
		own = own || n.Type == specs.CgroupNamespace && n.Path == ""
	}
	for _, m := range s.Mounts {
		if m.Type == "cgroup" || m.Type == "cgroup2" {
			writable = true
			for _, o := range m.Options {
				writable = writable && o != "ro"
			}
		}
	}
	uid = int(s.Process.User.UID)
	for _, m := range s.Linux.UIDMappings {
		if s.Process.User.UID-m.ContainerID < m.Size {
			uid = int(m.HostID + s.Process.User.UID - m.ContainerID)
		}
	}
	return uid, own && writable && uid != 0
}

// Give makes a user the owner of the group's directory and of the files in it by which groups below are made. Who may not give it away keeps it:
// then the container can make no groups, and that is all.
func (g *Group) Give(uid int) error {
	if g.v2 == "" {
		return nil
	}
	files := usualDelegable
	if data, err := disk.Read(delegable); err == nil {
		files = strings.Fields(string(data))
	}
	for _, name := range append([]string{""}, files...) {
		switch err := unix.Chown(g.v2+"/"+name, uid, -1); {
		case errors.Is(err, unix.EPERM):
			return nil
		case err != nil && !errors.Is(err, unix.ENOENT): // a controller's file, where that is not handed down
			return err
		}
	}
	return nil
}
