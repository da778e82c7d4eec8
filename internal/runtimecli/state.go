package runtimecli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"berth/internal/container"
	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/host"
	"berth/internal/ownjson"
	"berth/internal/runtime/cgroup"
	"berth/internal/runtime/lifecycle"
	"berth/internal/state"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Store is a directory with the states of containers, a directory each.
type Store struct {
	Root string
	// Chosen says that somebody has named the directory: then it is an error if it is not there to list.
	Chosen bool
	// NoCgroup has every container stay in the caller's control group.
	NoCgroup bool
	// Systemd has systemd make the control groups.
	Systemd bool
	// Rootless says whether a container goes without a control group where none may be made: true, false, or auto (or empty), which is
	// what this process may.
	Rootless string
	// Warn, if not nil, is told of what went wrong without consequence.
	Warn func(error)
}

// The files of a container's directory. All die with the boot, and with the container.
const (
	lockFile   = "lock"        // flock of who changes the container
	configFile = "config.json" // the bundle's, as it was when the container was made
	stateFile  = "state.json"  // record; before its process goes on to anything that others can see
	startFIFO  = "start"       // the gate of a created container (lifecycle.Gate); gone when it has been started
	reportFIFO = "report"
)

// record is what is known of a container.
type record struct {
	Version string    `json:"ociVersion"`
	ID      string    `json:"id"`
	Bundle  string    `json:"bundle"`
	Rootfs  string    `json:"rootfs"`
	Created time.Time `json:"created"`
	UID     int       `json:"uid"` // whose container it is
	// PID is the first process; Begun is when it was started, in clock ticks after the boot, which tells it from others of that
	// number.
	PID   int    `json:"pid"`
	Begun uint64 `json:"begun"`
	// Ready says that the process has got as far as its gate, if it has one.
	Ready bool `json:"ready"`

	Cgroup      string        `json:"cgroup,omitempty"`
	Driver      cgroup.Driver `json:"driver,omitempty"`
	Namespaces  uintptr       `json:"namespaces"`
	NoSetgroups bool          `json:"noSetgroups,omitempty"`
	// First and Steps are what is behind the gate (lifecycle.Pending.Steps).
	First       int               `json:"first,omitempty"`
	Steps       []lifecycle.Step  `json:"steps,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
	// Resources are the limits that update has left, if it was used.
	Resources json.RawMessage `json:"resources,omitempty"`
}

// held is a container whose lock is ours.
type held struct {
	record
	dir  string
	lock *disk.Lock
}

// errNotThere is the error for a container that is not there, in words that engines look for.
func errNotThere(id string) error {
	return errdef.New(errdef.NotFound, "container %q does not exist", id)
}

func checkID(id string) error {
	if id == "" {
		return errdef.New(errdef.Invalid, "container id cannot be empty")
	}
	if container.CheckName(id) != nil && !validID(id) {
		return errdef.New(errdef.Invalid, "invalid container ID format: %q is not made of letters, digits, '_', '+', '.' and '-'", id)
	}
	return nil
}

// validID is runc's rule, in which an ID may also begin with what is no letter, but is no name of a directory.
func validID(id string) bool {
	return id != "" && id != "." && id != ".." && strings.IndexFunc(id, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_+-.", r))
	}) < 0
}

// reserve makes the directory of a new container.
func (s Store) reserve(id string) (*held, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(s.Root, 0o700); err != nil {
		return nil, err
	}
	dir := filepath.Join(s.Root, id)
	if err := os.Mkdir(dir, 0o711); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil, errdef.New(errdef.Conflict, "container with given ID already exists: %s", id)
		}
		return nil, err
	}
	lock, err := disk.TakeLock(filepath.Join(dir, lockFile))
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return &held{dir: dir, lock: lock, record: record{ID: id}}, nil
}

// take takes the lock of a container.
func (s Store) take(id string) (*held, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	dir := filepath.Join(s.Root, id)
	if _, err := os.Lstat(dir); err != nil {
		return nil, missing(id, err)
	}
	lock, err := disk.TakeLock(filepath.Join(dir, lockFile))
	if err != nil {
		return nil, missing(id, err)
	}
	h := &held{dir: dir, lock: lock}
	if h.record, err = s.read(id); err != nil {
		lock.Unlock()
		return nil, err
	}
	return h, nil
}

func missing(id string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return errNotThere(id)
	}
	return err
}

// read reads the record of a container; of one that was never finished there is only its ID.
func (s Store) read(id string) (record, error) {
	if err := checkID(id); err != nil {
		return record{}, err
	}
	dir := filepath.Join(s.Root, id)
	data, err := disk.Read(filepath.Join(dir, stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Lstat(dir); err != nil {
			return record{}, missing(id, err)
		}
		return record{ID: id}, nil
	}
	if err != nil {
		return record{}, err
	}
	var r record
	if err := ownjson.Unmarshal(data, &r); err != nil {
		return record{}, fmt.Errorf("cannot read %s: %w", filepath.Join(dir, stateFile), err)
	}
	return r, nil
}

// save writes the record.
func (h *held) save() error {
	data, err := ownjson.Marshal(&h.record)
	if err != nil {
		return err
	}
	return disk.Replace(filepath.Join(h.dir, stateFile), data, 0o644, disk.Volatile)
}

// config reads the container's own copy of its config.json.
func (s Store) config(id string) (*specs.Spec, error) {
	data, err := disk.Read(filepath.Join(s.Root, id, configFile))
	if err != nil {
		return nil, missing(id, err)
	}
	return parseConfig(data)
}

// forget removes the directory. The lock goes with it.
func (h *held) forget() error {
	defer h.lock.Unlock()
	return os.RemoveAll(h.dir)
}

// The states of config.md, "State", and paused.
const (
	creating = "creating"
	created  = "created"
	running  = "running"
	paused   = "paused"
	stopped  = "stopped"
)

// status is what state a container is in now.
func (s Store) status(r record) string {
	switch {
	case r.PID == 0 || !r.alive():
		if r.PID == 0 && s.beingMade(r.ID) {
			return creating
		}
		return stopped
	case !r.Ready:
		return creating
	}
	if _, err := os.Lstat(filepath.Join(s.Root, r.ID, startFIFO)); err == nil {
		return created
	}
	if g := r.group(); g != nil && g.Frozen() {
		return paused
	}
	return running
}

// beingMade reports whether somebody holds the lock of a container that has no process yet.
func (s Store) beingMade(id string) bool {
	lock, err := disk.TryLock(filepath.Join(s.Root, id, lockFile))
	if err == nil {
		lock.Unlock()
	}
	return errors.Is(err, disk.ErrLocked)
}

// group is the container's control group, or nil.
func (r record) group() *cgroup.Group {
	if r.Cgroup == "" {
		return nil
	}
	g, err := cgroup.Open(host.Probe(), r.Cgroup)
	if err != nil {
		return nil
	}
	return g
}

// startOf is when a process was started, in clock ticks after the boot.
func startOf(pid int) (uint64, error) {
	begun := state.StartTime(pid)
	if begun == 0 {
		return 0, errdef.New(errdef.NotFound, "there is no process %d", pid)
	}
	return begun, nil
}

// open returns a pidfd of the container's first process, or -1 if that is no more.
func (r record) open() int { return state.Process{PID: r.PID, StartTime: r.Begun}.Open() }

// alive reports whether the container's first process is there, and more than a zombie. That is not for /proc/PID/stat to say: while a program of
// several threads executes another one, the state there is that of its first thread, which may have ended.
func (r record) alive() bool {
	fd := r.open()
	if fd < 0 {
		return false
	}
	_ = unix.Close(fd)
	return true
}

// signal sends a signal to the container's first process and to no other that has its number.
func (r record) signal(n unix.Signal) error {
	fd := r.open()
	if fd < 0 {
		return errNotRunning
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, n, nil, 0); err != nil {
		if err == unix.ESRCH {
			return errNotRunning
		}
		return os.NewSyscallError("pidfd_send_signal", err)
	}
	return nil
}

var errNotRunning = errdef.New(errdef.Conflict, "container not running")

// State is what `state` prints (config.md, "State"), and what hooks are given.
type State struct {
	Version     string            `json:"ociVersion"`
	ID          string            `json:"id"`
	PID         int               `json:"pid"`
	Status      string            `json:"status"`
	Bundle      string            `json:"bundle"`
	Rootfs      string            `json:"rootfs"`
	Created     time.Time         `json:"created"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Owner       string            `json:"owner"`
}

