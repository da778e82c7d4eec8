package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"berth/internal/network"
	"berth/test/ordinary"
	"berth/test/ownnet"

	"golang.org/x/sys/unix"
)

// instance is a berth with roots of its own.
type instance struct {
	dir, program string
	user         *ordinary.User  // whose it is; nil: root's
	ids          map[string]bool // of all containers that were seen since the last cleaning
	baseline     map[string]bool // the files that are there when nothing is
	rooms        int             // how many files for IDs were asked for
	cleanings    int
}

// newInstance makes an instance below dir, with a copy of the program: by that its processes are known.
func newInstance(dir, program string, user *ordinary.User) (*instance, error) {
	in := &instance{dir: dir, program: filepath.Join(dir, "berth"), user: user, ids: map[string]bool{}}
	data, err := os.ReadFile(program)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(in.program, data, 0o755); err != nil {
		return nil, err
	}
	if user != nil {
		if err := os.Chown(dir, int(user.UID), int(user.GID)); err != nil {
			return nil, err
		}
	}
	return in, in.renew()
}

func (in *instance) data() string { return filepath.Join(in.dir, "data") }
func (in *instance) run() string  { return filepath.Join(in.dir, "run") }

func (in *instance) networks() network.Store { return network.Store{Data: in.data(), Run: in.run()} }

// renew begins from nothing, with the image box and every program unpacked.
func (in *instance) renew() error {
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		pids := in.processes()
		if len(pids) == 0 || time.Now().After(end) {
			break
		}
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
	for _, dir := range in.groups() {
		_ = unix.Rmdir(dir) // what a violation has left
	}
	if in.user == nil { // a user's networks have gone with his processes
		// What a violation has left of networks is known by their records, which go next.
		if _, err := in.networks().Sweep(func(string) (string, bool) { return "", false }); err != nil {
			return err
		}
		if err := in.networks().Vacate(); err != nil {
			return err
		}
	}
	if err := errors.Join(os.RemoveAll(in.data()), os.RemoveAll(in.run())); err != nil {
		return err
	}
	in.ids = map[string]bool{}
	for _, args := range [][]string{{"run", "--rm", "box", "true"}, {"volume", "create", "data"}, {"volume", "rm", "data"}, {"container", "prune", "-f"}, {"image", "prune", "-f"}} {
		if _, err := in.berth(args...); err != nil {
			return err
		}
	}
	if left := in.endUplink(true); len(left) > 0 {
		return errors.New(left[0])
	}
	if err := in.makeBundle(); err != nil {
		return err
	}
	if in.user == nil { // an empty directory of states stays
		if err := os.MkdirAll(filepath.Join(in.run(), "runtime"), 0o700); err != nil {
			return err
		}
	}
	in.baseline = in.files()
	return nil
}

func (in *instance) argv(args ...string) []string {
	return append([]string{in.program, "--data-root", in.data(), "--run-root", in.run()}, args...)
}

func (in *instance) env() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + in.dir}
}

// attributes make a process his whose instance it is.
func (in *instance) attributes() *unix.SysProcAttr {
	if in.user == nil {
		return &unix.SysProcAttr{}
	}
	return &unix.SysProcAttr{Credential: in.user.Credential()}
}

// berth runs a command to its end and returns what it printed.
func (in *instance) berth(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	argv := in.argv(args...)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env, cmd.SysProcAttr = in.env(), in.attributes()
	// Files, and not pipes, which a container that was only created would keep open.
	var said [2][]byte
	var streams [2]*os.File
	for i, name := range []string{"out", "err"} {
		f, err := os.Create(filepath.Join(in.dir, "command."+name))
		if err != nil {
			return "", err
		}
		defer f.Close()
		streams[i] = f
	}
	cmd.Stdout, cmd.Stderr = streams[0], streams[1]
	err := cmd.Run()
	for i, f := range streams {
		data, readErr := os.ReadFile(f.Name())
		if readErr != nil {
			return "", readErr
		}
		said[i] = data
	}
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return string(said[0]), fmt.Errorf("berth %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(said[1])))
	}
	return string(said[0]), nil
}

// see notes which containers there are, so that what is left of them can be looked for later.
func (in *instance) see() {
	for _, dir := range []string{in.data(), in.run()} {
		entries, _ := os.ReadDir(filepath.Join(dir, "containers"))
		for _, e := range entries {
			if len(e.Name()) == 64 {
				in.ids[e.Name()] = true
			}
		}
	}
}

