package files

import (
	"bytes"
	"context"
	"encoding/binary"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// scan takes the digest of a directory of the host, in which there may be very many files: as many goroutines as there are processors do so, each
// a directory, by names in an open directory; and of a file that is known nothing is asked but one fstatat(2).
type scan struct {
	ctx  context.Context
	d    Digester
	keep func(path string, dir bool) (keep, below bool)
	list *Listing
	room chan struct{} // for goroutines beside the first
}

func newScan(ctx context.Context, d Digester, keep func(string, bool) (bool, bool), list *Listing) *scan {
	return &scan{ctx: ctx, d: d, keep: keep, list: list, room: make(chan struct{}, min(runtime.GOMAXPROCS(0)-1, maxHelpers))}
}

// entry is a name in a directory.
type entry struct {
	name string
	dir  bool
}

// found is something in a directory.
type found struct {
	entry
	kept    bool // itself, and not only for something in it
	st      unix.Stat_t
	unknown bool   // a file that has to be read
	content []byte // nil: it is not copied
	sum     Sum
}

// directory is the digest of an open directory, of which path is the name in the tree; some says that something in it is kept.
func (s *scan) directory(fd int, at string) (sum Sum, some bool, err error) {
	if s.ctx.Err() != nil {
		return sum, false, context.Cause(s.ctx)
	}
	names, err := readDirectory(fd)
	if err != nil {
		return sum, false, &os.PathError{Op: "getdents", Path: at, Err: err}
	}
	slices.SortFunc(names, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	memory := foundPool.Get().(*[]found) //nolint:forcetypeassert // its New makes nothing else
	defer foundPool.Put(memory)
	all := slices.Grow((*memory)[:0], len(names))
	for _, n := range names {
		f := found{entry: n, kept: true}
		if s.keep != nil {
			var below bool
			if f.kept, below = s.keep(path.Join(at, f.name), f.dir); !f.kept && !(f.dir && below) {
				continue
			}
		}
		all = append(all, f)
	}
	*memory = all
	own := &crew{room: s.room}
	const share = 256 // a directory with more is looked at by several
	for from := 0; from < len(all); from += share {
		part := all[from:min(from+share, len(all))]
		if len(all) <= share {
			own.keep(look(fd, part))
			break
		}
		own.do(func() error { return look(fd, part) })
	}
	if err := own.wait(); err != nil {
		return sum, false, err
	}
	if err := s.contents(fd, at, all, own); err != nil {
		return sum, false, err
	}
	size := 0
	for i := range all {
		size += len(all[i].name) + len(all[i].content) + recordBytes
	}
	records := make([]byte, 0, size)
	for i := range all {
		if f := &all[i]; f.content != nil {
			records = s.d.record(records, f.name, &f.st, f.content)
			some = true
		}
	}
	s.list.add(at, records)
	sum, err = sumDirectory(fd, records)
	return sum, some, err
}

// recordBytes are those of a record beside its name and its content.
const recordBytes = 16

// look asks for what is no directory.
func look(fd int, all []found) error {
	for i := range all {
		f := &all[i]
		if f.dir {
			continue
		}
		switch err := unix.Fstatat(fd, f.name, &f.st, unix.AT_SYMLINK_NOFOLLOW); err {
		case nil:
		case unix.ENOENT: // it has just gone
			f.st = unix.Stat_t{}
		default:
			return &os.PathError{Op: "fstatat", Path: f.name, Err: err}
		}
	}
	return nil
}

// contents says of all what they consist of.
func (s *scan) contents(fd int, at string, all []found, own *crew) error {
	memory := s.d.Memory(at)
	for i := range all {
		f := &all[i]
		kind := f.st.Mode & unix.S_IFMT
		switch {
		case own.failed() != nil:
			return own.wait()
		case f.dir:
			own.do(func() error { return s.below(fd, at, f) })
		case kind == 0, kind == unix.S_IFDIR, kind == unix.S_IFCHR && f.st.Rdev == 0: // gone, just come instead of something else, or what means so where there are layers
		case kind == unix.S_IFREG:
			sum, ok := memory.Known(f.name, &f.st)
			if f.sum, f.content = sum, f.sum[:]; ok {
				continue
			}
			f.unknown = true
			own.do(func() (err error) {
				f.sum, err = read(fd, f.name, &f.st)
				return err
			})
		default:
			content, err := consistsOf(fd, f.name, &f.st)
			if err != nil {
				own.keep(err)
			}
			f.content = content
		}
	}
	if err := own.wait(); err != nil {
		return err
	}
	for i := range all {
		if f := &all[i]; f.unknown {
			memory.Learn(f.name, &f.st, f.sum)
		}
	}
	return nil
}

// below takes the digest of a directory in a directory, which is there if it is kept, or something in it.
func (s *scan) below(in int, at string, f *found) error {
	fd, err := unix.Openat(in, f.name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "openat", Path: path.Join(at, f.name), Err: err}
	}
	defer unix.Close(fd)
	if err := unix.Fstat(fd, &f.st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	sum, some, err := s.directory(fd, path.Join(at, f.name))
	if f.sum = sum; some || f.kept {
		f.content = f.sum[:]
	}
	return err
}

var foundPool = sync.Pool{New: func() any { return new([]found) }}

var directoryBuffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// readDirectory reads the names of an open directory, and which of them are directories.
func readDirectory(fd int) (all []entry, err error) {
	// The item's own descriptor may be read by somebody else at the same time.
	own, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(own)
	buffer := directoryBuffers.Get().(*[32 << 10]byte) //nolint:forcetypeassert // its New makes nothing else
	defer directoryBuffers.Put(buffer)
	for {
		n, err := unix.Getdents(own, buffer[:])
		if err == unix.EINTR {
			continue
		}
		if err != nil || n <= 0 {
			return all, err
		}
		all = slices.Grow(all, n/32)
		// struct linux_dirent64: d_ino and d_off in eight bytes each, d_reclen in two, d_type in one, the name and a zero (getdents64(2)).
		text := string(buffer[:n])
		for at := 0; at+19 < n; {
			length := int(binary.NativeEndian.Uint16(buffer[at+16:]))
			if length == 0 || at+length > n {
				return all, unix.EIO
			}
			end := bytes.IndexByte(buffer[at+19:at+length], 0)
			if end < 0 {
				return all, unix.EIO
			}
			e := entry{text[at+19:][:end], buffer[at+18] == unix.DT_DIR}
			if buffer[at+18] == unix.DT_UNKNOWN {
				var st unix.Stat_t
				e.dir = unix.Fstatat(fd, e.name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
			}
			if e.name != "." && e.name != ".." {
				all = append(all, e)
			}
			at += length
		}
	}
}
