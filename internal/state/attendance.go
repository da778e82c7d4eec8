package state

import (
	"errors"
	"io/fs"
	"os"
	"time"

	"berth/internal/disk"

	"golang.org/x/sys/unix"
)

// Attendance is who looks after a container.
type Attendance int

const (
	// Settled: nobody does, and nothing is left of a run.
	Settled Attendance = iota
	// Deserted: nobody does, but a run has left traces.
	Deserted
	// Attended: a monitor does.
	Attended
)

// Attendance says who looks after the container.
func (s Store) Attendance(id string) Attendance {
	fd, err := unix.Open(s.RunDir(id), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT {
		return Settled
	}
	if err != nil {
		return Deserted
	}
	defer unix.Close(fd)
	// Shared, and given back at once: it is in the way of a monitor that comes in this very moment, which tries again.
	if err := unix.Flock(fd, unix.LOCK_SH|unix.LOCK_NB); err == unix.EWOULDBLOCK {
		return Attended
	}
	return Deserted
}

// Monitored reports whether a monitor looks after the container.
func (s Store) Monitored(id string) bool { return s.Attendance(id) == Attended }

// patience is how long a monitor tries to get its container's lock from those who only look whether somebody has it.
const patience = 20 * time.Millisecond

// TakeAlive makes a container's run directory and takes the lock on it that says that a monitor looks after the container;
// disk.ErrLocked says that one does.
func (s Store) TakeAlive(id string) (*disk.Lock, error) {
	for begin := time.Now(); ; {
		if err := os.MkdirAll(s.RunDir(id), 0o700); err != nil {
			return nil, err
		}
		l, err := disk.TryLockDir(s.RunDir(id))
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case errors.Is(err, disk.ErrLocked) && time.Since(begin) < patience:
			time.Sleep(time.Millisecond)
		default:
			return l, err
		}
	}
}
