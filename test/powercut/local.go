package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"berth/internal/network"
	"berth/test/ownnet"

	"golang.org/x/sys/unix"
)

// local is this machine, of which one file system loses its power. This process is the first of a pid namespace of its own.
type local struct {
	scratch string
	disk    *disk
}

func (l *local) dir() string { return l.disk.dir }

func (l *local) archives() string { return l.scratch }

func (l *local) berth(args ...string) (string, error) { return berthIn(l.scratch, args...) }

// berthIn runs the program "berth" of a directory, with its run root there, too.
func berthIn(dir string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), commandTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(dir, "berth"), append([]string{"--run-root", filepath.Join(dir, "run")}, args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &out, &errs, time.Second
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("berth %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return out.String(), nil
}

// commandTime is more than any command takes, also on an emulated machine.
const commandTime = 2 * time.Minute

func (l *local) write(path string, data []byte) error { return os.WriteFile(path, data, 0o644) }

func (l *local) layers(root string) (map[string]string, error) { return layers(root) }

func (l *local) brokenBlobs(root string) ([]string, error) { return brokenBlobs(root) }

func (l *local) leftovers(root string) ([]string, error) { return leftovers(root) }

func (l *local) drivers() []string { return l.disk.kind.drivers }

func (l *local) sync() error { return syncDir(l.dir()) }

func (l *local) forget(root string) error { return os.RemoveAll(root) }

func (l *local) cut(down func()) error {
	down()
	return l.disk.cut()
}

// boot kills what the power cut would have ended. The first process of the namespace kills all others of it, and nobody
// else's: run has made sure.
func (l *local) boot(over <-chan struct{}) error {
	for done := false; !done; {
		_ = unix.Kill(-1, unix.SIGKILL)
		select {
		case <-over:
			done = true
		case <-time.After(time.Millisecond):
		}
	}
	_ = unix.Kill(-1, unix.SIGKILL)
	l.rest()
	l.forgetGroups()
	networks := network.Store{Data: filepath.Join(l.dir(), "data"), Run: filepath.Join(l.scratch, "run")}
	if err := errors.Join(ownnet.Clear(networks), os.RemoveAll(networks.Run)); err != nil {
		return err
	}
	return l.disk.remount()
}

// rest waits for all processes that have ended or been killed, which as the first process of the namespace it has inherited.
func (l *local) rest() {
	for {
		_, err := unix.Wait4(-1, nil, 0, nil)
		if err != nil && err != unix.EINTR {
			return
		}
	}
}

// forgetGroups removes control groups: a real power cut leaves none.
func (l *local) forgetGroups() {
	entries, _ := os.ReadDir(filepath.Join(l.scratch, "run/containers"))
	for _, e := range entries {
		for _, pattern := range []string{"/sys/fs/cgroup/berth-", "/sys/fs/cgroup/*/berth-"} {
			groups, _ := filepath.Glob(pattern + e.Name())
			for _, g := range groups {
				_ = unix.Rmdir(g)
			}
		}
	}
}
