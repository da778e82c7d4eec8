package spec

import (
	"slices"

	"berth/internal/container"
	"berth/internal/errdef"
	"berth/internal/host"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// What systemd needs as the first process of a container is written in its "Container Interface" (systemd.io/CONTAINER_INTERFACE):
// $container, file systems of its own for what must not outlive a boot, and control groups in which it may make others.

// systemdHierarchy is the one of version 1 that has no controller and in which systemd keeps its units.
const systemdHierarchy = "name=systemd"

// systemdTmpfs are the file systems that systemd would mount itself if it might, and one for the journal, as podman has them; with the modes
// that they have on a host.
var systemdTmpfs = [...]struct{ target, mode string }{
	{"/run", "755"}, {"/run/lock", "1777"}, {"/tmp", "1777"}, {"/var/log/journal", "755"},
}

// systemdMounts are the file systems of a container that boots a system. What the caller mounts in the place of one, or above it, replaces it.
func (b *builder) systemdMounts(taken map[string]string) (out []specs.Mount) {
	for _, m := range systemdTmpfs {
		_, above := taken["/run"]
		if m.target == "/run/lock" && above {
			continue
		}
		out = append(out, specs.Mount{Destination: m.target, Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "nodev", "mode=" + m.mode}})
		b.origins["mount "+m.target] = b.systemdOrigin()
	}
	return out
}

func (b *builder) systemdOrigin() string {
	return origin(b.Config.Systemd != "", "--systemd "+b.Config.Systemd)
}

// systemdGroups makes the control groups of the container its own to arrange. On version 1 that is the hierarchy of systemd alone: in those of
// controllers a container could lift its own limits. On version 2 the kernel keeps the limits from whoever is in the namespace (nsdelegate).
func (b *builder) systemdGroups() (access string, further []specs.Mount) {
	private := b.Config.Cgroupn != "host" // the host's are not the container's to change
	switch {
	case private && b.Host.Cgroup == host.CgroupUnified:
		return "rw", nil
	case private && b.Host.Cgroup == host.CgroupV1 && b.UIDMaps == nil && slices.ContainsFunc(b.Host.CgroupMounts, isSystemds):
		at := "/sys/fs/cgroup/systemd"
		b.origins["mount "+at] = b.systemdOrigin()
		return "ro", []specs.Mount{{Destination: at, Type: "cgroup", Source: "cgroup", Options: []string{"rw", "nosuid", "noexec", "nodev", systemdHierarchy}}}
	}
	return "ro", nil
}

func isSystemds(m host.CgroupMount) bool { return m.Options == systemdHierarchy }

// checkSystemd refuses what was asked for in so many words and would end at once for want of control groups.
func (b *builder) checkSystemd() error {
	if b.Config.Systemd != container.SystemdAlways || b.Config.Privileged {
		return nil
	}
	access, further := b.systemdGroups()
	switch {
	case b.Config.Init:
		return errdef.New(errdef.Invalid, "--init and --systemd=always exclude each other: systemd has to be the first process")
	case access == "rw" || len(further) > 0:
		return nil
	case b.Config.Cgroupn == "host":
		return errdef.New(errdef.Invalid, "--systemd=always needs control groups of the container's own, and --cgroupns=host gives it the host's")
	case b.Host.Cgroup == host.CgroupV1 && b.UIDMaps != nil:
		return errdef.New(errdef.Unsupported, "cannot give systemd control groups: this host has version 1 of them, of which none can be handed to a user")
	case b.Host.Cgroup == host.CgroupV1:
		return errdef.New(errdef.Unsupported, "cannot give systemd control groups: this host has version 1 of them, without the hierarchy %s", systemdHierarchy)
	}
	return errdef.New(errdef.Unsupported, "cannot give systemd control groups: this host has none")
}

// systemdEnv tells systemd that it is in a container, and what its machine's id is.
func systemdEnv(in Input) []string {
	return []string{"container=berth", "container_uuid=" + in.ID[:min(32, len(in.ID))]}
}
