package spec

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"

	"berth/internal/container"
	"berth/internal/errdef"
	"berth/internal/host"
	"berth/internal/runtime/plan"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// mounts writes docker's own mounts, and those asked for, parents before what is below them.
func (b *builder) mounts() error {
	c := b.Config
	if err := b.checkSystemd(); err != nil {
		return err
	}
	own := b.ownMounts()
	var asked []specs.Mount
	taken := map[string]string{}
	for _, m := range c.Mounts {
		if other, twice := taken[m.Target]; twice {
			return errdef.New(errdef.Invalid, "Duplicate mount point: %s (%s and %s)", m.Target, other, m.Origin)
		}
		taken[m.Target] = m.Origin
		b.origins["mount "+m.Target] = m.Origin
		asked = append(asked, mountOf(m))
	}
	parentsFirst(asked)
	if c.RunsSystemd() {
		own = append(own, b.systemdMounts(taken)...)
	}
	for _, m := range own {
		if _, replaced := taken[m.Destination]; !replaced {
			b.spec.Mounts = append(b.spec.Mounts, m)
		}
	}
	b.spec.Mounts = append(append(b.spec.Mounts, asked...), b.Mounts...)
	for _, m := range b.Mounts {
		b.origins["mount "+m.Destination] = "CDI"
	}
	for _, f := range []struct{ target, source string }{
		{"/etc/resolv.conf", b.ResolvConf}, {"/etc/hostname", b.HostnameFile}, {"/etc/hosts", b.Hosts},
	} {
		if _, replaced := taken[f.target]; f.source == "" || replaced {
			continue
		}
		options := []string{"bind", "rprivate"}
		if c.ReadOnly {
			options = append(options, "ro")
		}
		b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: f.target, Type: "bind", Source: f.source, Options: options})
		b.origins["mount "+f.target] = "default"
	}
	if c.Init {
		b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: initPath, Type: "bind", Source: b.InitProgram, Options: []string{"bind", "ro", "rprivate"}})
		b.origins["mount "+initPath] = "--init"
	}
	return nil
}

func parentsFirst(mounts []specs.Mount) {
	slices.SortStableFunc(mounts, func(a, b specs.Mount) int {
		return cmp.Compare(strings.Count(a.Destination, "/"), strings.Count(b.Destination, "/"))
	})
}

// Binds are the mounts by which a container has files of the host's, volumes and images included: what there is of its mounts while it does not run.
func Binds(c container.Config) []specs.Mount {
	var binds []specs.Mount
	for _, m := range c.Mounts {
		if out := mountOf(m); out.Type == "bind" || m.Type == container.MountImage {
			binds = append(binds, out)
		}
	}
	parentsFirst(binds)
	return binds
}

