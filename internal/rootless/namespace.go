package rootless

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/runtime/child"
	"berth/internal/runtime/plan"
	"berth/internal/runtime/userns"

	"golang.org/x/sys/unix"
)

// find opens the namespace by way of somebody who is in it; nil says that nobody is.
func (p Place) find() (*os.File, error) {
	inode, err := p.noted("namespace")
	if inode == 0 || err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(p.path("members"))
	if err != nil {
		return nil, err
	}
	// All of them, also when one is found: those that are gone would stay for as long as he lives.
	var found *os.File
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		switch ns := namespaceOf(pid, inode); {
		case ns != nil && found == nil:
			found = ns
		case ns != nil:
			_ = ns.Close()
		default:
			if err := os.Remove(filepath.Join(p.path("members"), e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
		}
	}
	if found != nil {
		return found, nil
	}
	for _, pid := range p.Members() {
		if ns := namespaceOf(pid, inode); ns != nil {
			return ns, nil
		}
	}
	return nil, nil
}

// namespaceOf opens the user namespace of a process, or the one above, if it is the one with that inode number.
func namespaceOf(pid int, inode uint64) *os.File {
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/user", pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	for range 2 {
		if err != nil {
			return nil
		}
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err == nil && st.Ino == inode {
			return os.NewFile(uintptr(fd), "user namespace")
		}
		// A container with maps of its own is in a child of the namespace (NS_GET_PARENT, Linux 4.9).
		var above int
		above, err = unix.IoctlRetInt(fd, unix.NS_GET_PARENT)
		_ = unix.Close(fd)
		fd = above
	}
	if err == nil {
		_ = unix.Close(fd)
	}
	return nil
}

// make makes the namespace, and writes down which it is.
func (p Place) make() (*os.File, error) {
	ns, err := newNamespace(userns.Ours())
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	err = unix.Fstat(int(ns.Fd()), &st)
	if err == nil {
		err = p.note("namespace", st.Ino)
	}
	if err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	return ns, nil
}

// note writes the inode number of a namespace down. The caller has the lock: what is half-made is a killed process's.
func (p Place) note(name string, inode uint64) error {
	if err := disk.SweepTemporaries(filepath.Dir(p.path(name))); err != nil {
		return err
	}
	return disk.Replace(p.path(name), strconv.AppendUint(nil, inode, 10), 0o600, disk.Volatile)
}

// noted is the inode number of a namespace that was written down, or 0.
func (p Place) noted(name string) (uint64, error) {
	text, err := disk.Read(p.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	inode, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return 0, errdef.New(errdef.Corrupt, "cannot read %s: %w", p.path(name), err)
	}
	return inode, nil
}

// newNamespace makes a user namespace, by way of a process that is in it for a moment.
func newNamespace(maps userns.Maps) (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	defer w.Close()
	c, err := child.Start(plan.CompileKeeper(unix.CLONE_NEWUSER), child.Options{Inputs: map[string]int{plan.InGo: int(r.Fd()), plan.InGoEnd: int(w.Fd())}})
	if err != nil {
		return nil, errdef.As(errdef.Denied, fmt.Errorf("cannot make the user namespace of the containers: %w", err))
	}
	err = maps.Write(c.PID)
	var ns *os.File
	if err == nil {
		ns, err = os.Open(fmt.Sprintf("/proc/%d/ns/user", c.PID))
	}
	_, err2 := w.Write([]byte{0})
	return ns, errors.Join(err, err2, c.End())
}
