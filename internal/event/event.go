// Package event is the journal of what happens to containers, images, networks and volumes: whoever changes one of them appends a line,
// `events` reads them. Names of actions and attributes are docker's.
//
// It is a memory aid, not a record: it is in the run root, ends with the boot, forgets the oldest when it has grown, and whoever cannot
// write to it goes on without. Nothing in berth decides anything by it.
//
// A line is written by one write(2) to a file open for appending, so that lines of several writers do not mix, and begins with a line
// feed of its own: what a full disk has cut off spoils no other line. Writers share a lock on the file; who rotates it has it alone, and
// nobody waits for it: a stopped process can hold up no other.
package event

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"berth/internal/tail"

	"golang.org/x/sys/unix"
)

// Type is what something has happened to, docker's word.
type Type string

const (
	Container Type = "container"
	Image     Type = "image"
	Network   Type = "network"
	Volume    Type = "volume"
	Builder   Type = "builder"
)

// Event is one event.
type Event struct {
	Type       Type
	Action     string
	ID         string // the actor's
	Attributes map[string]string
	Time       time.Time // when it is appended, unless it is set
}

// Journal is the journal of an instance: the files of a directory.
type Journal struct{ Dir string }

const (
	// fileBytes is how long a file gets, some 3000 events; there are two.
	fileBytes = 1 << 20
	files     = 2
)

// In is the journal of the instance with that run root.
func In(runRoot string) Journal { return Journal{filepath.Join(runRoot, "events")} }

func (j Journal) path() string { return filepath.Join(j.Dir, "journal") }

// Append appends events. What it returns is for tests: nobody refrains from anything because it could not be noted.
func (j Journal) Append(events ...Event) error {
	fd, err := j.open()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var room [1024]byte
	line := room[:0]
	now := time.Now()
	for _, e := range events {
		if e.Time.IsZero() {
			e.Time = now
		}
		line = e.append(line)
	}
	if _, err := unix.Write(fd, line); err != nil {
		return os.NewSyscallError("write", err)
	}
	return nil
}

// tries is how often a writer looks again when the file is just being rotated, which takes microseconds.
const tries = 100

// open opens the file that is written to, and shares the lock on it. One that is full has been rotated, or is to be: one that is not is
// the one that is written to.
func (j Journal) open() (int, error) {
	for try := 0; ; try++ {
		fd, err := unix.Open(j.path(), unix.O_WRONLY|unix.O_APPEND|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		if err == unix.ENOENT && try < tries {
			if err := os.MkdirAll(j.Dir, 0o700); err != nil {
				return -1, err
			}
			continue
		}
		if err != nil {
			return -1, &os.PathError{Op: "open", Path: j.path(), Err: err}
		}
		if try == tries || unix.Flock(fd, unix.LOCK_SH|unix.LOCK_NB) == nil && !full(fd) {
			return fd, nil
		}
		err = j.rotate(fd)
		_ = unix.Close(fd)
		if err != nil {
			return -1, err
		}
	}
}

func full(fd int) bool {
	var st unix.Stat_t
	return unix.Fstat(fd, &st) == nil && st.Size >= fileBytes
}

// rotate makes a file that is full the older one, unless somebody is still writing to it, or it is that already.
func (j Journal) rotate(fd int) error {
	var open, there unix.Stat_t
	if unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) != nil || unix.Fstat(fd, &open) != nil || unix.Stat(j.path(), &there) != nil {
		return nil
	}
	if open.Size < fileBytes || open.Ino != there.Ino || open.Dev != there.Dev {
		return nil
	}
	return os.Rename(j.path(), tail.Rotated(j.path(), 1))
}

// append appends the event's line. It is written by hand: the first use of encoding/json for a type costs a start more than all of this.
func (e Event) append(b []byte) []byte {
	b = append(b, "\n{\"Type\":"...)
	b = appendString(b, string(e.Type))
	b = append(b, `,"Action":`...)
	b = appendString(b, e.Action)
	b = append(b, `,"ID":`...)
	b = appendString(b, e.ID)
	b = append(b, `,"Attributes":{`...)
	first := true
	for k, v := range e.Attributes {
		if !first {
			b = append(b, ',')
		}
		first = false
		b = appendString(b, k)
		b = append(b, ':')
		b = appendString(b, v)
	}
	b = append(b, `},"Time":`...)
	b = strconv.AppendInt(b, e.Time.UnixNano(), 10)
	return append(b, "}\n"...)
}

func appendString(b []byte, s string) []byte {
	plain := !slices.ContainsFunc([]byte(s), func(c byte) bool { return c < 0x20 || c >= 0x7f || c == '"' || c == '\\' })
	if plain {
		b = append(b, '"')
		b = append(b, s...)
		return append(b, '"')
	}
	quoted, err := json.Marshal(s)
	if err != nil {
		return append(b, `""`...)
	}
	return append(b, quoted...)
}

// parse reads a line; false says that it is none, or only part of one.
func parse(line []byte) (Event, bool) {
	var on struct {
		Type       Type
		Action, ID string
		Attributes map[string]string
		Time       int64
	}
	if json.Unmarshal(line, &on) != nil || on.Type == "" {
		return Event{}, false
	}
	return Event{on.Type, on.Action, on.ID, on.Attributes, time.Unix(0, on.Time)}, true
}

// Read gives the events of the journal to each, the oldest first, and then those that follow, as long as wait, called when there is
// nothing more to read, says so; a nil wait follows none.
func (j Journal) Read(wait tail.Wait, each func(Event) error) error {
	err := tail.Lines(j.path(), files, wait, func(line []byte) error {
		if e, ok := parse(line); ok {
			return each(e)
		}
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Watch tells when events are appended.
func (j Journal) Watch() (*tail.Watch, error) {
	if err := os.MkdirAll(j.Dir, 0o700); err != nil {
		return nil, err
	}
	return tail.NewWatch(j.Dir)
}
