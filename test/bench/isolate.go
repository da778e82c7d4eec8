package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"

	"berth/test/tiny"

	"golang.org/x/sys/unix"
)

// workDir is where everything is kept, seen from inside.
const workDir = "/run/b"

// isolated reports whether this is the process that isolate started.
func isolated() bool { return os.Getpid() == 1 }

// isolate runs this program again in namespaces of its own, so that whatever the peers make ends with it, and so that they
// share nothing with other instances of themselves. Signals and the exit status are handed on by the kernel's own means: the
// death of this process is the end of the namespaces.
func isolate() error {
	dir, err := os.MkdirTemp("", "berth-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), "BENCH_DIR="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
		Pdeathsig:  unix.SIGKILL,
	}
	before := podmanGroups()
	err = cmd.Run()
	if len(before) == 0 {
		for _, dir := range slices.Backward(podmanGroups()) {
			err = errors.Join(err, os.Remove(dir))
		}
	}
	return err
}

// podmanGroups are the control groups that podman keeps, each before those in it: they do not end with the namespaces.
func podmanGroups() []string {
	var all []string
	for _, pattern := range []string{"/sys/fs/cgroup/libpod_parent", "/sys/fs/cgroup/*/libpod_parent"} {
		roots, _ := filepath.Glob(pattern) // the patterns are well formed
		for _, root := range roots {
			_ = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
				if err == nil && e.IsDir() {
					all = append(all, path)
				}
				return nil // what has gone meanwhile need not be removed
			})
		}
	}
	return all
}

// prepare makes the namespaces a small host: an empty /run and /dev/shm, /proc and /sys of their own, the loopback up. crun 1.8
// refuses an empty version 2 hierarchy beside version 1: it goes.
func prepare() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("cannot make the mounts private: %w", err)
	}
	dir := os.Getenv("BENCH_DIR")
	fd, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("cannot hold %s: %w", dir, err)
	}
	defer unix.Close(fd)
	for _, m := range []struct{ kind, at string }{{"tmpfs", "/run"}, {"tmpfs", "/dev/shm"}, {"proc", "/proc"}} {
		if err := unix.Mount(m.kind, m.at, m.kind, 0, ""); err != nil {
			return fmt.Errorf("cannot mount %s at %s: %w", m.kind, m.at, err)
		}
	}
	if err := os.Mkdir(workDir, 0o755); err != nil {
		return err
	}
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, workDir, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("cannot mount %s at %s: %w", dir, workDir, err)
	}
	if unix.Access("/sys/fs/cgroup/memory", unix.F_OK) == nil {
		_ = unix.Unmount("/sys/fs/cgroup/unified", unix.MNT_DETACH) // not there: nothing to refuse
	}
	return loopbackUp()
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	r, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, r); err != nil {
		return fmt.Errorf("cannot bring the loopback up: %w", err)
	}
	_, err = net.InterfaceByName("lo")
	return err
}

// tree is a root file system for those who take a directory.
func tree(dir string) (string, error) {
	root := dir + "/rootfs"
	for _, d := range []string{"proc", "sys", "dev", "tmp", "etc", "run", "root"} {
		if err := os.MkdirAll(root+"/"+d, 0o755); err != nil {
			return "", err
		}
	}
	if err := os.WriteFile(root+tiny.Program, tiny.ExitProgram(), 0o755); err != nil {
		return "", err
	}
	return root, os.WriteFile(root+tiny.Pause, tiny.PauseProgram(), 0o755)
}
