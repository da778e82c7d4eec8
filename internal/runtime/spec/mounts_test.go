package spec_test

import (
	"slices"
	"strings"
	"testing"

	"berth/internal/container"
	"berth/internal/host"
	"berth/internal/runtime/spec"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func mountAt(t *testing.T, s *specs.Spec, at string) specs.Mount {
	t.Helper()
	var found []specs.Mount
	for _, m := range s.Mounts {
		if m.Destination == at {
			found = append(found, m)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d mounts at %s: %+v", len(found), at, found)
	}
	return found[0]
}

func TestMountsOfTheCaller(t *testing.T) {
	mode := uint32(0o700)
	for _, c := range []struct {
		summary string
		mount   container.Mount
		want    string // type source options
	}{
		{"A bind mount includes what is mounted below", container.Mount{Type: container.MountBind, Source: "/s"}, "bind /s rbind,rprivate"},
		{"Read-only includes what is mounted below", container.Mount{Type: container.MountBind, Source: "/s", ReadOnly: true}, "bind /s rbind,ro,rro,rprivate"},
		{"Not recursive", container.Mount{Type: container.MountBind, Source: "/s", NoRecursive: true}, "bind /s bind,rprivate"},
		{"Propagation", container.Mount{Type: container.MountBind, Source: "/s", Propagation: "rshared"}, "bind /s rbind,rshared"},
		{"A volume is a bind mount", container.Mount{Type: container.MountVolume, Source: "/v"}, "bind /v rbind,rprivate"},
		{"A tmpfs is safe by default", container.Mount{Type: container.MountTmpfs}, "tmpfs tmpfs noexec,nosuid,nodev,mode=1777"},
		{"What is asked of a tmpfs replaces its opposite", container.Mount{Type: container.MountTmpfs, Options: []string{"exec", "uid=5"}}, "tmpfs tmpfs nosuid,nodev,exec,uid=5,mode=1777"},
		{"Size and mode of a tmpfs", container.Mount{Type: container.MountTmpfs, TmpfsBytes: 4096, TmpfsMode: &mode, ReadOnly: true}, "tmpfs tmpfs noexec,nosuid,nodev,size=4096,mode=700,ro"},
	} {
		t.Run(c.summary, func(t *testing.T) {
			c.mount.Target = "/data"
			m := mountAt(t, build(t, func(in *spec.Input) { in.Config.Mounts = []container.Mount{c.mount} }), "/data")
			if got := m.Type + " " + m.Source + " " + strings.Join(m.Options, ","); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestTwoMountsAtOnePlaceAreRefused(t *testing.T) {
	refused(t, "Duplicate mount point: /data (-v /a:/data and --tmpfs /data)", func(in *spec.Input) {
		in.Config.Mounts = []container.Mount{
			{Type: container.MountBind, Source: "/a", Target: "/data", Origin: "-v /a:/data"},
			{Type: container.MountTmpfs, Target: "/data", Origin: "--tmpfs /data"},
		}
	})
}

func TestParentsAreMountedBeforeWhatIsBelow(t *testing.T) {
	s := build(t, func(in *spec.Input) {
		for _, target := range []string{"/a/b/c", "/dev/shm/x", "/a", "/a/b"} {
			in.Config.Mounts = append(in.Config.Mounts, container.Mount{Type: container.MountTmpfs, Target: target})
		}
	})
	at := func(name string) int {
		return slices.IndexFunc(s.Mounts, func(m specs.Mount) bool { return m.Destination == name })
	}
	for _, pair := range [][2]string{{"/a", "/a/b"}, {"/a/b", "/a/b/c"}, {"/dev", "/dev/shm"}, {"/dev/shm", "/dev/shm/x"}, {"/sys", "/sys/fs/cgroup"}} {
		if at(pair[0]) < 0 || at(pair[0]) > at(pair[1]) {
			t.Errorf("%s is mounted as number %d, %s as %d", pair[0], at(pair[0]), pair[1], at(pair[1]))
		}
	}
}

func TestMountOfTheCallerReplacesDockers(t *testing.T) {
	s := build(t, func(in *spec.Input) {
		in.Hosts = "/data/hosts"
		in.Config.Mounts = []container.Mount{
			{Type: container.MountTmpfs, Target: "/dev/shm"}, {Type: container.MountBind, Source: "/my/hosts", Target: "/etc/hosts"},
		}
	})
	if m := mountAt(t, s, "/dev/shm"); m.Source != "tmpfs" {
		t.Errorf("/dev/shm is %+v", m)
	}
	if m := mountAt(t, s, "/etc/hosts"); m.Source != "/my/hosts" {
		t.Errorf("/etc/hosts is %+v", m)
	}
}

func TestOwnMounts(t *testing.T) {
	for _, c := range []struct {
		summary string
		change  func(*spec.Input)
		at      string
		want    string
	}{
		{"/sys is read-only", nil, "/sys", "sysfs nosuid,noexec,nodev,ro"},
		{"/sys of a privileged container is not", func(in *spec.Input) { in.Config.Privileged = true }, "/sys", "sysfs nosuid,noexec,nodev,rw"},
		{"Control groups are read-only", nil, "/sys/fs/cgroup", "cgroup ro,nosuid,noexec,nodev"},
		{"Shared memory has docker's size", nil, "/dev/shm", "tmpfs nosuid,noexec,nodev,mode=1777,size=67108864"},
		{"Shared memory as asked", func(in *spec.Input) { in.Config.ShmBytes = 4096 }, "/dev/shm", "tmpfs nosuid,noexec,nodev,mode=1777,size=4096"},
		{"Shared memory of the host", func(in *spec.Input) { in.Config.IPC = "host" }, "/dev/shm", "bind bind,nosuid,noexec,nodev"},
		{"Terminals belong to the group tty", nil, "/dev/pts", "devpts nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"},
		{"Unless no such group is mapped", func(in *spec.Input) {
			in.UIDMaps, in.GIDMaps = []specs.LinuxIDMapping{{Size: 1}}, []specs.LinuxIDMapping{{Size: 1}}
		}, "/dev/pts", "devpts nosuid,noexec,newinstance,ptmxmode=0666,mode=0620"},
		{"Who does not own the network shows the host's /sys", func(in *spec.Input) {
			in.UIDMaps, in.Config.Network = []specs.LinuxIDMapping{{Size: 1}}, "host"
		}, "/sys", "bind rbind,nosuid,noexec,nodev,rro,rslave"},
		{"Files of docker's are writable", func(in *spec.Input) { in.ResolvConf = "/r" }, "/etc/resolv.conf", "bind bind,rprivate"},
		{"Unless the root is read-only", func(in *spec.Input) { in.ResolvConf, in.Config.ReadOnly = "/r", true }, "/etc/resolv.conf", "bind bind,rprivate,ro"},
		{"The init", func(in *spec.Input) { in.Config.Init, in.InitProgram = true, "/i" }, "/sbin/docker-init", "bind bind,ro,rprivate"},
	} {
		t.Run(c.summary, func(t *testing.T) {
			m := mountAt(t, build(t, c.change), c.at)
			if got := m.Type + " " + strings.Join(m.Options, ","); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestNoControlGroupsOfVersion1WithoutRoot(t *testing.T) {
	s := build(t, func(in *spec.Input) { in.Host.Cgroup, in.UIDMaps = host.CgroupV1, []specs.LinuxIDMapping{{Size: 1}} })
	for _, m := range s.Mounts {
		if m.Destination == "/sys/fs/cgroup" {
			t.Errorf("mounted: %+v", m)
		}
	}
}
