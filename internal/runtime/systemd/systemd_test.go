package systemd

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"berth/internal/host"
)

// sockets are those of the systemd of whoever runs this test, each way to it by itself.
func sockets(t *testing.T) []host.Socket {
	t.Helper()
	all := host.Probe().Groups.Systemd
	if len(all) == 0 {
		t.Skip("no systemd can be asked here")
	}
	return all
}

// groupOf is the control group of a process in the hierarchy of version 2.
func groupOf(t *testing.T, pid int) string {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		t.Fatal(err)
	}
	return host.OwnGroup(string(data))
}

func TestScopeIsMadeJoinedAndStopped(t *testing.T) {
	for i, socket := range sockets(t) {
		sleep := exec.Command("sleep", "1000")
		if err := sleep.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- sleep.Wait() }()
		c, err := Dial([]host.Socket{{Path: "/nowhere"}, socket})
		if err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprintf("berth-test-%d-%d.scope", os.Getpid(), i)
		began := time.Now()
		scope := Scope{
			Name: name, Description: "a test", Slice: "system.slice", PIDs: []uint32{uint32(sleep.Process.Pid)}, StopTimeout: time.Second,
			Properties: []Property{{"CPUWeight", uint64(50)}},
		}
		if err := c.StartScope(scope); err != nil {
			t.Fatal(socket, err)
		}
		t.Logf("%s: a scope in %v", socket.Path, time.Since(began))
		group := groupOf(t, sleep.Process.Pid)
		if filepath.Base(group) != name {
			t.Errorf("%s: the process is in %s", socket.Path, group)
		}
		if err := c.StartScope(scope); !Exists(err) {
			t.Errorf("%s: the same again: %v", socket.Path, err)
		}
		if err := os.Mkdir(filepath.Join("/sys/fs/cgroup", group, "below"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := c.Attach(name, "/below", uint32(sleep.Process.Pid)); err != nil {
			t.Errorf("%s: %v", socket.Path, err)
		}
		if got := groupOf(t, sleep.Process.Pid); got != group+"/below" {
			t.Errorf("%s: the process is in %s", socket.Path, got)
		}
		if err := c.Stop(name); err != nil {
			t.Errorf("%s: %v", socket.Path, err)
		}
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			t.Errorf("%s: the process lives", socket.Path)
		}
		if err := c.Stop(name); err != nil {
			t.Errorf("%s: a scope that is no more: %v", socket.Path, err)
		}
		if err := c.ResetFailed(name); err != nil {
			t.Errorf("%s: %v", socket.Path, err)
		}
		scope.PIDs = nil
		if err := c.StartScope(scope); err == nil {
			t.Errorf("%s: a scope without a process", socket.Path)
		} else {
			t.Log(err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}
