// Package cgroup makes the control group of a container, sets its limits and gives it back, on version 1 and on
// version 2, through the cgroup file system.
//
// It does not put processes into a container's group: a child enters it by itself or is born in it (Entrance). What a limit means in
// the files of each version is decided first, as a list of settings; when a group exists and where is decided here. A driver
// (Choose) says who makes the groups; with systemd's, they are in a scope, which runtime/systemd asks for.
package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/host"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Prefix begins the name of every group of berth's. The groups have no common parent of ours, so none is left when the last one
// goes.
const Prefix = "berth-"

const mount = "/sys/fs/cgroup"

// Group is a control group, in all of its hierarchies.
type Group struct {
	host host.Facts
	path string
	// base is the group below which the groups are ours to arrange: controllers are handed down from there.
	base string
	// v1 are its directories in the hierarchies of version 1.
	v1 []directory
	// v2 is its directory in the hierarchy of version 2, alone or beside version 1; empty where there is none.
	v2 string
}

// directory is a group in one hierarchy of version 1.
type directory struct {
	path        string
	root        string   // of the hierarchy
	controllers []string // one or more, or "name=systemd"
}

// above is the directory of the group above, or of the root itself.
func (d directory) above() directory {
	if d.path == d.root {
		return d
	}
	return directory{path: filepath.Dir(d.path), root: d.root}
}

// Open names the group at path, which need not exist.
func Open(h host.Facts, path string) (*Group, error) {
	if path == "" || !strings.HasPrefix(path, "/") || path != filepath.Clean(path) || path == "/" {
		return nil, errdef.New(errdef.Invalid, "the control group %q is not a clean absolute path below the root", path)
	}
	g := &Group{host: h, path: path, base: baseOf(h, path)}
	switch h.Cgroup {
	case host.CgroupUnified:
		g.v2 = mount + path
	case host.CgroupV1:
		for _, m := range h.CgroupMounts {
			g.v1 = append(g.v1, directory{m.Path + path, m.Path, strings.Split(m.Options, ",")})
		}
		if h.CgroupBeside != "" {
			g.v2 = h.CgroupBeside + path
		}
	default:
		return nil, errdef.New(errdef.Unsupported, "this host has no control groups")
	}
	return g, nil
}

// baseOf is the lowest group above another that is not ours alone: a scope, what is delegated to us, or the top.
func baseOf(h host.Facts, path string) string {
	if scope := scopeOf(path); scope != "" {
		return scope
	}
	if base := h.Groups.Base; base != "" && strings.HasPrefix(path, base+"/") {
		return base
	}
	return "/"
}

// Path is the group's path, relative to the root of each hierarchy.
func (g *Group) Path() string { return g.path }

// Create makes the group at path and sets its limits. On an error nothing is left of it.
func Create(h host.Facts, path string, r *specs.LinuxResources) (_ *Group, err error) {
	g, err := Open(h, path)
	if err != nil {
		return nil, err
	}
	settings, err := g.Settings(r)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, g.Remove())
		}
	}()
	for _, p := range g.Paths() {
		if err := mkdir(p); err != nil {
			return nil, fmt.Errorf("cannot make the control group %s: %w", path, err)
		}
	}
	if err := g.prepare(settings); err != nil {
		return nil, fmt.Errorf("cannot make the control group %s: %w", path, err)
	}
	if err := g.apply(settings); err != nil {
		return nil, err
	}
	return g, g.limitDevices(r)
}

// mkdir makes a group, and the groups above it that are not there.
func mkdir(path string) error {
	err := unix.Mkdir(path, 0o755)
	if err == unix.ENOENT {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		err = unix.Mkdir(path, 0o755)
	}
	if err != nil && err != unix.EEXIST {
		return &os.PathError{Op: "mkdir", Path: path, Err: err}
	}
	return nil
}

