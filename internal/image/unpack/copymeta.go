package unpack

import (
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"berth/internal/tree"

	"golang.org/x/sys/unix"
)

// Xattrs visits the attributes of an open file that an image may carry, in the order of their names.
func Xattrs(fd int, visit func(name string, value []byte)) error {
	size, err := unix.Flistxattr(fd, nil)
	if err == unix.ENOTSUP || err == nil && size == 0 {
		return nil
	}
	if err != nil {
		return os.NewSyscallError("flistxattr", err)
	}
	list := make([]byte, 64<<10) // XATTR_LIST_MAX
	if size, err = unix.Flistxattr(fd, list); err != nil {
		return os.NewSyscallError("flistxattr", err)
	}
	names := strings.Split(strings.TrimRight(string(list[:size]), "\x00"), "\x00")
	slices.Sort(names)
	value := make([]byte, 64<<10) // XATTR_SIZE_MAX
	for _, name := range names {
		if !tree.Carried(name) {
			continue
		}
		n, err := unix.Fgetxattr(fd, name, value)
		if errors.Is(err, unix.ENODATA) { // removed meanwhile
			continue
		}
		if err != nil {
			return &os.PathError{Op: "fgetxattr", Path: name, Err: err}
		}
		visit(name, value[:n])
	}
	return nil
}

// CopyMeta gives the file to the owner, mode, times and attributes of the open file from. owner and mode may change the first two.
func CopyMeta(from int, to *os.File, owner func(*unix.Stat_t) (uid, gid int), mode func(uint32) uint32) error {
	var st unix.Stat_t
	if err := unix.Fstat(from, &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	m := meta{mode: st.Mode & 0o7777, uid: int(st.Uid), gid: int(st.Gid), atime: st.Atim, mtime: st.Mtim}
	if owner != nil {
		m.uid, m.gid = owner(&st)
	}
	if mode != nil {
		m.mode = mode(m.mode)
	}
	err := Xattrs(from, func(name string, value []byte) { m.xattrs = append(m.xattrs, xattr{name, string(value)}) })
	if err != nil {
		return err
	}
	return decorate(to, &m)
}

// CopyFileMeta is CopyMeta for the new file name of the directory in, which is open as to, from what st says of the open file from.
func CopyFileMeta(from int, st *unix.Stat_t, in int, name string, to int, uid, gid int, mode uint32) error {
	m := meta{mode: mode, uid: uid, gid: gid, atime: st.Atim, mtime: st.Mtim}
	err := Xattrs(from, func(name string, value []byte) { m.xattrs = append(m.xattrs, xattr{name, string(value)}) })
	if err != nil {
		return err
	}
	if err := describeOpen(to, &m); err != nil {
		return err
	}
	return utimes(in, name, &m) // by its name: by way of /proc it takes twice as long
}

// CopyTimes gives a file the times of the open file from.
func CopyTimes(from int, to *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(from, &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	return utimes(int(to.Fd()), ".", &meta{atime: st.Atim, mtime: st.Mtim})
}

// SetMeta gives a new file its mode, owner and time.
func SetMeta(f *os.File, mode uint32, uid, gid int, when time.Time) error {
	t, err := unix.TimeToTimespec(when)
	if err != nil {
		return err
	}
	return decorate(f, &meta{mode: mode, uid: uid, gid: gid, atime: t, mtime: t})
}

// decorate sets everything of an open file. The path by way of its descriptor leads to it and to nothing else.
func decorate(f *os.File, m *meta) error {
	fd := int(f.Fd())
	if err := describeOpen(fd, m); err != nil {
		return err
	}
	return os.NewSyscallError("futimens", unix.UtimesNanoAt(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(fd), []unix.Timespec{m.atime, m.mtime}, 0))
}

// describeOpen sets all but the times of an open file.
func describeOpen(fd int, m *meta) error {
	if err := unix.Fchown(fd, m.uid, m.gid); err != nil {
		return chownError(err, m)
	}
	if err := unix.Fchmod(fd, m.mode); err != nil {
		return os.NewSyscallError("fchmod", err)
	}
	return setXattrs(m.xattrs, false, func(name string, value []byte) error { return unix.Fsetxattr(fd, name, value, 0) })
}
