package cgroup_test

import (
	"testing"

	"berth/internal/host"
	"berth/internal/runtime/cgroup"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestWhoseTheControlGroupIs(t *testing.T) {
	maps := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 1000, Size: 1}, {ContainerID: 1, HostID: 100000, Size: 65536}}
	for _, c := range []struct {
		summary string
		mode    host.CgroupMode
		options []string
		path    string
		user    uint32
		maps    []specs.LinuxIDMapping
		want    int
		has     bool
	}{
		{"The container's root, translated", host.CgroupUnified, []string{"rw"}, "", 0, maps, 1000, true},
		{"Another user of the container, translated", host.CgroupUnified, nil, "", 5, maps, 100004, true},
		{"Another user without a user namespace", host.CgroupUnified, nil, "", 5, nil, 5, true},
		{"Root's are root's", host.CgroupUnified, nil, "", 0, nil, 0, false},
		{"Read-only groups are not the container's", host.CgroupUnified, []string{"rw", "ro"}, "", 5, maps, 100004, false},
		{"Nor are those of a namespace that is joined", host.CgroupUnified, nil, "/proc/1/ns/cgroup", 5, maps, 100004, false},
		{"Version 1 can be handed to nobody", host.CgroupV1, nil, "", 5, maps, 0, false},
	} {
		t.Run(c.summary, func(t *testing.T) {
			s := &specs.Spec{
				Process: &specs.Process{User: specs.User{UID: c.user}},
				Mounts:  []specs.Mount{{Destination: "/sys/fs/cgroup", Type: "cgroup", Options: c.options}},
				Linux:   &specs.Linux{UIDMappings: c.maps, Namespaces: []specs.LinuxNamespace{{Type: specs.CgroupNamespace, Path: c.path}}},
			}
			if uid, has := cgroup.OwnerOf(s, host.Facts{Cgroup: c.mode}); uid != c.want || has != c.has {
				t.Errorf("%d, %v; want %d, %v", uid, has, c.want, c.has)
			}
		})
	}
}