// ownMounts are the file systems that every container has.
func (b *builder) ownMounts() []specs.Mount {
	c := b.Config
	access := "ro"
	if c.Privileged {
		access = "rw"
	}
	groups, further := access, []specs.Mount(nil)
	if c.RunsSystemd() && !c.Privileged {
		groups, further = b.systemdGroups()
	}
	shm := c.ShmBytes
	if shm == 0 {
		shm = ShmBytes
	}
	pts := []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}
	if lastGroup(b.Input) >= terminals {
		pts = append(pts, "gid=5")
	}
	out := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: pts},
	}
	if b.UIDMaps != nil && c.Network == "host" {
		// sysfs belongs to the network namespace; who does not own that can only show the host's.
		out = append(out, specs.Mount{Destination: "/sys", Type: "bind", Source: "/sys", Options: []string{"rbind", "nosuid", "noexec", "nodev", "rro", "rslave"}})
	} else {
		out = append(out, specs.Mount{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", access}})
		switch {
		case b.Host.Cgroup == host.CgroupUnified && b.UIDMaps != nil && c.Cgroupn == "host":
			// Who does not own the cgroup namespace can only show the host's groups.
			out = append(out, specs.Mount{Destination: "/sys/fs/cgroup", Type: "bind", Source: "/sys/fs/cgroup", Options: []string{"rbind", "nosuid", "noexec", "nodev", "rro", "rslave"}})
		case b.Host.Cgroup == host.CgroupUnified, b.Host.Cgroup == host.CgroupV1 && b.UIDMaps == nil:
			out = append(out, specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{groups, "nosuid", "noexec", "nodev"}})
			out = append(out, further...)
		}
	}
	_, sharesIPC := container.Shares(c.IPC)
	switch {
	case c.IPC == container.IPCNone:
		out = append(out, specs.Mount{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}})
	case sharesIPC:
		// Who carries the spec out knows whose /dev/shm it is.
		out = append(out,
			specs.Mount{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
			specs.Mount{Destination: plan.ShmPath, Type: "bind", Source: plan.ShmPath, Options: []string{"bind", "nosuid", "noexec", "nodev"}})
	case c.IPC == "host":
		out = append(out, specs.Mount{Destination: "/dev/shm", Type: "bind", Source: "/dev/shm", Options: []string{"bind", "nosuid", "noexec", "nodev"}})
	default:
		out = append(out,
			specs.Mount{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
			specs.Mount{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", fmt.Sprintf("size=%d", shm)}})
	}
	for _, m := range out {
		b.origins["mount "+m.Destination] = "default"
	}
	return out
}

// terminals is the group tty on every distribution.
const terminals = 5

func mountOf(m container.Mount) specs.Mount {
	out := specs.Mount{Destination: path.Clean(m.Target)}
	if m.Type == container.MountTmpfs {
		out.Type, out.Source = "tmpfs", "tmpfs"
		out.Options = []string{"noexec", "nosuid", "nodev"}
		for _, option := range m.Options {
			// What the caller says replaces its opposite.
			out.Options = slices.DeleteFunc(out.Options, func(o string) bool { return o == "no"+option })
			out.Options = append(out.Options, option)
		}
		if m.TmpfsBytes > 0 {
			out.Options = append(out.Options, fmt.Sprintf("size=%d", m.TmpfsBytes))
		}
		mode := uint32(0o1777)
		if m.TmpfsMode != nil {
			mode = *m.TmpfsMode
		}
		out.Options = append(out.Options, fmt.Sprintf("mode=%o", mode))
		if m.ReadOnly {
			out.Options = append(out.Options, "ro")
		}
		return out
	}
	if m.Type == container.MountImage {
		// Who carries the spec out knows the layers.
		out.Type, out.Source, out.Options = "overlay", m.Source, []string{"ro", "nosuid", "nodev"}
		if m.Subpath != "" {
			out.Options = append(out.Options, plan.SubpathOption+m.Subpath)
		}
		return out
	}
	if m.Filesystem != "" {
		out.Type, out.Source, out.Options = m.Filesystem, m.Source, slices.Clone(m.Options)
		if m.ReadOnly {
			out.Options = append(out.Options, "ro")
		}
		return out
	}
	out.Type, out.Source = "bind", m.Source
	if m.Subpath != "" {
		out.Options = append(out.Options, plan.SubpathOption+m.Subpath)
	}
	if m.IDMap != nil {
		out.UIDMappings, out.GIDMappings = mappings(m.IDMap.Users), mappings(m.IDMap.Groups)
	}
	out.Options = append(out.Options, "rbind")
	if m.NoRecursive {
		out.Options[len(out.Options)-1] = "bind"
	}
	if m.ReadOnly {
		// Read-only with all that is mounted below, or the flag would not keep its word.
		out.Options = append(out.Options, "ro")
		if !m.WritableBelow && !m.NoRecursive {
			out.Options = append(out.Options, "rro")
		}
	}
	propagation := m.Propagation
	if propagation == "" {
		propagation = "rprivate"
	}
	out.Options = append(out.Options, propagation)
	return out
}

// mappings are ranges as a spec has them: what the file system has is in the container's place.
func mappings(ranges []container.IDRange) (all []specs.LinuxIDMapping) {
	for _, r := range ranges {
		all = append(all, specs.LinuxIDMapping{ContainerID: r.From, HostID: r.To, Size: r.Count})
	}
	return all
}
