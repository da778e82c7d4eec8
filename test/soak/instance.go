package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"berth/internal/network"
)

// instance is a berth with roots of its own.
type instance struct{ dir, program string }

// patience is more than any command takes, on a machine with much to do.
const patience = time.Minute

func newInstance(program string) (*instance, error) {
	root := os.Getenv("TMPDIR")
	if root == "" {
		root = "/dev/shm"
	}
	dir, err := os.MkdirTemp(root, "berth-soak-")
	if err != nil {
		return nil, err
	}
	in := &instance{dir: dir, program: filepath.Join(dir, "berth")}
	data, err := os.ReadFile(program)
	if err != nil {
		return nil, err
	}
	return in, os.WriteFile(in.program, data, 0o755)
}

func (in *instance) networks() network.Store {
	return network.Store{Data: filepath.Join(in.dir, "data"), Run: filepath.Join(in.dir, "run")}
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

// processes are those of the instance's program, and those that were started for it.
func (in *instance) processes() (found []string) {
	own, err := os.Stat(in.program)
	if err != nil {
		return []string{err.Error()}
	}
	all, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range all {
		st, err := os.Stat(p + "/exe")
		if err != nil {
			continue // a kernel thread, or one that has ended
		}
		mounts, _ := os.ReadFile(p + "/mountinfo")
		if os.SameFile(own, st) || bytes.Contains(mounts, []byte(in.dir+"/")) {
			line, _ := os.ReadFile(p + "/cmdline")
			found = append(found, fmt.Sprintf("process %s (%s)", filepath.Base(p), bytes.ReplaceAll(line, []byte{0}, []byte{' '})))
		}
	}
	return found
}
