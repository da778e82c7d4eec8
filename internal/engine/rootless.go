package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"berth/internal/errdef"
	"berth/internal/host"
	"berth/internal/network/uplink"
	"berth/internal/rootless"
	"berth/internal/runtime/monitor"
	"berth/internal/settings"
	"berth/internal/state"

	"golang.org/x/sys/unix"
)

// Enter makes this process root of the user namespace of its user's containers, unless it is root already, by executing this
// program again.
func Enter(v settings.Values) error {
	if host.Privileged() {
		return nil
	}
	if _, again := host.Inside(); again {
		return errdef.New(errdef.Denied, "cannot make containers: this process has no rights in the user namespace that it has entered")
	}
	if err := makeRoots(v); err != nil {
		return err
	}
	return explainedStart(v, place(state.Store{Data: v.DataRoot, Run: v.RunRoot}).Enter(programInside, os.Args, os.Environ()))
}

// programInside is ownProgram for a process that is about to enter the user namespace.
func programInside(namespace *os.File) (*os.File, error) {
	if protected() || !ours() {
		return os.Open(self)
	}
	if path, err := os.Readlink(self); err == nil {
		f, err := rootless.ReadOnly(namespace, path)
		if err == nil && same(f) {
			return f, nil
		}
		if err == nil {
			_ = f.Close() // another file has the name by now
		}
	}
	return sealedCopy(self)
}

// place is where the instance's user namespace is found.
func place(s state.Store) rootless.Place {
	return rootless.Place{Run: s.Run, Members: func() []int {
		var pids []int
		for _, p := range s.Processes() {
			pids = append(pids, p.MonitorID, p.PID)
		}
		return pids
	}}
}

// home is where the networks of a user's containers are, for a process that is inside; nil as root.
func home(s state.Store) *monitor.Home {
	if _, inside := host.Inside(); !inside {
		return nil
	}
	return &monitor.Home{Place: place(s)}
}

// RemoverName is argv[0] of the process that deletes for removeTree.
const RemoverName = "berth-remove"

// removeTree deletes a directory. Without root, what is in it may belong to subordinate ids: then it is deleted by a
// process of the user namespace in which those are ours.
func (e *Engine) removeTree(dir string) error {
	err := os.RemoveAll(dir)
	if err == nil || host.Privileged() || !errors.Is(err, fs.ErrPermission) {
		return err
	}
	pid, err := place(e.Containers).Start(programInside, []string{RemoverName, dir}, os.Environ(), []uintptr{0, 1, 2})
	if err != nil {
		return err
	}
	var status syscall.WaitStatus
	for {
		if _, err := syscall.Wait4(pid, &status, 0, nil); err != unix.EINTR {
			break
		}
	}
	if status != 0 {
		return errdef.New(errdef.Unknown, "cannot delete %s", dir)
	}
	return nil
}

// RemoverMain is the main function of the process that deletes: args is the directory.
func RemoverMain(args []string) error {
	if len(args) != 1 {
		return errdef.New(errdef.Invalid, "a directory is deleted by other commands")
	}
	return os.RemoveAll(args[0])
}

// Uplink says what carries the traffic of networks without root: the uplink that runs, or the one that the next would be. As root there is
// none.
func (e *Engine) Uplink() string {
	if host.Caller().UID == 0 {
		return ""
	}
	next := monitor.UplinkOwn
	if e.Settings.RootlessUplink == monitor.UplinkPasta {
		next = monitor.UplinkPasta
	}
	client, err := uplink.Connect(e.Settings.RunRoot)
	if err != nil {
		return next
	}
	defer client.Close()
	running := monitor.UplinkOwn
	if s, err := client.Status(); err == nil && s.Pasta != 0 {
		running = monitor.UplinkPasta
	}
	if running != next {
		return fmt.Sprintf("%s (%s from its next start on)", running, next)
	}
	return running
}