// Entrance is how a process gets into a group.
type Entrance struct {
	// Files take a "0" from the process itself: one a hierarchy of version 1, and one of version 2 where clone3 is hidden.
	Files []*os.File
	// Dir is for clone3's CLONE_INTO_CGROUP, if there is a hierarchy of version 2.
	Dir *os.File
}

// Enter opens what a process needs to get into the group. The files of version 1 are named tasks: a thread that moves
// itself through them takes no lock of the whole system, for which cgroup.procs waits up to 12 ms (Linux 5.6,
// cgroup_procs_write_start).
func (g *Group) Enter() (_ Entrance, err error) {
	var e Entrance
	defer func() {
		if err != nil {
			e.Close()
		}
	}()
	for _, d := range g.v1 {
		f, err := openFile(d.path+"/tasks", unix.O_WRONLY)
		if err != nil {
			return Entrance{}, err
		}
		e.Files = append(e.Files, f)
	}
	switch {
	case g.v2 == "":
	case g.host.Clone3:
		if e.Dir, err = openFile(g.v2, unix.O_RDONLY|unix.O_DIRECTORY); err != nil {
			return Entrance{}, err
		}
	default:
		f, err := openFile(g.v2+"/cgroup.procs", unix.O_WRONLY)
		if err != nil {
			return Entrance{}, err
		}
		e.Files = append(e.Files, f)
	}
	return e, nil
}

// Tasks is how many files Enter opens.
func (g *Group) Tasks() int {
	if g.v2 != "" && !g.host.Clone3 {
		return len(g.v1) + 1
	}
	return len(g.v1)
}

// Close closes the files.
func (e Entrance) Close() {
	for _, f := range e.Files {
		_ = f.Close()
	}
	if e.Dir != nil {
		_ = e.Dir.Close()
	}
}

// openFile opens a file that is not for Go's poller: of a kernel file system, it never blocks for long.
func openFile(path string, flags int) (*os.File, error) {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// Paths are the directories of the group.
func (g *Group) Paths() []string {
	var paths []string
	for _, d := range g.v1 {
		paths = append(paths, d.path)
	}
	if g.v2 != "" {
		paths = append(paths, g.v2)
	}
	return paths
}

// Permitted reports whether this process may make the group: it may write to what is there of the way to it, in every hierarchy.
func (g *Group) Permitted() bool {
	for _, p := range g.Paths() {
		for unix.Access(p, unix.F_OK) != nil && p != "/" {
			p = filepath.Dir(p)
		}
		if unix.Faccessat(unix.AT_FDCWD, p, unix.W_OK, unix.AT_EACCESS) != nil {
			return false
		}
	}
	return true
}

// Exists reports whether the group is there.
func (g *Group) Exists() bool {
	return slices.ContainsFunc(g.Paths(), func(p string) bool { return unix.Access(p, unix.F_OK) == nil })
}

// members is a directory whose cgroup.procs are the group's processes.
func (g *Group) members() string {
	if d, ok := g.v1With("freezer"); ok {
		return d.path
	}
	return g.Paths()[0]
}

// v1With is the directory in the hierarchy of a controller of version 1.
func (g *Group) v1With(controller string) (directory, bool) {
	i := slices.IndexFunc(g.v1, func(d directory) bool { return slices.Contains(d.controllers, controller) })
	if i < 0 {
		return directory{}, false
	}
	return g.v1[i], true
}

// PIDs are all processes in the group and below it.
func (g *Group) PIDs() ([]int, error) {
	var pids []int
	err := filepath.WalkDir(g.members(), func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() {
			return err
		}
		data, err := disk.Read(path + "/cgroup.procs")
		for _, field := range bytes.Fields(data) {
			if pid, err := strconv.Atoi(string(field)); err == nil {
				pids = append(pids, pid)
			}
		}
		return err
	})
	return pids, err
}

