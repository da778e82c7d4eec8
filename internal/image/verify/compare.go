package verify

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"berth/internal/disk"
)

// differences are what is not the same, the first few of them; their text is for one line.
type differences []string

// maxDifferences is how many are told; one is enough to know.
const maxDifferences = 5

func (d differences) String() string { return strings.Join(d, "; ") }

// comparer compares two trees.
type comparer struct {
	found    differences
	timeless map[string]bool         // directories whose times say nothing
	inodes   map[[2]uint64][2]uint64 // of files with several names: the one in the other tree
	buffers  [2][]byte
}

// compare says how the layer's tree at dir differs from what it should be. Directories that the layer only implies have the time at which
// they were made.
func compare(should *os.File, dir string, implied []string) (differences, error) {
	is, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer is.Close()
	c := &comparer{timeless: map[string]bool{}, inodes: map[[2]uint64][2]uint64{}, buffers: [2][]byte{make([]byte, 256<<10), make([]byte, 256<<10)}}
	for _, p := range implied {
		c.timeless[p] = true
	}
	var a, b unix.Stat_t
	if err := errors.Join(unix.Fstat(int(should.Fd()), &a), unix.Fstat(int(is.Fd()), &b)); err != nil {
		return nil, os.NewSyscallError("fstat", err)
	}
	c.stat(".", &a, &b)
	if err := c.attributes(".", int(should.Fd()), int(is.Fd())); err != nil {
		return nil, err
	}
	return c.found, c.directory(should, is, ".")
}

func (c *comparer) differs(format string, args ...any) {
	if len(c.found) < maxDifferences {
		c.found = append(c.found, fmt.Sprintf(format, args...))
	}
}

func (c *comparer) directory(should, is *os.File, at string) error {
	want, err := namesIn(should)
	if err != nil {
		return err
	}
	have, err := namesIn(is)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(union(want, have))) {
		p := path.Join(at, name)
		switch {
		case !have[name]:
			c.differs("%q is missing", p)
		case !want[name]:
			if !isSocket(is, name) { // which a container has left; no layer has one
				c.differs("%q should not be there", p)
			}
		default:
			if err := c.entry(should, is, name, p); err != nil {
				return err
			}
		}
		if len(c.found) == maxDifferences {
			return nil
		}
	}
	return nil
}

func union(a, b map[string]bool) map[string]bool {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return all
}

// namesIn lists a directory. On btrfs one that was opened before its entries were made does not show them until it is rewound (Linux 6.5).
func namesIn(dir *os.File) (map[string]bool, error) {
	if _, err := dir.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	set := make(map[string]bool, len(names))
	for _, n := range names {
		set[n] = true
	}
	return set, nil
}

func isSocket(dir *os.File, name string) bool {
	var st unix.Stat_t
	return unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT == unix.S_IFSOCK
}

// stat compares what inodes say of themselves.
func (c *comparer) stat(p string, a, b *unix.Stat_t) {
	switch {
	case a.Mode&unix.S_IFMT != b.Mode&unix.S_IFMT:
		c.differs("%q is of another type", p)
	case a.Mode != b.Mode:
		c.differs("%q has the mode %#o, not %#o", p, b.Mode&0o7777, a.Mode&0o7777)
	case a.Uid != b.Uid || a.Gid != b.Gid:
		c.differs("%q has the owner %d:%d, not %d:%d", p, b.Uid, b.Gid, a.Uid, a.Gid)
	case a.Rdev != b.Rdev:
		c.differs("%q is another device", p)
	case a.Mode&unix.S_IFMT != unix.S_IFDIR && a.Size != b.Size:
		c.differs("%q has %d bytes, not %d", p, b.Size, a.Size)
	case a.Mtim != b.Mtim && !c.timeless[p]:
		c.differs("%q has another time", p)
	}
}

