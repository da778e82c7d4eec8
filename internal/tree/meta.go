package tree

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Meta gives copies the owner, the extended attributes, the mode and the times of their originals.
type Meta struct {
	Owner    Owner // nil leaves it as it is
	Harmless bool  // see Options
}

const setIDs = unix.S_ISUID | unix.S_ISGID

// Copy gives the file or directory b what a has, which st describes.
func (m Meta) Copy(a, b int, st *unix.Stat_t) error {
	return m.Set(b, st, func() error { return m.xattrs(a, b) })
}

// CopyOf is Copy for open files.
func (m Meta) CopyOf(a, b *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(a.Fd()), &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	return m.Copy(int(a.Fd()), int(b.Fd()), &st)
}

// Set gives the file or directory b the owner, the mode and the times of st. xattrs sets extended attributes: those after the owner, whose change
// takes some away, and before the times.
func (m Meta) Set(b int, st *unix.Stat_t, xattrs func() error) error {
	if m.Owner != nil {
		uid, gid, err := m.Owner(st.Uid, st.Gid)
		if err != nil {
			return err
		}
		if err := unix.Fchown(b, uid, gid); err != nil {
			return os.NewSyscallError("fchown", err)
		}
	}
	if err := xattrs(); err != nil {
		return err
	}
	mode := st.Mode & 0o7777
	if m.Harmless && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		mode &^= setIDs
	}
	if err := unix.Fchmod(b, mode); err != nil {
		return os.NewSyscallError("fchmod", err)
	}
	return os.NewSyscallError("utimensat", unix.UtimesNanoAt(unix.AT_FDCWD, descriptor(b), []unix.Timespec{st.Atim, st.Mtim}, 0))
}

// Name is Copy for what is not opened: links, FIFOs and devices.
func (m Meta) Name(dir int, name string, st *unix.Stat_t) error {
	if m.Owner != nil {
		uid, gid, err := m.Owner(st.Uid, st.Gid)
		if err != nil {
			return err
		}
		if err := unix.Fchownat(dir, name, uid, gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return os.NewSyscallError("fchownat", err)
		}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		// By a descriptor: somebody could have put a link in its place, which fchmodat(2) would follow.
		fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return os.NewSyscallError("openat", err)
		}
		defer unix.Close(fd)
		var now unix.Stat_t
		if err := unix.Fstat(fd, &now); err != nil {
			return os.NewSyscallError("fstat", err)
		}
		if now.Mode&unix.S_IFMT != st.Mode&unix.S_IFMT {
			return fmt.Errorf("%q changed while it was made", name)
		}
		if err := unix.Chmod(descriptor(fd), st.Mode&0o7777&^setIDs); err != nil {
			return os.NewSyscallError("chmod", err)
		}
	}
	return os.NewSyscallError("utimensat", unix.UtimesNanoAt(dir, name, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW))
}

func descriptor(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

// Carried says which extended attributes go with a file. The others are the host's policy (security.selinux, security.ima) or a storage
// driver's data: whoever could set trusted.overlay.* or user.overlay.* would hide and redirect files of other layers.
func Carried(name string) bool {
	switch name {
	case "security.capability", "system.posix_acl_access", "system.posix_acl_default":
		return true
	}
	if !strings.HasPrefix(name, "user.") || len(name) == len("user.") || strings.IndexByte(name, 0) >= 0 {
		return false
	}
	for _, driver := range [...]string{"user.overlay.", "user.fuseoverlayfs.", "user.containers."} {
		if strings.HasPrefix(name, driver) {
			return false
		}
	}
	return true
}

// xattrs copies those that are carried. That the place keeps none, or not this one, is no error.
func (m Meta) xattrs(a, b int) error {
	size, err := unix.Flistxattr(a, nil)
	if errors.Is(err, unix.ENOTSUP) || err == nil && size == 0 {
		return nil
	}
	list := make([]byte, max(size, 0)+1024)
	if size, err = unix.Flistxattr(a, list); err != nil {
		return os.NewSyscallError("flistxattr", err)
	}
	for name := range strings.SplitSeq(strings.TrimRight(string(list[:size]), "\x00"), "\x00") {
		if !Carried(name) || m.Harmless && name == "security.capability" {
			continue
		}
		n, err := unix.Fgetxattr(a, name, nil)
		if errors.Is(err, unix.ENODATA) {
			continue // removed meanwhile
		}
		if err != nil {
			return os.NewSyscallError("fgetxattr", err)
		}
		value := make([]byte, n)
		if n, err = unix.Fgetxattr(a, name, value); err != nil {
			return os.NewSyscallError("fgetxattr", err)
		}
		err = unix.Fsetxattr(b, name, value[:n], 0)
		if err != nil && !errors.Is(err, unix.ENOTSUP) && !errors.Is(err, unix.EPERM) {
			return os.NewSyscallError("fsetxattr", err)
		}
	}
	return nil
}
