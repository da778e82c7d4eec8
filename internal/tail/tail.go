// Package tail reads the lines of a file that others append to, rotate, to path.1, path.2 and so on, and compress, and waits for more: in
// their order, and without leaving out any that is still there.
//
// It knows nothing of what the lines say, and writes none.
package tail

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

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

// Compressed is what the name of a file ends with that has been compressed since it was rotated. The name in its gzip header is the
// inode number and the time of the last change of what it was, by which a reader knows it (Name).
const Compressed = ".gz"

// Name is the name in the header of what the file with that status is compressed to.
func Name(st unix.Stat_t) string { return fmt.Sprintf("%d-%d", st.Ino, st.Mtim.Nano()) }

// Position is how far a log has been read: the file, by its inode number, and the bytes of it. The zero Position is the beginning.
type Position struct {
	Inode  uint64
	Offset int64
}

// Lines gives each whole line of the file at path, and of those that it has been rotated to, of which there are files in all, to each:
// the oldest first. A line that is begun, and not ended before its file is rotated, is left out. When all is read it waits; a nil wait
// ends it.
func Lines(path string, files int, wait Wait, each func(line []byte) error) error {
	return LinesFrom(path, files, Position{}, wait, func(line []byte, _ Position) error { return each(line) })
}

// LinesFrom is Lines from a position on; each is also told where to go on after the line. If the file of the position is no more there,
// it begins with the oldest.
func LinesFrom(path string, files int, from Position, wait Wait, each func(line []byte, next Position) error) error {
	r := reader{path: path, files: files, each: each, from: from}
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
	each  func([]byte, Position) error
	from  Position
	f     *file  // the one that is read, or nil at the beginning
	rest  []byte // the line that is begun
}

// file is an open file of the log.
type file struct {
	*os.File
	plain  io.Reader // what was compressed; nil if it is not
	name   string    // in the header, if it is compressed
	inode  uint64    // before it was compressed
	offset int64     // the end of the last line that was given
}

// open opens the file that has been rotated n times.
func (r *reader) open(n int) (*file, error) {
	f, err := os.Open(Rotated(r.path, n))
	if err == nil {
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		return &file{File: f, inode: st.Ino}, nil
	}
	if !errors.Is(err, fs.ErrNotExist) || n == 0 {
		return nil, err
	}
	if f, err = os.Open(Rotated(r.path, n) + Compressed); err != nil {
		return nil, err
	}
	z, err := gzip.NewReader(bufio.NewReader(f))
	if err != nil {
		return nil, errors.Join(&os.PathError{Op: "decompress", Path: f.Name(), Err: err}, f.Close())
	}
	inode, _, _ := strings.Cut(z.Name, "-")
	of, _ := strconv.ParseUint(inode, 10, 64)
	return &file{File: f, plain: z, name: z.Name, inode: of}, nil
}

// start goes to where the reading begins, in the first file.
func (f *file) start(p Position) error {
	if f.inode != p.Inode || p.Offset == 0 {
		return nil
	}
	var err error
	if f.plain != nil {
		_, err = io.CopyN(io.Discard, f.plain, p.Offset)
	} else {
		_, err = f.Seek(p.Offset, io.SeekStart)
	}
	if err == io.EOF {
		err = nil
	}
	f.offset = p.Offset
	return err
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
		first := r.f == nil
		r.close()
		if i := slices.IndexFunc(newer, func(f *file) bool { return f.inode == r.from.Inode }); first && i > 0 {
			closeAll(newer[:i])
			newer = newer[i:]
		}
		r.f, r.rest = newer[0], nil
		closeAll(newer[1:]) // found again from here, by whatever name they have then
		if first {
			if err := r.f.start(r.from); err != nil {
				return err
			}
		}
	}
}

func closeAll(all []*file) {
	for _, f := range all {
		_ = f.Close()
	}
}

// newer opens the files that come after the one that is read, the oldest first: all of them if it is no more among them, or if none is
// read.
func (r *reader) newer() ([]*file, error) {
	for {
		var all []*file
		for n := r.files - 1; n >= 0; n-- {
			f, err := r.open(n)
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
func (r *reader) unchanged(all []*file) bool {
	i := 0
	for n := r.files - 1; n >= 0; n-- {
		var st unix.Stat_t
		if unix.Stat(Rotated(r.path, n), &st) != nil && (n == 0 || unix.Stat(Rotated(r.path, n)+Compressed, &st) != nil) {
			continue
		}
		if i == len(all) || !is(all[i], st) {
			return false
		}
		i++
	}
	return i == len(all)
}

func current(f *file, path string) bool {
	var st unix.Stat_t
	return unix.Stat(path, &st) == nil && is(f, st)
}

// same reports whether f is what is read, or what that has been compressed to.
func same(f, read *file) bool {
	var st unix.Stat_t
	if unix.Fstat(int(read.Fd()), &st) != nil {
		return false
	}
	return is(f, st) || f.name != "" && (f.name == read.name || f.name == Name(st))
}

func is(f *file, st unix.Stat_t) bool {
	var x unix.Stat_t
	return unix.Fstat(int(f.Fd()), &x) == nil && x.Ino == st.Ino && x.Dev == st.Dev
}

// readFile gives the lines of the file to its present end.
func (r *reader) readFile() error {
	var from io.Reader = r.f.File
	if r.f.plain != nil {
		from = r.f.plain
	}
	b := bufio.NewReaderSize(from, 64<<10)
	for {
		part, err := b.ReadSlice('\n')
		if err == nil {
			line := part
			if len(r.rest) > 0 {
				r.rest = append(r.rest, part...)
				line = r.rest
			}
			r.f.offset += int64(len(line))
			if len(bytes.TrimSpace(line)) > 0 {
				if err := r.each(line, Position{r.f.inode, r.f.offset}); err != nil {
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
