package rootless

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"

	"berth/internal/disk"
	"berth/internal/errdef"

	"golang.org/x/sys/unix"
)

// Network opens the network namespace in which the networks of the user's containers are, for a process inside; made says that it is
// a new one. Like the user namespace it is kept by whoever holds it open: each monitor of a container on a network does, and the
// uplink. Their open files say which they hold.
func (p Place) Network() (ns *os.File, made bool, err error) {
	l, err := disk.TakeLock(p.path("lock"))
	if err != nil {
		return nil, false, err
	}
	defer l.Unlock()
	if ns, err = p.findNetwork(); ns != nil || err != nil {
		return ns, false, err
	}
	if ns, err = newNetwork(); err != nil {
		return nil, false, err
	}
	var st unix.Stat_t
	if err = unix.Fstat(int(ns.Fd()), &st); err == nil {
		err = p.note("network", st.Ino)
	}
	if err != nil {
		return nil, false, errors.Join(err, ns.Close())
	}
	return ns, true, nil
}

func (p Place) findNetwork() (*os.File, error) {
	inode, err := p.noted("network")
	if inode == 0 || err != nil {
		return nil, err
	}
	name := fmt.Sprintf("net:[%d]", inode)
	members, err := os.ReadDir(p.path("members"))
	if err != nil {
		return nil, err
	}
	pids := p.Members()
	for _, e := range members {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	for _, pid := range pids {
		if ns := heldBy(pid, name); ns != nil {
			return ns, nil
		}
	}
	return nil, nil
}

// heldBy opens the namespace of that name if a process has it open.
func heldBy(pid int, name string) *os.File {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if to, err := os.Readlink(path); err != nil || to != name {
			continue
		}
		if f, err := os.Open(path); err == nil {
			return f
		}
	}
	return nil
}

// newNetwork makes a network namespace, by way of a thread that ends with it.
func newNetwork() (*os.File, error) {
	type result struct {
		ns  *os.File
		err error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // and never unlocked
		var r result
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			r.err = errdef.As(errdef.Denied, fmt.Errorf("cannot make the network namespace of the networks: %w", os.NewSyscallError("unshare", err)))
		} else {
			r.ns, r.err = os.Open("/proc/thread-self/ns/net")
		}
		done <- r
	}()
	r := <-done
	return r.ns, r.err
}
