package files

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"sync"

	"berth/internal/image/unpack"

	"golang.org/x/sys/unix"
)

// Sum is the digest of a file's content and attributes, or of all that is in a directory.
type Sum = [sha256.Size]byte

// Digester takes digests of files.
type Digester struct {
	// Memory, unless it is nil, is for trees that are a directory of the host: what is known of the files of one of its directories. It is called
	// by several goroutines at once, and what it returns is used by one.
	Memory func(dir string) Memory
	// Owners says that owners count: those of a stage do, those of a context mean nothing.
	Owners bool
}

// Memory is what is known of the files of one directory.
type Memory struct {
	// Known returns the digest of a file that was read before, if it is still the same. It is quick for names in their order.
	Known func(name string, st *unix.Stat_t) (sum Sum, ok bool)
	// Learn takes the digest of a file that was read.
	Learn func(name string, st *unix.Stat_t, sum Sum)
}

// Listing is what a digest was taken of.
type Listing struct {
	mu   sync.Mutex
	dirs []listed // guarded by mu
}

// listed are the records of a directory, or the one of something else.
type listed struct {
	dir     string
	records []byte
}

func (l *Listing) add(dir string, records []byte) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dirs = append(l.dirs, listed{dir, records})
}

// Each visits what has been listed, directory for directory. sum is the digest of a file, or where a link leads to.
func (l *Listing) Each(visit func(path string, mode uint32, sum []byte)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	slices.SortStableFunc(l.dirs, func(a, b listed) int { return strings.Compare(a.dir, b.dir) })
	for _, d := range l.dirs {
		for rest := d.records; len(rest) > 0; {
			n := int(binary.BigEndian.Uint16(rest))
			name, fixed := string(rest[2:2+n]), rest[2+n:]
			mode, size := binary.BigEndian.Uint32(fixed), int(binary.BigEndian.Uint16(fixed[12:]))
			sum := fixed[14:][:size]
			if mode&unix.S_IFMT == unix.S_IFDIR {
				sum = nil
			}
			visit(path.Join(d.dir, name), mode, sum)
			rest = fixed[14+size:]
		}
	}
}

// record appends what is said of something in a directory: its name, mode and owner, and, each with its length before it so that no two
// directories have the same bytes, what it consists of.
func (d Digester) record(out []byte, name string, st *unix.Stat_t, content []byte) []byte {
	out = binary.BigEndian.AppendUint16(out, uint16(len(name)))
	out = append(out, name...)
	out = binary.BigEndian.AppendUint32(out, st.Mode)
	uid, gid := st.Uid, st.Gid
	if !d.Owners {
		uid, gid = 0, 0
	}
	out = binary.BigEndian.AppendUint32(out, uid)
	out = binary.BigEndian.AppendUint32(out, gid)
	out = binary.BigEndian.AppendUint16(out, uint16(len(content)))
	return append(out, content...)
}

// Digest is the digest of all that is copied of an item: types, modes, sizes, contents, links, attributes, and owners if they count.
// Times do not. What it was taken of is added to the list, unless that is nil. The digest of a directory is that of its attributes and the
// records of what is in it, in the order of the names, in which the record of a directory has its digest: so several can be taken at once.
func (d Digester) Digest(ctx context.Context, i Item, list *Listing) (string, error) {
	var st unix.Stat_t
	var content []byte
	switch {
	case i.Dir == nil:
		var err error
		if st, content, err = d.other(i); err != nil {
			return "", err
		}
		list.add(path.Dir(i.Name), d.record(nil, i.base(), &st, content))
	case d.Memory != nil && i.Dir.Plain():
		if err := unix.Fstat(i.Dir.FD(), &st); err != nil {
			return "", os.NewSyscallError("fstat", err)
		}
		s := newScan(ctx, d, i.keep, list)
		sum, _, err := s.directory(i.Dir.FD(), i.Name)
		if err != nil {
			return "", err
		}
		content = sum[:]
	default:
		if err := unix.Fstat(i.Dir.FD(), &st); err != nil {
			return "", os.NewSyscallError("fstat", err)
		}
		sum, err := d.tree(ctx, i, list)
		if err != nil {
			return "", err
		}
		content = sum[:]
	}
	sum := sha256.Sum256(d.record(nil, "", &st, content))
	return hex.EncodeToString(sum[:]), nil
}

