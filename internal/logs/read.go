package logs

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Entry is one entry of a log.
type Entry struct {
	Text   string    `json:"log"`
	Stream string    `json:"stream"`
	Time   time.Time `json:"time"`
}

// Query says which entries are wanted.
type Query struct {
	Tail         int // the last so many; negative: all
	Since, Until time.Time
	// Follow, when not nil, waits for more at the end until it returns false; it is called when nothing is left to read.
	Follow func() bool
}

// Read gives the entries of the log at path, the oldest first, to each.
func Read(path string, maxFiles int, q Query, each func(Entry) error) error {
	skip, err := toSkip(path, maxFiles, q)
	if err != nil {
		return err
	}
	give := func(line []byte) error {
		var e Entry
		if json.Unmarshal(line, &e) != nil {
			return nil // cut off by a crash
		}
		if e.Time.Before(q.Since) || !q.Until.IsZero() && e.Time.After(q.Until) {
			return nil
		}
		if skip > 0 {
			skip--
			return nil
		}
		return each(e)
	}
	for i := maxFiles - 1; i > 0; i-- {
		f, err := os.Open(fmt.Sprintf("%s.%d", path, i))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		_, err = lines(f, nil, give)
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	f, err := os.Open(path)
	for more := q.Follow != nil; errors.Is(err, fs.ErrNotExist) && more; {
		more = q.Follow() // what was written before there was no more to come is still read
		f, err = os.Open(path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil // nothing was ever written
	}
	if err != nil {
		return err
	}
	return follow(f, path, q, give)
}

// toSkip is how many of the wanted entries stand before the last q.Tail ones.
func toSkip(path string, maxFiles int, q Query) (int, error) {
	if q.Tail < 0 {
		return 0, nil
	}
	total := 0
	all := q
	all.Tail, all.Follow = -1, nil
	err := Read(path, maxFiles, all, func(e Entry) error {
		// A long line is several entries; it counts once, at its end.
		total++
		return nil
	})
	return max(0, total-q.Tail), err
}

// follow reads f to its end and, if asked, what is appended later, also to the file that takes its place.
func follow(f *os.File, path string, q Query, give func([]byte) error) error {
	defer func() { _ = f.Close() }()
	var rest []byte
	last := false
	for {
		var err error
		if rest, err = lines(f, rest, give); err != nil || q.Follow == nil {
			return err
		}
		if next, err := os.Open(path); err == nil && !sameFile(f, next) {
			// Nothing is appended to the old one any more; what came before it was renamed is read first.
			if _, err = lines(f, rest, give); err != nil {
				return errors.Join(err, next.Close())
			}
			_ = f.Close()
			f, rest = next, nil
			continue
		} else if err == nil {
			_ = next.Close()
		}
		if last {
			return nil
		}
		// What was written, or rotated, before there was no more to come is still read.
		last = !q.Follow()
	}
}

func sameFile(a, b *os.File) bool {
	var x, y unix.Stat_t
	return unix.Fstat(int(a.Fd()), &x) == nil && unix.Fstat(int(b.Fd()), &y) == nil && x.Ino == y.Ino && x.Dev == y.Dev
}

// lines gives each whole line of r, the first of which begins with rest, and returns the begun one at the end.
func lines(r io.Reader, rest []byte, give func([]byte) error) ([]byte, error) {
	b := bufio.NewReaderSize(r, 64<<10)
	for {
		part, err := b.ReadSlice('\n')
		if err == nil {
			line := part
			if len(rest) > 0 {
				rest = append(rest, part...)
				line = rest
			}
			if len(bytes.TrimSpace(line)) > 0 {
				if err := give(line); err != nil {
					return nil, err
				}
			}
			rest = rest[:0]
			continue
		}
		rest = append(rest, part...)
		if err == io.EOF {
			return rest, nil
		}
		if err != bufio.ErrBufferFull {
			return nil, err
		}
	}
}
