package cgroup

import (
	"fmt"
	"os"

	"berth/internal/errdef"
	"berth/internal/host"

	"golang.org/x/sys/unix"
)

// OOMWatch tells when the memory of a group has run out.
type OOMWatch struct{ events *os.File }

// WatchOOM begins to watch. Version 2 says it by changing memory.events, version 1 by an eventfd (Documentation/admin-guide/cgroup-v1/memory.rst,
// "OOM Control").
func (g *Group) WatchOOM() (*OOMWatch, error) {
	if g.host.Cgroup == host.CgroupV1 {
		return g.watchOOM1()
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	w := &OOMWatch{os.NewFile(uintptr(fd), "inotify")}
	if _, err := unix.InotifyAddWatch(fd, g.v2+"/memory.events", unix.IN_MODIFY); err != nil {
		_ = w.Close()
		return nil, &os.PathError{Op: "inotify_add_watch", Path: g.v2 + "/memory.events", Err: err}
	}
	return w, nil
}

func (g *Group) watchOOM1() (*OOMWatch, error) {
	d, ok := g.v1With("memory")
	if !ok {
		return nil, errdef.New(errdef.Unsupported, "cannot watch the group's memory: its controller is not there")
	}
	control, err := os.Open(d.path + "/memory.oom_control")
	if err != nil {
		return nil, err
	}
	defer control.Close()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("eventfd", err)
	}
	w := &OOMWatch{os.NewFile(uintptr(fd), "eventfd")}
	if err := write(d.path+"/cgroup.event_control", fmt.Sprintf("%d %d", fd, control.Fd())); err != nil {
		_ = w.Close()
		return nil, err
	}
	return w, nil
}

// Wait waits until something has happened to the group's memory, which need not be that it ran out: OOMKills counts that. It returns false
// when the watch is closed.
func (w *OOMWatch) Wait() bool {
	var buf [4096]byte
	_, err := w.events.Read(buf[:])
	return err == nil
}

// Close ends the watch, and whoever waits.
func (w *OOMWatch) Close() error { return w.events.Close() }
