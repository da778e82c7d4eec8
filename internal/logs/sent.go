package logs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"berth/internal/tail"

	"golang.org/x/sys/unix"
)

// Sent is the file that says how far a log has been sent elsewhere. It has one writer; what it says is whole, since it is one write of
// always the same length.
type Sent struct{ f *os.File }

const sentForm = "%020d %020d\n"

// OpenSent opens the file, and returns what it says: the beginning, if it was not there.
func OpenSent(path string) (*Sent, tail.Position, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, tail.Position{}, err
	}
	return &Sent{f}, readSent(f), nil
}

func readSent(f *os.File) (p tail.Position) {
	var b [42]byte
	if n, _ := f.ReadAt(b[:], 0); n < len(b) {
		return tail.Position{}
	}
	if _, err := fmt.Sscanf(string(b[:]), sentForm, &p.Inode, &p.Offset); err != nil {
		return tail.Position{}
	}
	return p
}

// Set says that all before the position has been sent.
func (s *Sent) Set(p tail.Position) error {
	_, err := s.f.WriteAt(fmt.Appendf(nil, sentForm, p.Inode, p.Offset), 0)
	return err
}

// Close closes the file.
func (s *Sent) Close() error { return s.f.Close() }

// OldestUnsent reports whether the file of a log that goes with the next rotation holds something that has not been sent, as the
// file at path says.
func OldestUnsent(f Files, path string) (bool, error) {
	oldest, st := tail.Rotated(f.Path, f.MaxFiles-1), unix.Stat_t{}
	compressed := false
	if err := unix.Stat(oldest, &st); err != nil {
		if compressed = unix.Stat(oldest+tail.Compressed, &st) == nil; !compressed {
			return false, nil
		}
	}
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	defer file.Close()
	p := readSent(file)
	for n := range f.MaxFiles - 1 {
		var newer unix.Stat_t
		if unix.Stat(tail.Rotated(f.Path, n), &newer) == nil && newer.Ino == p.Inode {
			return false, nil
		}
	}
	// Of one that is compressed the inode number was another, and how far it was read is not compared: its reader goes on to the next.
	return compressed && p == tail.Position{} || !compressed && (p.Inode != st.Ino || p.Offset < st.Size), nil
}
