package state

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"berth/internal/disk"
	"berth/internal/errdef"

	"golang.org/x/sys/unix"
)

// Status is docker's word for what a container is doing.
type Status string

const (
	Created    Status = "created"
	Running    Status = "running"
	Paused     Status = "paused"
	Restarting Status = "restarting"
	Exited     Status = "exited"
)

// Record is what became of a container: containers/ID/record.json.
type Record struct {
	Format       int
	Status       Status
	StartedAt    time.Time `json:",omitzero"`
	FinishedAt   time.Time `json:",omitzero"`
	ExitCode     int
	Error        string `json:",omitempty"`
	OOMKilled    bool   `json:",omitempty"`
	RestartCount int    `json:",omitempty"`
	// Stopped says that a command ended it on purpose: its restart policy then rests.
	Stopped bool `json:",omitempty"`
}

// Process is where a container runs: RUN/ID/process.json.
type Process struct {
	Format    int
	PID       int
	StartTime uint64 // in clock ticks after boot (proc_pid_stat(5), field 22): tells the process from a later one with its number
	Cgroup    string
	// CgroupDriver has made the control group ("systemd", "cgroupfs"); empty where berth did not know drivers, which is the latter.
	CgroupDriver string `json:",omitempty"`
	StartedAt    time.Time
	MonitorID    int // pid of the monitor
}

// Record reads what became of a container.
func (s Store) Record(id string) (Record, error) {
	r := Record{Format: Format, Status: Created}
	err := readJSON(filepath.Join(s.Dir(id), "record.json"), &r)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if errdef.Is(err, errdef.Corrupt) {
		return Record{Format: Format, Status: Running}, nil
	}
	return r, err
}

// SetRecord writes what became of a container.
func (s Store) SetRecord(id string, r Record, d disk.Durability) error {
	r.Format = Format
	return writeJSON(filepath.Join(s.Dir(id), "record.json"), r, d)
}

// Process reads where a container runs; fs.ErrNotExist says that it does not.
func (s Store) Process(id string) (Process, error) {
	var p Process
	return p, readJSON(filepath.Join(s.RunDir(id), "process.json"), &p)
}

// SetProcess writes where a container runs.
func (s Store) SetProcess(id string, p Process) error {
	p.Format = Format
	return writeJSON(filepath.Join(s.RunDir(id), "process.json"), p, disk.Volatile)
}

// updateFile says that the limits of a running container are being changed.
func (s Store) updateFile(id string) string { return filepath.Join(s.RunDir(id), "update") }

func (s Store) heldFile(id string) string { return filepath.Join(s.RunDir(id), "held") }

// HoldStill says, before a running container is paused by a command that reads its files, that it is to go on when that command ends: as long
// as it lives, it has the lock. It waits for another one.
func (s Store) HoldStill(id string) (*disk.Lock, error) { return disk.TakeLock(s.heldFile(id)) }

// LetGo takes back what HoldStill has said. The container goes on already.
func (s Store) LetGo(id string, l *disk.Lock) error {
	defer l.Unlock()
	if err := os.Remove(s.heldFile(id)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil // the container has ended meanwhile
}

// Abandoned is the lock of a command that was killed while it held a container still; nil if there is none.
func (s Store) Abandoned(id string) *disk.Lock {
	if unix.Access(s.heldFile(id), unix.F_OK) != nil {
		return nil
	}
	l, err := disk.TryLock(s.heldFile(id))
	if err != nil {
		return nil // it is at it
	}
	return l
}

// BeginUpdate says, until EndUpdate, that the limits of a running container may be others than its configuration says.
func (s Store) BeginUpdate(id string) error {
	return os.WriteFile(s.updateFile(id), nil, 0o600)
}

// Updating reports whether an update has begun and not ended: it is under way, or who has begun it was killed.
func (s Store) Updating(id string) bool {
	return unix.Access(s.updateFile(id), unix.F_OK) == nil
}

// EndUpdate says that the limits are those of the configuration.
func (s Store) EndUpdate(id string) error {
	err := os.Remove(s.updateFile(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
