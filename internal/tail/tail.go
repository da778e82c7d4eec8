// Package tail reads the lines of a file that others append to and rotate, to path.1, path.2 and so on, and waits for more: in their
// order, and without leaving out any that is still there.
//
// It knows nothing of what the lines say, and writes none.
package tail

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// Rotated is the name of the file at path when it has been rotated n times.
func Rotated(path string, n int) string {
	if n == 0 {
		return path
	}
	return fmt.Sprintf("%s.%d", path, n)
}

// Wait waits until there may be more to read; false says that there will be no more.
type Wait func() bool

// Lines gives each whole line of the file at path, and of those that it has been rotated to, of which there are files in all, to each:
// the oldest first. A line that is begun, and not ended before its file is rotated, is left out. When all is read it waits; a nil wait
// ends it.
func Lines(path string, files int, wait Wait, each func(line []byte) error) error {
	r := reader{path: path, files: files, each: each}
	defer r.close()
	for last := wait == nil; ; {
		if err := r.readAll(); err != nil || last {
			return err
		}
		// What was written before there was no more to come is still read.
		last = !wait()
	}
}

type reader struct {
	path  string
	files int
	each  func([]byte) error
	f     *os.File // the one that is read, or nil at the beginning
	rest  []byte   // the line that is begun
}

func (r *reader) close() {
	if r.f != nil {
		_ = r.f.Close()
	}
}

// readAll reads all that is there.
func (r *reader) readAll() error {
	if r.f != nil && current(r.f, r.path) {
		return r.readFile()
	}
	for {
		newer, err := r.newer()
		if err != nil || len(newer) == 0 && r.f == nil {
			return err
		}
		if r.f != nil {
			// When there is a newer one, nobody appends to it any more.
			if err := r.readFile(); err != nil {
				closeAll(newer)
				return err
			}
		}
		if len(newer) == 0 {
			return nil
		}
		r.close()
		r.f, r.rest = newer[0], nil
		closeAll(newer[1:]) // found again from here, by whatever name they have then
	}
}

func closeAll(all []*os.File) {
	for _, f := range all {
		_ = f.Close()
	}
}

// newer opens the files that come after the one that is read, the oldest first: all of them if it is no more among them, or if none is
// read.
func (r *reader) newer() ([]*os.File, error) {
	for {
		var all []*os.File
		for n := r.files - 1; n >= 0; n-- {
			f, err := os.Open(Rotated(r.path, n))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				closeAll(all)
				return nil, err
			}
			all = append(all, f)
		}
		// Rotated meanwhile, a file has been opened twice, or left out.
		if !r.unchanged(all) {
			closeAll(all)
			continue
		}
		for i, f := range all {
			if r.f != nil && same(f, r.f) {
				closeAll(all[:i+1])
				return all[i+1:], nil
			}
		}
		return all, nil
	}
}

// unchanged reports whether the files that have the names now are these.
func (r *reader) unchanged(all []*os.File) bool {
	i := 0
	for n := r.files - 1; n >= 0; n-- {
		var st unix.Stat_t
		if unix.Stat(Rotated(r.path, n), &st) != nil {
			continue
		}
		if i == len(all) || !is(all[i], st) {
			return false
		}
		i++
	}
	return i == len(all)
}

func current(f *os.File, path string) bool {
	var st unix.Stat_t
	return unix.Stat(path, &st) == nil && is(f, st)
}

func same(a, b *os.File) bool {
	var st unix.Stat_t
	return unix.Fstat(int(b.Fd()), &st) == nil && is(a, st)
}

func is(f *os.File, st unix.Stat_t) bool {
	var x unix.Stat_t
	return unix.Fstat(int(f.Fd()), &x) == nil && x.Ino == st.Ino && x.Dev == st.Dev
}

// readFile gives the lines of the file to its present end.
func (r *reader) readFile() error {
	b := bufio.NewReaderSize(r.f, 64<<10)
	for {
		part, err := b.ReadSlice('\n')
		if err == nil {
			line := part
			if len(r.rest) > 0 {
				r.rest = append(r.rest, part...)
				line = r.rest
			}
			if len(bytes.TrimSpace(line)) > 0 {
				if err := r.each(line); err != nil {
					return err
				}
			}
			r.rest = r.rest[:0]
			continue
		}
		r.rest = append(r.rest, part...)
		if err == io.EOF {
			return nil
		}
		if err != bufio.ErrBufferFull {
			return err
		}
	}
}
