package spec_test

import (
	"slices"
	"strings"
	"testing"

	"berth/internal/host"
	"berth/internal/runtime/spec"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

var versionOne = []host.CgroupMount{{Path: "/sys/fs/cgroup/memory", Options: "memory"}, {Path: "/sys/fs/cgroup/systemd", Options: "name=systemd"}}

func TestWhatSystemdIsGiven(t *testing.T) {
	boots := func(change func(*spec.Input)) func(*spec.Input) {
		return func(in *spec.Input) {
			in.Config.Command = []string{"/sbin/init"}
			if change != nil {
				change(in)
			}
		}
	}
	v1 := func(in *spec.Input) { in.Host.Cgroup, in.Host.CgroupMounts = host.CgroupV1, versionOne }
	for _, c := range []struct {
		summary string
		change  func(*spec.Input)
		at      string
		want    string // "" for no mount
	}{
		{"/run", nil, "/run", "tmpfs nosuid,nodev,mode=755"},
		{"Locks that all may make", nil, "/run/lock", "tmpfs nosuid,nodev,mode=1777"},
		{"Groups of its own to arrange", nil, "/sys/fs/cgroup", "cgroup rw,nosuid,noexec,nodev"},
		{"But not the host's", func(in *spec.Input) { in.Config.Cgroupn = "host" }, "/sys/fs/cgroup", "cgroup ro,nosuid,noexec,nodev"},
		{"Nor those of controllers of version 1, where its limits are", v1, "/sys/fs/cgroup", "cgroup ro,nosuid,noexec,nodev"},
		{"The hierarchy of systemd is", v1, "/sys/fs/cgroup/systemd", "cgroup rw,nosuid,noexec,nodev,name=systemd"},
		{"Which there need not be", func(in *spec.Input) { in.Host.Cgroup = host.CgroupV1 }, "/sys/fs/cgroup/systemd", ""},
		{"Nothing unless it is wanted", func(in *spec.Input) { in.Config.Systemd = "false" }, "/run", ""},
		{"Nor for another command", func(in *spec.Input) { in.Config.Command = []string{"/sbin/initial"} }, "/run", ""},
		{"Nor where an init of ours is first", func(in *spec.Input) { in.Config.Init = true }, "/run", ""},
		{"A systemd, wherever it is", func(in *spec.Input) { in.Config.Command = []string{"/opt/systemd", "--unit=x"} }, "/run", "tmpfs nosuid,nodev,mode=755"},
		{"Whatever the command, if asked", func(in *spec.Input) { in.Config.Command, in.Config.Systemd = []string{"/boot.sh"}, "always" }, "/run", "tmpfs nosuid,nodev,mode=755"},
	} {
		t.Run(c.summary, func(t *testing.T) {
			s := build(t, boots(c.change))
			i := slices.IndexFunc(s.Mounts, func(m specs.Mount) bool { return m.Destination == c.at })
			got := ""
			if i >= 0 {
				got = s.Mounts[i].Type + " " + strings.Join(s.Mounts[i].Options, ",")
			}
			if got != c.want {
				t.Errorf("at %s there is %q, want %q", c.at, got, c.want)
			}
			if says := slices.Contains(s.Process.Env, "container=berth"); says != slices.ContainsFunc(s.Mounts, func(m specs.Mount) bool { return m.Destination == "/run" }) {
				t.Errorf("the environment says %v that it is a container: %q", says, s.Process.Env)
			}
		})
	}
	refused(t, "--cgroupns=host", boots(func(in *spec.Input) { in.Config.Systemd, in.Config.Cgroupn = "always", "host" }))
	refused(t, "--init", boots(func(in *spec.Input) { in.Config.Systemd, in.Config.Init = "always", true }))
}
