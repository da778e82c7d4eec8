package host

import (
	"slices"
	"testing"
)

func TestParseRelease(t *testing.T) {
	for release, want := range map[string]Version{
		"6.18.0": {6, 18}, "5.10.0-28-amd64": {5, 10}, "4.19": {4, 19}, "6.1-rc3": {6, 1}, "6.13.0+": {6, 13}, "5.15.167.4-microsoft-standard-WSL2": {5, 15}, "": {}, "x.y": {}, "6": {6, 0},
	} {
		if got := parseRelease(release); got != want {
			t.Errorf("%q: %v", release, got)
		}
	}
}

func TestFeaturesByVersion(t *testing.T) {
	for _, c := range []struct {
		v                         Version
		setattr, overlay, cloexec bool
	}{
		{Version{4, 19}, false, false, false},
		{Version{5, 10}, false, false, false},
		{Version{5, 11}, false, false, true},
		{Version{5, 12}, true, false, true},
		{Version{6, 1}, true, false, true},
		{Version{6, 13}, true, true, true},
		{Version{7, 0}, true, true, true},
	} {
		f := Facts{Kernel: c.v}
		if f.MountSetattr() != c.setattr || f.OverlayByFD() != c.overlay || f.CloseRangeCloexec() != c.cloexec {
			t.Errorf("%v: %v, %v, %v", c.v, f.MountSetattr(), f.OverlayByFD(), f.CloseRangeCloexec())
		}
	}
	if (Facts{}).Privileged() || (Facts{UID: 1, Caps: 1<<64 - 1}).Privileged() || !(Facts{Caps: 1 << 21}).Privileged() {
		t.Error("who is privileged is not told by the user and CAP_SYS_ADMIN")
	}
}

func TestProbeFindsThisMachine(t *testing.T) {
	f := Probe()
	if !f.Kernel.AtLeast(3, 0) || f.Arch == "" || f.MaxFiles == 0 || f.LastCap < 30 || f.Cgroup == "" {
		t.Errorf("%+v", f)
	}
	if (f.Cgroup == CgroupV1) != (len(f.CgroupMounts) > 0) {
		t.Errorf("%s with %v", f.Cgroup, f.CgroupMounts)
	}
}

func TestOuterUIDFollowsTheMap(t *testing.T) {
	whole, rootless := "         0          0 4294967295\n", "         0       1000          1\n         1     100000      65536\n"
	for _, c := range []struct {
		uid  int
		text string
		want int
	}{{0, whole, 0}, {1000, whole, 1000}, {0, rootless, 1000}, {1, rootless, 100000}, {33, rootless, 100032}, {70000, rootless, 70000}, {5, "", 5}} {
		if got := outerUID(c.uid, c.text); got != c.want {
			t.Errorf("%d by %q: %d, not %d", c.uid, c.text, got, c.want)
		}
	}
}

func TestBaseIsTheHighestGroupThatIsOurs(t *testing.T) {
	const service = "/user.slice/user-1000.slice/user@1000.service"
	for summary, c := range map[string]struct {
		own, want string
		ours      []string // directories in which we may write
	}{
		"root":                             {"/user.slice/x", "/", []string{"/"}},
		"a session has nothing":            {"/user.slice/user-1000.slice/session-3.scope", "", nil},
		"a unit of the user's systemd":     {service + "/app.slice/a.scope", service, []string{service, service + "/app.slice", service + "/app.slice/a.scope"}},
		"what an engine has delegated":     {"/lxc/box", "/lxc/box", []string{"/lxc/box"}},
		"a group elsewhere is of no use":   {"/lxc/box", "", []string{"/lxc/other"}},
		"outside of the control namespace": {"/../x", "", nil},
	} {
		got := base(c.own, func(path string, _ uint32) bool {
			for _, dir := range c.ours {
				if path == dir || path == dir+"/cgroup.procs" || path == dir+"/cgroup.subtree_control" {
					return true
				}
			}
			return false
		})
		if got != c.want {
			t.Errorf("%s: %q, not %q", summary, got, c.want)
		}
	}
}

func TestSystemdIsSoughtWhereItListens(t *testing.T) {
	env := func(vars map[string]string) func(string) string {
		return func(name string) string { return vars[name] }
	}
	for summary, c := range map[string]struct {
		groups Groups
		env    map[string]string
		want   []Socket
	}{
		"the machine's": {Groups{Base: "/"}, map[string]string{"XDG_RUNTIME_DIR": "/x"}, []Socket{
			{"/run/systemd/private", false}, {"/run/dbus/system_bus_socket", true},
		}},
		"the user's, in a session": {
			Groups{OuterUID: 7},
			map[string]string{"XDG_RUNTIME_DIR": "/x", "DBUS_SESSION_BUS_ADDRESS": "tcp:host=h;unix:path=/y/bus,guid=0"},
			[]Socket{{"/x/systemd/private", false}, {"/run/user/7/systemd/private", false}, {"/y/bus", true}, {"/x/bus", true}, {"/run/user/7/bus", true}},
		},
		"the user's, without one": {Groups{OuterUID: 7}, nil, []Socket{{"/run/user/7/systemd/private", false}, {"/run/user/7/bus", true}}},
	} {
		if got := sockets(c.groups, env(c.env)); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, not %v", summary, got, c.want)
		}
	}
}
