package unpack

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// whiteout makes a whiteout: a character device 0/0. Where the tree is itself on an overlay, that is the outer one's mark and
// nobody's to make (EPERM); since Linux 6.7 an empty file with an attribute says the same, in a directory that announces it
// (Documentation/filesystems/overlayfs.rst, "Nesting overlayfs mounts").
func (x *extractor) whiteout(at place) error {
	// Allowed in a user namespace, too, since Linux 5.8 (commit a3c751a50fe6).
	err := unix.Mknodat(at.in.fd, at.base, unix.S_IFCHR, 0)
	var st unix.Statfs_t
	if err != unix.EPERM || unix.Fstatfs(at.in.fd, &st) != nil || int64(st.Type) != unix.OVERLAYFS_SUPER_MAGIC {
		return os.NewSyscallError("mknodat", err)
	}
	fd, err := unix.Openat(at.in.fd, at.base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("openat", err)
	}
	defer unix.Close(fd)
	if err := unix.Fsetxattr(fd, x.mark("whiteout"), []byte("y"), 0); err != nil {
		return os.NewSyscallError("fsetxattr", err)
	}
	return x.announce(at.in.fd)
}

// announce says that a directory has whiteouts that are files, unless it hides all below it anyway.
func (x *extractor) announce(dir int) error {
	fd, err := unix.Openat(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("openat", err)
	}
	defer unix.Close(fd)
	err = unix.Fsetxattr(fd, x.mark("opaque"), []byte("x"), unix.XATTR_CREATE)
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return os.NewSyscallError("fsetxattr", err)
}

// mark is the name of an attribute of overlayfs's.
func (x *extractor) mark(name string) string {
	if x.opt.UserXattr {
		return "user.overlay." + name
	}
	return "trusted.overlay." + name
}
