package cgroup

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"berth/internal/errdef"
	"berth/internal/host"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// createTestGroup makes a group that goes with the test; the test is skipped where groups cannot be made.
func createTestGroup(t *testing.T, r *specs.LinuxResources) *Group {
	t.Helper()
	h := host.Probe()
	if !h.Root() || h.Cgroup == host.CgroupNone {
		t.Skip("needs root and a cgroup file system")
	}
	g, err := Create(h, "/berth-test-"+t.Name(), r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Remove(); err != nil {
			t.Error(err)
		}
		if g.Exists() {
			t.Error("the group is still there")
		}
	})
	return g
}

// runIn runs a shell script in the group.
func runIn(t *testing.T, g *Group, dir, script string) string {
	t.Helper()
	enter := ""
	for _, path := range g.Paths() {
		enter += "echo 0 >" + path + "/cgroup.procs || exit 9\n"
	}
	cmd := exec.Command("sh", "-c", enter+script)
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}

func TestGroupIsEnteredLimitedFrozenAndRemoved(t *testing.T) {
	g := createTestGroup(t, &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: p(int64(7))}, Memory: &specs.LinuxMemory{Limit: p(int64(64 << 20)), Swap: p(int64(128 << 20))}})
	if got := runIn(t, g, "/", "cat /proc/self/cgroup"); !strings.Contains(got, ":/berth-test-") {
		t.Errorf("a process of the group is in\n%s", got)
	}
	dir := g.v2
	if d, ok := g.v1With("pids"); ok {
		dir = d.path
	}
	if data, err := os.ReadFile(dir + "/pids.max"); err != nil || strings.TrimSpace(string(data)) != "7" {
		t.Errorf("pids.max is %q, %v", data, err)
	}
	sleep := exec.Command("sleep", "100")
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	for _, path := range g.Paths() {
		if err := write(path+"/cgroup.procs", number(int64(sleep.Process.Pid))); err != nil {
			t.Fatal(err)
		}
	}
	if pids, err := g.PIDs(); err != nil || len(pids) != 1 || pids[0] != sleep.Process.Pid {
		t.Errorf("the processes are %v, %v", pids, err)
	}
	for _, frozen := range []bool{true, false, true} {
		if err := g.Freeze(frozen); err != nil || g.Frozen() != frozen {
			t.Errorf("Freeze(%v): %v, frozen %v", frozen, err, g.Frozen())
		}
	}
	// Remove ends what is frozen, too.
	if err := g.Remove(); err != nil {
		t.Error(err)
	}
	if err := sleep.Wait(); err == nil || sleep.ProcessState.Sys().(interface{ Signal() unix.Signal }).Signal() != unix.SIGKILL {
		t.Errorf("the process ended with %v", err)
	}
}

func TestFailedCreateLeavesNothing(t *testing.T) {
	h := host.Probe()
	if !h.Root() || h.Cgroup == host.CgroupNone {
		t.Skip("needs root and a cgroup file system")
	}
	const path = "/berth-test-failed"
	_, err := Create(h, path, &specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "4000"}})
	if !errdef.Is(err, errdef.Invalid) {
		t.Errorf("an impossible processor: %v", err)
	}
	if g, err := Open(h, path); err != nil || g.Exists() {
		t.Errorf("something is left: %v", err)
	}
}

func TestGroupsInsideAreRemovedToo(t *testing.T) {
	g := createTestGroup(t, nil)
	for _, path := range g.Paths() {
		if err := os.MkdirAll(filepath.Join(path, "a", "b"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPathMustBeCleanAndBelowTheRoot(t *testing.T) {
	for _, path := range []string{"", "/", "a", "/a/../..", "/a/", "//a"} {
		if _, err := Open(host.Facts{Cgroup: host.CgroupUnified}, path); !errdef.Is(err, errdef.Invalid) {
			t.Errorf("%q: %v", path, err)
		}
	}
}

func TestRefusedReplacementLeavesTheLimits(t *testing.T) {
	five, seven := &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: p(int64(5))}}, &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: p(int64(7))}}
	g := createTestGroup(t, five)
	limit := func() string {
		dir := g.v2
		if d, ok := g.v1With("pids"); ok {
			dir = d.path
		}
		data, _ := os.ReadFile(dir + "/pids.max")
		return strings.TrimSpace(string(data))
	}
	if err := g.Replace(five, seven); err != nil || limit() != "7" {
		t.Errorf("%v, the limit is %s", err, limit())
	}
	if err := g.Replace(seven, &specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "4095"}, Pids: &specs.LinuxPids{Limit: p(int64(9))}}); err == nil || limit() != "7" {
		t.Errorf("%v, the limit is %s", err, limit())
	}
	if err := g.Replace(seven, &specs.LinuxResources{}); err != nil || limit() != "max" {
		t.Errorf("%v, the limit is %s", err, limit())
	}
}
