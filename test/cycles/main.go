// Command cycles makes and ends containers by the thousand in one process, as a program would that has the runtime inside it, and finds that no
// descriptor, thread, process, mount or control group is left of them. A command ends, and what it forgot with it; a monitor, or a server,
// does not.
//
// Each cycle is a container of runtimecli, the front of `berth runtime`: one that runs to its end, or one that is created, started, entered by a
// further process, killed and deleted. It needs root. BERTH_SHORT=1 takes 100 cycles instead of 10,000.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"berth/internal/container"
	"berth/internal/host"
	"berth/internal/runtime/spec"
	"berth/internal/runtimecli"
	"berth/test/tiny"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func main() {
	times := flag.Int("times", 0, "how many containers; 0: 10000, or 100 with BERTH_SHORT set")
	flag.Parse()
	if *times == 0 {
		*times = 10_000
		if os.Getenv("BERTH_SHORT") != "" {
			*times = 100
		}
	}
	if err := run(*times); err != nil {
		fmt.Fprintln(os.Stderr, "cycles:", err)
		os.Exit(1)
	}
}

// warm is how many containers come before the first count: until then the Go runtime and the packages make what they keep.
const warm = 50

// strict is how many containers are made before garbage is collected, which closes descriptors that were forgotten.
const strict = 80

func run(times int) (err error) {
	dir, err := os.MkdirTemp("", "cycles-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	ends, stays := filepath.Join(dir, "ends"), filepath.Join(dir, "stays")
	if err := errors.Join(bundle(ends, tiny.Program), bundle(stays, tiny.Pause)); err != nil {
		return err
	}
	store := runtimecli.Store{Root: filepath.Join(dir, "state"), Warn: func(w error) { err = errors.Join(err, w) }}
	for n := range warm {
		if err := cycle(store, n, ends, stays); err != nil {
			return err
		}
	}
	before := count()
	begun := time.Now()
	collects := debug.SetGCPercent(-1)
	for n := range times {
		if n == strict {
			if err := count().check(before); err != nil {
				return fmt.Errorf("after %d containers, with no garbage collected: %w", n, err)
			}
			debug.SetGCPercent(collects)
		}
		if err := cycle(store, n, ends, stays); err != nil {
			return fmt.Errorf("container %d: %w", n, err)
		}
	}
	took := time.Since(begun)
	after := count()
	fmt.Printf("%d containers in %s: %s before, %s after\n", times, took.Round(time.Millisecond), before, after)
	return errors.Join(err, after.check(before), empty(store.Root))
}

// cycle is one container, of either kind in turn.
func cycle(s runtimecli.Store, n int, ends, stays string) error {
	id := fmt.Sprint("cycle-", n%2)
	if n%2 == 0 {
		status, err := s.Run(runtimecli.Options{ID: id, Dir: ends})
		if err == nil && status != 0 {
			err = fmt.Errorf("it ended with %d", status)
		}
		return err
	}
	if err := s.Create(runtimecli.Options{ID: id, Dir: stays}); err != nil {
		return err
	}
	if err := s.Start(id, ""); err != nil {
		return err
	}
	if status, err := s.Exec(runtimecli.Options{ID: id}, runtimecli.ExecOptions{Args: []string{tiny.Program}}); err != nil || status != 0 {
		return errors.Join(err, fmt.Errorf("the further process ended with %d", status))
	}
	if err := s.Delete(id, true); err != nil {
		return err
	}
	return reap()
}

// reap reaps what was created, which is the caller's child.
func reap() error {
	for {
		if _, err := unix.Wait4(-1, nil, 0, nil); err == unix.ECHILD {
			return nil
		} else if err != nil && err != unix.EINTR {
			return os.NewSyscallError("wait4", err)
		}
	}
}

// bundle makes a bundle as docker would, of a program of the tiny image.
func bundle(dir, program string) error {
	root := filepath.Join(dir, "rootfs")
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	tar := exec.Command("tar", "-C", root, "-xf", "-")
	tar.Stdin = strings.NewReader(string(tiny.Rootfs(1)))
	if out, err := tar.CombinedOutput(); err != nil {
		return fmt.Errorf("tar: %w: %s", err, out)
	}
	built, err := spec.Build(spec.Input{ID: "cycles", Host: host.Probe(), Config: container.Config{Command: []string{program}, Network: "none"}, User: container.User{Home: "/"}})
	if err != nil {
		return err
	}
	s := built.Spec
	s.Root.Path, s.Linux.CgroupsPath, s.Hostname = root, fmt.Sprintf("/cycles-%d", os.Getpid()), "cycles"
	s.Linux.Resources.Pids = &specs.LinuxPids{Limit: ptr(int64(10))}
	return write(filepath.Join(dir, "config.json"), s)
}

func ptr[T any](v T) *T { return &v }

// held is what this process holds, and what of the host's is its.
type held struct{ descriptors, threads, children, mounts int }

func (h held) String() string {
	return fmt.Sprintf("%d descriptors, %d threads, %d children, %d mounts", h.descriptors, h.threads, h.children, h.mounts)
}

// threadsMore is how many threads the Go runtime may have made meanwhile for itself: it keeps those that a system call has held up, and there
// are at most as many of those at once as goroutines here, whatever the number of containers.
const threadsMore = 8

func (h held) check(before held) error {
	var err error
	if h.descriptors > before.descriptors {
		err = errors.Join(err, fmt.Errorf("%d descriptors are left", h.descriptors-before.descriptors))
	}
	if h.threads > before.threads+threadsMore {
		err = errors.Join(err, fmt.Errorf("%d threads are left", h.threads-before.threads))
	}
	if h.children > 0 {
		err = errors.Join(err, fmt.Errorf("%d children are left", h.children))
	}
	if h.mounts > before.mounts {
		err = errors.Join(err, fmt.Errorf("%d mounts are left", h.mounts-before.mounts))
	}
	return err
}

func count() (h held) {
	h.descriptors, h.threads = entries("/proc/self/fd"), entries("/proc/self/task")
	children, _ := filepath.Glob("/proc/self/task/*/children")
	for _, file := range children {
		data, err := os.ReadFile(file)
		if err == nil {
			h.children += len(strings.Fields(string(data)))
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err == nil {
		h.mounts = strings.Count(string(mounts), "\n")
	}
	return h
}

func entries(dir string) int {
	all, err := os.ReadDir(dir)
	if err != nil {
		return -1
	}
	return len(all)
}

// empty reports what the store still has, and control groups that have stayed.
func empty(root string) error {
	all, err := os.ReadDir(root)
	if err != nil {
		return err
	}
	for _, e := range all {
		err = errors.Join(err, fmt.Errorf("the container %s is left", e.Name()))
	}
	groups, _ := filepath.Glob("/sys/fs/cgroup/*cycles-" + strconv.Itoa(os.Getpid()))
	more, _ := filepath.Glob("/sys/fs/cgroup/*/cycles-" + strconv.Itoa(os.Getpid()))
	for _, g := range append(groups, more...) {
		err = errors.Join(err, fmt.Errorf("the control group %s is left", g))
	}
	return err
}

func write(file string, s *specs.Spec) error {
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return os.WriteFile(file, data, 0o644)
}