func (c *comparer) entry(should, is *os.File, name, p string) error {
	var a, b unix.Stat_t
	if err := unix.Fstatat(int(should.Fd()), name, &a, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "fstatat", Path: p, Err: err}
	}
	if err := unix.Fstatat(int(is.Fd()), name, &b, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "fstatat", Path: p, Err: err}
	}
	if a.Mode&unix.S_IFMT == unix.S_IFCHR && a.Rdev == 0 && b.Mode == a.Mode && b.Rdev == 0 {
		return nil // a whiteout: nothing else of it is seen
	}
	before := len(c.found)
	c.stat(p, &a, &b)
	kind := a.Mode & unix.S_IFMT
	if len(c.found) > before && (kind != unix.S_IFDIR || b.Mode&unix.S_IFMT != unix.S_IFDIR) {
		return nil
	}
	if kind != unix.S_IFDIR && a.Nlink > 1 {
		from, to := [2]uint64{a.Dev, a.Ino}, [2]uint64{b.Dev, b.Ino}
		if known, ok := c.inodes[from]; ok {
			if known != to {
				c.differs("%q is no name of the file any more that it was one of", p)
			}
			return nil
		}
		c.inodes[from] = to
	}
	switch kind {
	case unix.S_IFLNK:
		one, err1 := readlink(should, name)
		two, err2 := readlink(is, name)
		if one != two {
			c.differs("%q leads to %q, not to %q", p, two, one)
		}
		return errors.Join(err1, err2)
	case unix.S_IFREG, unix.S_IFDIR:
		return c.opened(should, is, name, p, kind)
	}
	return nil
}

func readlink(dir *os.File, name string) (string, error) {
	b := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(dir.Fd()), name, b)
	if err != nil {
		return "", os.NewSyscallError("readlinkat", err)
	}
	return string(b[:n]), nil
}

// opened compares two files or directories by what is in them.
func (c *comparer) opened(should, is *os.File, name, p string, kind uint32) error {
	flags := unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_NOCTTY
	if kind == unix.S_IFDIR {
		flags |= unix.O_DIRECTORY
	}
	open := func(dir *os.File) (*os.File, error) {
		fd, err := disk.OpenIn(int(dir.Fd()), name, flags, 0, disk.Beneath|unix.RESOLVE_NO_SYMLINKS)
		if err != nil {
			return nil, err
		}
		return os.NewFile(uintptr(fd), p), nil
	}
	a, err := open(should)
	if err != nil {
		return err
	}
	defer a.Close()
	b, err := open(is)
	if err != nil {
		return err
	}
	defer b.Close()
	if err := c.attributes(p, int(a.Fd()), int(b.Fd())); err != nil {
		return err
	}
	if kind == unix.S_IFDIR {
		return c.directory(a, b, p)
	}
	for {
		n, err := io.ReadFull(a, c.buffers[0])
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return err
		}
		m, err2 := io.ReadFull(b, c.buffers[1])
		if err2 != nil && err2 != io.EOF && err2 != io.ErrUnexpectedEOF {
			c.differs("%q cannot be read: %v", p, err2)
			return nil
		}
		if !bytes.Equal(c.buffers[0][:n], c.buffers[1][:m]) {
			c.differs("%q has another content", p)
			return nil
		}
		if n < len(c.buffers[0]) {
			return nil
		}
	}
}

// attributes compares extended attributes, but for those that overlayfs keeps for itself in what was a container's writable layer.
func (c *comparer) attributes(p string, a, b int) error {
	want, err := attributesOf(a)
	if err != nil {
		return err
	}
	have, err := attributesOf(b)
	if err != nil {
		return err
	}
	if !maps.Equal(want, have) {
		c.differs("%q has other extended attributes", p)
	}
	return nil
}

func attributesOf(fd int) (map[string]string, error) {
	list := make([]byte, 64<<10) // XATTR_LIST_MAX
	n, err := unix.Flistxattr(fd, list)
	if err == unix.ENOTSUP || err == nil && n == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, os.NewSyscallError("flistxattr", err)
	}
	all := map[string]string{}
	value := make([]byte, 64<<10) // XATTR_SIZE_MAX
	for name := range strings.SplitSeq(strings.TrimRight(string(list[:n]), "\x00"), "\x00") {
		_, own, overlays := strings.Cut(name, ".overlay.")
		if overlays && own != "opaque" && own != "redirect" && own != "metacopy" && own != "whiteout" {
			continue
		}
		n, err := unix.Fgetxattr(fd, name, value)
		if err != nil {
			return nil, &os.PathError{Op: "fgetxattr", Path: name, Err: err}
		}
		all[name] = string(value[:n])
	}
	return all, nil
}
