package monitor

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"berth/internal/container"
	"berth/internal/disk"
	"berth/internal/host"
	"berth/internal/ident"
	"berth/internal/network/dns"
	"berth/internal/runtime/cgroup"
	"berth/internal/state"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A network may be removed, or its file be unreadable, after the command has connected the container and before the monitor answers
// its names: the container cannot be, and nothing of it is left.
func TestAContainerWhoseNamesCannotBeAnsweredLeavesNothing(t *testing.T) {
	h := host.Probe()
	if !h.Privileged() || h.Cgroup == host.CgroupNone {
		t.Skip("needs root and a cgroup file system")
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	s := state.Store{Data: t.TempDir(), Run: t.TempDir()}
	c := &state.Container{ID: ident.New(), Config: container.Config{
		Network: "gone", Networks: []container.Endpoint{{Network: "gone"}}, Log: container.LogConfig{Driver: "none"},
	}}
	must(s.Create(c, disk.Volatile))
	must(os.MkdirAll(s.RunDir(c.ID), 0o700))
	group, err := cgroup.Create(h, cgroup.PathOf(h, cgroup.FS, "", c.ID), &specs.LinuxResources{})
	must(err)
	t.Cleanup(func() { _ = group.Remove() })
	first := exec.Command("sleep", "1000")
	must(first.Start())
	pid := first.Process.Pid
	for _, dir := range group.Paths() {
		must(os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0))
	}
	must(s.SetProcess(c.ID, state.Process{PID: pid, StartTime: state.StartTime(pid), Cgroup: cgroup.PathOf(h, cgroup.FS, "", c.ID)}))

	ours, theirs, err := pair()
	must(err)
	defer ours.Close()
	must(ours.Send(FrameBegin, BeginRequest{AttachRequest: AttachRequest{Version: Version}, PID: pid}))
	m := &monitor{
		Options: Options{Store: s, Container: c, Host: func() host.Facts { return h }, RemoveTree: os.RemoveAll},
		c:       c, clients: map[*client]bool{}, halt: make(chan struct{}), pidfd: -1, runDir: s.RunDir(c.ID), command: theirs, namespaces: unix.CLONE_NEWPID,
	}
	m.streams, err = newStreams(m)
	must(err)
	m.listener, err = net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: filepath.Join(t.TempDir(), "s")})
	must(err)
	netns, err := os.Open("/proc/self/ns/net")
	must(err)
	defer netns.Close()
	m.net.resolver, err = dns.Listen(netns)
	must(err)

	must(m.live((*monitor).attend))
	if group.Exists() {
		t.Error("its control group is left")
	}
	if state.StartTime(pid) != 0 {
		t.Error("its process is left")
	}
	if r, err := s.Record(c.ID); err != nil || !strings.Contains(r.Error, "network gone not found") {
		t.Errorf("the record says %+v: %v", r, err)
	}
}

// pair is the two ends of a connection.
func pair() (ours, theirs *Conn, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	if ours, err = FromFile(os.NewFile(uintptr(fds[0]), "ours")); err != nil {
		return nil, nil, err
	}
	theirs, err = FromFile(os.NewFile(uintptr(fds[1]), "theirs"))
	return ours, theirs, err
}
