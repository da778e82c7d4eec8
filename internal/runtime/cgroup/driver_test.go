package cgroup

import (
	"fmt"
	"strings"
	"testing"

	"berth/internal/errdef"
	"berth/internal/host"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

const service = "/user.slice/user-1000.slice/user@1000.service"

// hosts are some of those that there are.
func hosts() map[string]host.Facts {
	machine := []host.Socket{{Path: "/run/systemd/private"}}
	own := []host.Socket{{Path: "/run/user/1000/systemd/private"}}
	root := host.Facts{Cgroup: host.CgroupUnified, Caps: 1 << 21, Groups: host.Groups{Base: "/"}}
	user := host.Facts{Cgroup: host.CgroupUnified, UID: 1000, Groups: host.Groups{OuterUID: 1000}}
	with := func(h host.Facts, change func(*host.Facts)) host.Facts { change(&h); return h }
	return map[string]host.Facts{
		"root":              with(root, func(h *host.Facts) { h.Groups.Systemd = machine }),
		"root, no systemd":  root,
		"root, read-only":   with(root, func(h *host.Facts) { h.Groups.Base = "" }),
		"root, version 1":   {Cgroup: host.CgroupV1, Caps: 1 << 21},
		"root, no groups":   {Cgroup: host.CgroupNone, Caps: 1 << 21},
		"user":              with(user, func(h *host.Facts) { h.Groups.Systemd = own }),
		"user, as uid 0":    with(user, func(h *host.Facts) { h.UID, h.Caps, h.Groups.Systemd = 0, 1<<21, own }),
		"user, in a unit":   with(user, func(h *host.Facts) { h.Groups.Systemd, h.Groups.Base = own, service }),
		"user, delegated":   with(user, func(h *host.Facts) { h.Groups.Base = "/lxc/box" }),
		"user, of nothing":  user,
		"user, version 1":   {Cgroup: host.CgroupV1, UID: 1000, Groups: host.Groups{OuterUID: 1000}},
		"user of container": with(user, func(h *host.Facts) { h.Groups.Base = "/" }),
	}
}

func TestDriverIsChosenByTheHostUnlessSet(t *testing.T) {
	const refused = "refused"
	for name, want := range map[string][3]Driver{ // by the host, with systemd wanted, with cgroupfs wanted
		"root":              {Systemd, Systemd, FS},
		"root, no systemd":  {FS, refused, FS},
		"root, read-only":   {FS, refused, FS}, // and then mkdir says why not
		"root, version 1":   {FS, refused, FS},
		"root, no groups":   {None, refused, None},
		"user":              {Systemd, Systemd, None},
		"user, as uid 0":    {Systemd, Systemd, None},
		"user, in a unit":   {Systemd, Systemd, FS},
		"user, delegated":   {FS, refused, FS},
		"user, of nothing":  {None, refused, None},
		"user, version 1":   {None, refused, None},
		"user of container": {FS, refused, FS},
	} {
		h, ok := hosts()[name]
		if !ok {
			t.Fatal(name)
		}
		for i, wanted := range []Driver{"", Systemd, FS} {
			got, err := Choose(h, wanted)
			if want[i] == refused {
				if !errdef.Is(err, errdef.Unsupported) || errdef.HintOf(err) == "" {
					t.Errorf("%s, %q: %v, %v", name, wanted, got, err)
				}
				continue
			}
			if got.Driver != want[i] || got.Why == "" || err != nil {
				t.Errorf("%s, %q: %+v, %v; not %s", name, wanted, got, err, want[i])
			}
		}
	}
	if _, err := Choose(host.Facts{}, "runc"); !errdef.Is(err, errdef.Invalid) {
		t.Errorf("a driver that there is not: %v", err)
	}
}

func TestGroupIsWhereTheDriverMakesIt(t *testing.T) {
	for name, want := range map[string][]string{
		"root":             {"/berth-x", "/system.slice/berth-x.scope/container"},
		"root, no systemd": {"/berth-x"},
		"root, version 1":  {"/berth-x"},
		"root, no groups":  nil,
		"user":             {service + "/user.slice/berth-x.scope/container"},
		"user, as uid 0":   {service + "/user.slice/berth-x.scope/container"},
		"user, in a unit":  {service + "/berth-x", service + "/user.slice/berth-x.scope/container"},
		"user, delegated":  {"/lxc/box/berth-x"},
		"user, of nothing": nil,
	} {
		if d := cmp.Diff(want, PathsOf(hosts()[name], "", "x")); d != "" {
			t.Errorf("%s:\n%s", name, d)
		}
	}
}

func TestControllersAreHandedDownFromWhatIsOurs(t *testing.T) {
	for path, want := range map[string]string{
		"/berth-x":                               "/",
		"/system.slice/berth-x.scope/container":  "/system.slice/berth-x.scope",
		"/lxc/box/berth-x":                       "/lxc/box",
		"/lxc/boxes/berth-x":                     "/",
		"/system.slice/session-3.scope/berth-x":  "/",
		"/system.slice/other-x.scope/container":  "/",
		"/system.slice/berth-x.scope/container2": "/",
	} {
		if got := baseOf(host.Facts{Groups: host.Groups{Base: "/lxc/box"}}, path); got != want {
			t.Errorf("%s: %s, not %s", path, got, want)
		}
	}
}

func TestOnlyWhatContainersShareIsThePropertyOfAScope(t *testing.T) {
	for name, c := range map[string]struct {
		r    *specs.LinuxResources
		want string
	}{
		"nothing": {nil, ""},
		"devices": {&specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}}}, ""},
		"all":     {full(), "CPUWeight=100 IOWeight=4950 MemoryLow=52428800"},
		"limits":  {&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: p(int64(1))}, CPU: &specs.LinuxCPU{Quota: p(int64(1000))}, Pids: &specs.LinuxPids{}}, ""},
		"weights": {&specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: p(uint64(2))}, BlockIO: &specs.LinuxBlockIO{Weight: p(uint16(10))}}, "CPUWeight=1 IOWeight=1"},
	} {
		var got []string
		for _, p := range Properties(c.r) {
			got = append(got, fmt.Sprintf("%s=%v", p.Name, p.Value))
		}
		if text := strings.Join(got, " "); text != c.want {
			t.Errorf("%s: %q, not %q", name, text, c.want)
		}
	}
}