func (r record) state(status string) State {
	pid := r.PID
	if status == stopped {
		pid = 0
	}
	return State{
		Version: r.Version, ID: r.ID, PID: pid, Status: status, Bundle: r.Bundle, Rootfs: r.Rootfs, Created: r.Created,
		Annotations: r.Annotations, Owner: userName(r.UID),
	}
}

// State is the state of a container.
func (s Store) State(id string) (State, error) {
	r, err := s.read(id)
	if err != nil {
		return State{}, err
	}
	return r.state(s.status(r)), nil
}

// List are the states of all containers, by their IDs.
func (s Store) List() ([]State, error) {
	entries, err := os.ReadDir(s.Root)
	if err != nil && (s.Chosen || !errors.Is(err, fs.ErrNotExist)) {
		return nil, err
	}
	all := []State{}
	for _, e := range entries {
		if !e.IsDir() || !validID(e.Name()) {
			continue
		}
		one, err := s.State(e.Name())
		if errdef.Is(err, errdef.NotFound) {
			continue // it has gone meanwhile
		}
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, nil
}

// PIDs are the container's processes.
func (s Store) PIDs(id string) ([]int, error) {
	r, err := s.read(id)
	if err != nil {
		return nil, err
	}
	g := r.group()
	if g == nil {
		if r.PID == 0 || !r.alive() {
			return nil, errNotRunning
		}
		return []int{r.PID}, nil
	}
	pids, err := g.PIDs()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errNotRunning
	}
	slices.Sort(pids)
	return pids, err
}

// Freeze stops all processes of a container, or lets them go on.
func (s Store) Freeze(id string, frozen bool) error {
	h, err := s.take(id)
	if err != nil {
		return err
	}
	defer h.lock.Unlock()
	status := s.status(h.record)
	switch {
	case frozen && status != running && status != created:
		return errdef.New(errdef.Conflict, "cannot pause a container that is %s: container not running", status)
	case !frozen && status != paused:
		return errdef.New(errdef.Conflict, "cannot resume a container that is %s: container not paused", status)
	}
	g := h.group()
	if g == nil {
		return errdef.New(errdef.Unsupported, "cannot pause the container: it has no control group of its own")
	}
	return g.Freeze(frozen)
}

// userName is the name of a user of the host, or the number of one who has none.
func userName(uid int) string {
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		return u.Username
	}
	return strconv.Itoa(uid)
}
