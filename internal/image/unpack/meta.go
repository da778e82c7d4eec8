package unpack

import (
	"archive/tar"
	"errors"
	"fmt"
	"math"
	"os"
	"sort"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"berth/internal/errdef"
	"berth/internal/tree"
)

// meta is what an entry says about its inode besides its content.
type meta struct {
	mode         uint32 // permission bits with setuid, setgid and sticky
	uid, gid     int
	atime, mtime unix.Timespec
	xattrs       []xattr
}

type xattr struct {
	name  string
	value string
}

const xattrRecord = "SCHILY.xattr."

func metaOf(h *tar.Header) (meta, error) {
	m := meta{mode: uint32(h.Mode) & 0o7777, uid: h.Uid, gid: h.Gid, mtime: timespec(h.ModTime)}
	// 2^32-1 is "no change" in chown(2).
	if h.Uid < 0 || h.Gid < 0 || int64(h.Uid) >= math.MaxUint32 || int64(h.Gid) >= math.MaxUint32 {
		return meta{}, errdef.New(errdef.Invalid, "its owner %d:%d is not one that Linux knows", h.Uid, h.Gid)
	}
	m.atime = m.mtime
	if !h.AccessTime.IsZero() {
		m.atime = timespec(h.AccessTime)
	}
	for key, value := range h.PAXRecords {
		if name, ok := strings.CutPrefix(key, xattrRecord); ok && tree.Carried(name) {
			m.xattrs = append(m.xattrs, xattr{name, value})
		}
	}
	sort.Slice(m.xattrs, func(i, j int) bool { return m.xattrs[i].name < m.xattrs[j].name })
	return m, nil
}

func timespec(t time.Time) unix.Timespec {
	if t.IsZero() {
		t = time.Unix(0, 0)
	}
	return unix.Timespec{Sec: t.Unix(), Nsec: int64(t.Nanosecond())}
}

// setXattrs sets what the file system takes. That it keeps none is no error (docker does the same), but a
// capability that is refused is: the program would run without it.
func setXattrs(list []xattr, ownersIgnored bool, set func(name string, value []byte) error) error {
	for _, x := range list {
		err := set(x.name, []byte(x.value))
		switch {
		case err == nil || err == unix.ENOTSUP:
		case err == unix.EPERM && (x.name != "security.capability" || ownersIgnored):
		default:
			return fmt.Errorf("attribute %s: %w", x.name, os.NewSyscallError("setxattr", err))
		}
	}
	return nil
}

// owner is who gets what is made here.
type owner struct {
	uid, gid int  // what the kernel gives a new file
	ignored  bool // nothing is given away
	always   bool // the file system does not take the group from the process (mount option grpid)
}

func (o *owner) change(m *meta) bool {
	return !o.ignored && (o.always || m.uid != o.uid || m.gid != o.gid)
}

// chownError explains what chown(2) says inside a user namespace.
func chownError(err error, m *meta) error {
	if err == unix.EINVAL {
		err := errdef.New(errdef.Unsupported, "cannot give it to %d:%d: %w", m.uid, m.gid, os.NewSyscallError("fchownat", err))
		return errdef.Hint(err, "this user namespace does not map that ID: give the user more IDs in /etc/subuid and /etc/subgid")
	}
	return os.NewSyscallError("fchownat", err)
}

// decorateAt sets owner, mode and times of the inode base in dir, which is not a directory. Links are not followed.
func decorateAt(dir int, base string, m *meta, o *owner, isLink bool) error {
	if o.change(m) {
		if err := unix.Fchownat(dir, base, m.uid, m.gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return chownError(err, m)
		}
	}
	if !isLink {
		// We made this inode, and nobody else can reach the tree: base is still no link. After chown, which
		// clears setuid.
		if err := unix.Fchmodat(dir, base, m.mode, 0); err != nil {
			return os.NewSyscallError("fchmodat", err)
		}
	}
	if len(m.xattrs) > 0 {
		path := fmt.Sprintf("/proc/self/fd/%d/%s", dir, base)
		err := setXattrs(m.xattrs, o.ignored, func(name string, value []byte) error { return unix.Lsetxattr(path, name, value, 0) })
		if err != nil {
			return err
		}
	}
	return utimes(dir, base, m)
}

func utimes(dir int, base string, m *meta) error {
	err := unix.UtimesNanoAt(dir, base, []unix.Timespec{m.atime, m.mtime}, unix.AT_SYMLINK_NOFOLLOW)
	return os.NewSyscallError("utimensat", err)
}

// decorateDir sets everything of the directory f.
func decorateDir(f *os.File, m *meta, o *owner) error {
	fd := int(f.Fd())
	if o.change(m) {
		if err := unix.Fchown(fd, m.uid, m.gid); err != nil {
			return chownError(err, m)
		}
	}
	if err := unix.Fchmod(fd, m.mode); err != nil {
		return os.NewSyscallError("fchmod", err)
	}
	if err := setXattrs(m.xattrs, o.ignored, func(name string, value []byte) error { return unix.Fsetxattr(fd, name, value, 0) }); err != nil {
		return err
	}
	// "." of an open directory is that directory.
	return utimes(fd, ".", m)
}

// noSpace gives a full file system its kind.
func noSpace(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EFBIG) {
		return errdef.As(errdef.NoSpace, err)
	}
	return err
}