// tree is the digest of a directory that several layers may have parts of.
func (d Digester) tree(ctx context.Context, i Item, list *Listing) (sum Sum, err error) {
	var records []byte
	err = i.each(func(item Item) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if item.Dir == nil {
			st, content, err := d.other(item)
			if err == nil && content != nil {
				records = d.record(records, item.base(), &st, content)
			}
			return err
		}
		var st unix.Stat_t
		if err := unix.Fstat(item.Dir.FD(), &st); err != nil {
			return os.NewSyscallError("fstat", err)
		}
		below, err := d.tree(ctx, item, list)
		records = d.record(records, item.base(), &st, below[:])
		return err
	})
	if err != nil {
		return sum, err
	}
	list.add(i.Name, records)
	return sumDirectory(i.Dir.FD(), records)
}

// sumDirectory is the digest of a directory that has these records.
func sumDirectory(fd int, records []byte) (sum Sum, err error) {
	head, err := attributes(nil, fd)
	if err != nil {
		return sum, err
	}
	if len(head) == 0 {
		return sha256.Sum256(records), nil
	}
	h := sha256.New()
	_, _ = h.Write(binary.BigEndian.AppendUint64(nil, 1<<63|uint64(len(head)))) // no record begins so
	_, _ = h.Write(head)
	_, _ = h.Write(records)
	h.Sum(sum[:0])
	return sum, nil
}

// other says what something consists of that is no directory; nil is nothing that is copied.
func (d Digester) other(i Item) (st unix.Stat_t, content []byte, err error) {
	if st, err = i.Stat(); err != nil {
		return st, nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		content, err = consistsOf(i.In, i.base(), &st)
		return st, content, err
	}
	var memory Memory
	if d.Memory != nil {
		memory = d.Memory(path.Dir(i.Name))
		if sum, ok := memory.Known(i.base(), &st); ok {
			return st, sum[:], nil
		}
	}
	sum, err := read(i.In, i.base(), &st)
	if err == nil && memory.Learn != nil {
		memory.Learn(i.base(), &st, sum)
	}
	return st, sum[:], err
}

// consistsOf says what a link, a device, or a FIFO consists of; a socket is nothing.
func consistsOf(dir int, name string, st *unix.Stat_t) ([]byte, error) {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		b := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(dir, name, b)
		if err != nil {
			return nil, &os.PathError{Op: "readlinkat", Path: name, Err: err}
		}
		return b[:n:n], nil
	case unix.S_IFSOCK: // is not copied
		return nil, nil
	}
	return binary.BigEndian.AppendUint64(nil, st.Rdev), nil
}

// read reads a file for its digest, and says again what it is: it may have changed since it was looked at.
func read(dir int, name string, st *unix.Stat_t) (sum Sum, err error) {
	fd, err := openFile(dir, name)
	if err != nil {
		return sum, err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	if err := unix.Fstat(fd, st); err != nil {
		return sum, os.NewSyscallError("fstat", err)
	}
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return sum, err
	}
	said, err := attributes(nil, fd)
	_, _ = h.Write(said)
	h.Sum(sum[:0])
	return sum, err
}

// attributes appends a file's attributes, each with its length.
func attributes(out []byte, fd int) ([]byte, error) {
	err := unpack.Xattrs(fd, func(name string, value []byte) {
		for _, field := range [...][]byte{[]byte(name), value} {
			out = binary.BigEndian.AppendUint64(out, uint64(len(field)))
			out = append(out, field...)
		}
	})
	return out, err
}
