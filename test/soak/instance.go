package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"berth/internal/network"
	"berth/internal/runtime/monitor"
	"berth/test/ordinary"
)

// instance is a berth with roots of its own.
type instance struct {
	dir, program string
	user         *ordinary.User // whose it is; nil: root's
}

// patience is more than any command takes, on a machine with much to do.
const patience = time.Minute

func newInstance(program string, user *ordinary.User) (*instance, error) {
	root := os.Getenv("TMPDIR")
	if root == "" {
		root = "/dev/shm"
	}
	dir, err := os.MkdirTemp(root, "berth-soak-")
	if err != nil {
		return nil, err
	}
	in := &instance{dir: dir, program: filepath.Join(dir, "berth"), user: user}
	if user != nil {
		if err := os.Chown(dir, int(user.UID), int(user.GID)); err != nil {
			return nil, err
		}
	}
	data, err := os.ReadFile(program)
	if err != nil {
		return nil, err
	}
	return in, os.WriteFile(in.program, data, 0o755)
}

func (in *instance) networks() network.Store {
	s := network.Store{Data: filepath.Join(in.dir, "data"), Run: filepath.Join(in.dir, "run")}
	if in.user != nil {
		s.Uplink = monitor.UplinkName
		s.Home = func() (*os.File, error) {
			ns, err := ordinary.Network(s.Run, in.pids())
			if ns == nil && err == nil {
				err = errors.New("nobody holds the network namespace")
			}
			return ns, err
		}
	}
	return s
}

// remove removes the instance's files; what it has made in the kernel goes with the namespace.
func (in *instance) remove() {
	if err := os.RemoveAll(in.dir); err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
	}
}

// berth runs a command to its end.
func (in *instance) berth(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	s := in.networks()
	cmd := exec.CommandContext(ctx, in.program, append([]string{"--data-root", s.Data, "--run-root", s.Run}, args...)...)
	if in.user != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: in.user.Credential()}
	}
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + in.dir}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &out, &errs, time.Second
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("berth %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return out.String(), nil
}

// cidfile is where the ID of the n-th container is written.
func (in *instance) cidfile(n int64) string { return filepath.Join(in.dir, fmt.Sprintf("cid%d", n)) }

// groups are the control groups of all containers that there have been.
func (in *instance) groups() (found []string) {
	files, _ := filepath.Glob(filepath.Join(in.dir, "cid*"))
	for _, file := range files {
		id, _ := os.ReadFile(file)
		for _, pattern := range []string{"/sys/fs/cgroup/berth-", "/sys/fs/cgroup/*/berth-"} {
			left, _ := filepath.Glob(pattern + string(id))
			for _, dir := range left {
				found = append(found, "control group "+dir)
			}
		}
	}
	return found
}

// pids are the processes of the instance's programs, and those that were started for it.
func (in *instance) pids() (found []int) {
	own, err := os.Stat(in.program)
	if err != nil {
		return nil
	}
	all, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range all {
		st, err := os.Stat(p + "/exe")
		if err != nil {
			continue // a kernel thread, or one that has ended
		}
		path, _ := os.Readlink(p + "/exe")
		mounts, _ := os.ReadFile(p + "/mountinfo")
		if pid, err := strconv.Atoi(filepath.Base(p)); err == nil &&
			(os.SameFile(own, st) || strings.HasPrefix(path, in.dir+"/") || bytes.Contains(mounts, []byte(in.dir+"/"))) {
			found = append(found, pid)
		}
	}
	return found
}

// processes are those processes, a line each.
func (in *instance) processes() (found []string) {
	for _, pid := range in.pids() {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		found = append(found, fmt.Sprintf("process %d (%s)", pid, bytes.ReplaceAll(line, []byte{0}, []byte{' '})))
	}
	return found
}