// processes are all of this instance's: of its program, of the programs below its data root, in its control groups, and, since a user
// may have none, those that have its files mounted.
func (in *instance) processes() []int {
	own, err := os.Stat(in.program)
	if err != nil {
		return nil
	}
	entries, _ := os.ReadDir("/proc")
	var pids []int
	for _, e := range entries {
		var pid int
		if _, err := fmt.Sscan(e.Name(), &pid); err != nil {
			continue
		}
		exe := "/proc/" + e.Name() + "/exe"
		st, err := os.Stat(exe)
		if err != nil {
			continue // a kernel thread, a zombie
		}
		path, _ := os.Readlink(exe)
		group, _ := os.ReadFile("/proc/" + e.Name() + "/cgroup")
		ours := os.SameFile(own, st) || strings.HasPrefix(path, in.dir+"/")
		for id := range in.ids {
			ours = ours || bytes.Contains(group, []byte(id))
		}
		if in.user != nil && !ours {
			mounts, _ := os.ReadFile("/proc/" + e.Name() + "/mountinfo")
			ours = bytes.Contains(mounts, []byte(in.dir+"/"))
		}
		if ours {
			pids = append(pids, pid)
		}
	}
	return pids
}

// groups are the directories of the control groups of all containers that were seen.
func (in *instance) groups() (dirs []string) {
	for id := range in.ids {
		for _, pattern := range []string{"/sys/fs/cgroup/berth-", "/sys/fs/cgroup/*/berth-"} {
			found, _ := filepath.Glob(pattern + id + "*") // also .scope
			dirs = append(dirs, found...)
		}
	}
	return dirs
}

// files lists the instance's files, without what is inside of layers.
func (in *instance) files() map[string]bool {
	found := map[string]bool{}
	for _, root := range []string{in.data(), in.run()} {
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return nil
			}
			found[strings.TrimPrefix(path, in.dir+"/")] = true
			if d.IsDir() && (d.Name() == "tree" || d.Name() == "members") { // of the user namespace: the next command removes them
				return fs.SkipDir
			}
			return nil
		})
	}
	return found
}

// clean removes everything with berth's own commands and says what is left then.
func (in *instance) clean() (wrong []string) {
	in.see()
	say := func(err error) {
		if err != nil {
			wrong = append(wrong, err.Error())
		}
	}
	out, err := in.berth("ps", "-aq", "--no-trunc")
	say(err)
	if in.user != nil {
		wrong = append(wrong, in.onlyKeeper()...)
		out, err = in.berth("ps", "-aq", "--no-trunc")
		say(err)
	}
	if ids := strings.Fields(out); len(ids) > 0 {
		_, err := in.berth(append([]string{"rm", "-f"}, ids...)...)
		say(err)
	}
	out, err = in.berth("images", "--format", "{{.Repository}}:{{.Tag}}")
	say(err)
	for _, name := range strings.Fields(out) {
		if strings.Contains(name, "tiny") {
			_, err := in.berth("rmi", "-f", name)
			say(err)
		}
	}
	_, err = in.berth("container", "prune", "-f")
	say(err)
	say(in.sweepVolumes())
	_, err = in.berth("network", "prune", "-f")
	say(err)
	_, err = in.berth("image", "prune", "-f")
	say(err)
	var left []string
	wrong = append(wrong, in.endUplink(in.cleanings%uplinkSeen == 0)...)
	in.cleanings++
	// What is told to end may need a moment for it.
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if left = in.leaked(); len(left) == 0 || time.Now().After(end) {
			break
		}
	}
	return append(wrong, left...)
}

func (in *instance) leaked() (left []string) {
	for _, pid := range in.processes() {
		cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		left = append(left, fmt.Sprintf("process %d (%s) is left", pid, bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '})))
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, in.dir+"/") {
			left = append(left, "a mount is left: "+strings.TrimSpace(line))
		}
	}
	if groups := in.groups(); len(groups) > 0 {
		left = append(left, fmt.Sprintf("%d directories of control groups are left, like %s", len(groups), groups[0]))
	}
	held, err := ownnet.Held(in.networks())
	if in.user != nil {
		held, err = ownnet.Records(in.networks())
	}
	if err != nil {
		left = append(left, err.Error())
	}
	for _, what := range held {
		left = append(left, what+" is left")
	}
	for path := range in.files() {
		if in.baseline[path] {
			continue
		}
		// The bytes of an interrupted download are kept for the next try.
		if dir, base := filepath.Split(path); dir == "data/content/ingest/" && strings.HasPrefix(base, "sha") {
			continue
		}
		left = append(left, "a file is left: "+path)
	}
	slices.Sort(left)
	return left
}