func TestLimitedNamesWhatIsLimited(t *testing.T) {
	if got, want := strings.Join(Limited(full()), ", "), "RDMA, block devices, huge pages, memory, pids, processors"; got != want {
		t.Errorf("%s, not %s", got, want)
	}
	if got := Limited(&specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}}}); got != nil {
		t.Errorf("devices alone: %v", got)
	}
}

func TestGroupIsMadeInTheParent(t *testing.T) {
	for _, c := range []struct {
		driver         Driver
		parent, want   string
		refusedBecause string
	}{
		{FS, "/a/b", "/a/b/berth-x", ""},
		{FS, "a", "/a/berth-x", ""},
		{FS, "../a", "", "leads out"},
		{Systemd, "a.slice", "/a.slice/berth-x.scope/container", ""},
		{Systemd, "a-b-c.slice", "/a.slice/a-b.slice/a-b-c.slice/berth-x.scope/container", ""},
		{Systemd, "-.slice", "/berth-x.scope/container", ""},
		{Systemd, "/a", "", "valid slice"},
		{Systemd, "a--b.slice", "", "valid slice"},
		{Systemd, "a/b.slice", "", "valid slice"},
		{None, "a", "", "there are none here"},
	} {
		err := CheckParent(c.driver, c.parent)
		if c.want == "" {
			if err == nil || !strings.Contains(err.Error(), c.refusedBecause) {
				t.Errorf("%s, %s: %v", c.driver, c.parent, err)
			}
			continue
		}
		h := host.Facts{Cgroup: host.CgroupUnified, Groups: host.Groups{Base: "/"}}
		if got := PathOf(h, c.driver, c.parent, "x"); err != nil || got != c.want {
			t.Errorf("%s, %s: %s, %v; want %s", c.driver, c.parent, got, err, c.want)
		}
	}
}