// OOMKills counts the processes that the kernel killed because the group's memory ran out (version 1: Linux 4.13).
func (g *Group) OOMKills() uint64 {
	file := g.v2 + "/memory.events"
	if g.host.Cgroup == host.CgroupV1 {
		d, ok := g.v1With("memory")
		if !ok {
			return 0
		}
		file = d.path + "/memory.oom_control"
	}
	return keyed(file, "oom_kill")
}

// keyed reads a value from a file of lines "KEY VALUE"; 0 if it is not there.
func keyed(file, key string) uint64 {
	data, err := disk.Read(file)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if name, value, _ := strings.Cut(strings.TrimSpace(line), " "); name == key {
			n, _ := strconv.ParseUint(value, 10, 64)
			return n
		}
	}
	return 0
}

// Kill sends SIGKILL to all processes of the group. Version 2 has a file for that since Linux 5.14.
func (g *Group) Kill() error {
	if g.v2 != "" {
		err := write(g.v2+"/cgroup.kill", "1")
		if err == nil || errors.Is(err, fs.ErrNotExist) && !g.Exists() {
			return nil
		}
	}
	pids, err := g.PIDs()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, pid := range pids {
		signal(pid, g, unix.SIGKILL)
	}
	return nil
}

// Signal sends a signal to all processes of the group that are there now.
func (g *Group) Signal(n unix.Signal) error {
	pids, err := g.PIDs()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, pid := range pids {
		signal(pid, g, n)
	}
	return err
}

// signal sends a signal to pid if, once it cannot become another process any more, it is still in the group.
func signal(pid int, g *Group, n unix.Signal) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	if now, err := g.PIDs(); err == nil && slices.Contains(now, pid) {
		_ = unix.PidfdSendSignal(fd, n, nil, 0)
	}
}

// Remove kills what is left in the group and removes it with all groups below. A group that is not there is no error.
func (g *Group) Remove() error {
	pause := time.Millisecond
	for {
		err := g.rmdir()
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || pause > time.Second {
			return fmt.Errorf("cannot remove the control group: %w", err)
		}
		_ = g.Freeze(false) // a frozen process does not die
		if err := g.Kill(); err != nil {
			return err
		}
		time.Sleep(pause) // until what was killed has left
		pause *= 2
	}
}

func (g *Group) rmdir() error {
	var errs error
	for _, p := range g.Paths() {
		errs = errors.Join(errs, rmdirAll(p))
	}
	return errs
}

// rmdirAll removes a group and those below it, the lowest first.
func rmdirAll(dir string) error {
	err := unix.Rmdir(dir)
	if err == nil || err == unix.ENOENT {
		return nil
	}
	entries, readErr := os.ReadDir(dir)
	if readErr != nil {
		return &os.PathError{Op: "rmdir", Path: dir, Err: err}
	}
	below := false
	for _, e := range entries {
		if e.IsDir() {
			below = true
			if err := rmdirAll(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if below {
		if err = unix.Rmdir(dir); err == nil || err == unix.ENOENT {
			return nil
		}
	}
	return &os.PathError{Op: "rmdir", Path: dir, Err: err}
}

// write writes value to a file of the kernel in one write(2).
func write(path, value string) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte(value)); err != nil {
		return &os.PathError{Op: "write", Path: path, Err: err}
	}
	return nil
}

// IDs are the IDs of the containers that have a group, whoever made it.
func IDs(h host.Facts) []string {
	var ids []string
	for _, at := range PathsOf(h, "", "any") {
		g, err := Open(h, strings.TrimSuffix(at, containerGroup))
		if err != nil {
			continue
		}
		for _, p := range g.Paths() {
			entries, err := os.ReadDir(filepath.Dir(p))
			if err != nil {
				continue
			}
			for _, e := range entries {
				id, ok := strings.CutPrefix(strings.TrimSuffix(e.Name(), ".scope"), Prefix)
				if ok && e.IsDir() && !slices.Contains(ids, id) {
					ids = append(ids, id)
				}
			}
		}
	}
	return ids
}
