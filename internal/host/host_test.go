package host

import "testing"

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
