package engine

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"berth/internal/disk"
	"berth/internal/image/store"

	"golang.org/x/sys/unix"
)

// fillVolume copies what the image has at target into the new volume at dir, as docker does. Where the image has nothing,
// or no directory, the volume stays empty. The image's tree is an overlay mount that is attached to nothing: it is seen
// by nobody else, and goes with the descriptor.
func (e *Engine) fillVolume(dir, target string, im store.Image) error {
	if os.Geteuid() != 0 {
		return nil // without a mount namespace of its own the engine cannot see the image's tree
	}
	layers, err := e.Images.Layers.Stack(im.Chain)
	if err != nil || len(layers) == 0 {
		return err
	}
	root, err := mountTree(layers)
	if err != nil {
		return err
	}
	defer root.Close()
	fd, err := disk.OpenIn(int(root.Fd()), "."+target, unix.O_RDONLY|unix.O_DIRECTORY, 0, disk.InRoot)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return nil
	}
	if err != nil {
		return err
	}
	from := os.NewFile(uintptr(fd), target)
	defer from.Close()
	to, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer to.Close()
	if err := copyMeta(from, to); err != nil {
		return err
	}
	return copyTree(from, to)
}

// mountTree mounts layers, read-only and attached to nothing, and returns the root of that.
func mountTree(layers []string) (*os.File, error) {
	if len(layers) == 1 { // overlay wants two
		return os.Open(layers[0])
	}
	fsfd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("fsopen", err)
	}
	defer unix.Close(fsfd)
	for _, dir := range layers {
		if err := unix.FsconfigSetString(fsfd, "lowerdir+", dir); err != nil {
			return nil, os.NewSyscallError("fsconfig", err)
		}
	}
	if err := unix.FsconfigCreate(fsfd); err != nil {
		return nil, os.NewSyscallError("fsconfig", err)
	}
	fd, err := unix.Fsmount(fsfd, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NODEV)
	if err != nil {
		return nil, os.NewSyscallError("fsmount", err)
	}
	return os.NewFile(uintptr(fd), "image"), nil
}

// copyTree copies what is in from into to, each beneath itself: no link is followed.
func copyTree(from, to *os.File) error {
	for {
		names, err := from.Readdirnames(256)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := copyEntry(from, to, name); err != nil {
				return &os.PathError{Op: "copy", Path: filepath.Join(from.Name(), name), Err: err}
			}
		}
	}
}

func copyEntry(from, to *os.File, name string) error {
	src, dst := int(from.Fd()), int(to.Fd())
	var st unix.Stat_t
	if err := unix.Fstatat(src, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		if err := unix.Mkdirat(dst, name, 0o700); err != nil {
			return err
		}
		a, err := openBelow(from, name, unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		defer a.Close()
		b, err := openBelow(to, name, unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		defer b.Close()
		if err := copyTree(a, b); err != nil {
			return err
		}
		return copyMeta(a, b)
	case unix.S_IFREG:
		a, err := openBelow(from, name, unix.O_RDONLY)
		if err != nil {
			return err
		}
		defer a.Close()
		b, err := openBelow(to, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL)
		if err != nil {
			return err
		}
		defer b.Close()
		if _, err := io.Copy(b, a); err != nil {
			return err
		}
		return copyMeta(a, b)
	case unix.S_IFLNK:
		var link [unix.PathMax]byte
		n, err := unix.Readlinkat(src, name, link[:])
		if err != nil {
			return err
		}
		if err := unix.Symlinkat(string(link[:n]), dst, name); err != nil {
			return err
		}
	default:
		if err := unix.Mknodat(dst, name, st.Mode, int(st.Rdev)); err != nil {
			return err
		}
		if err := unix.Fchmodat(dst, name, st.Mode&0o7777, 0); err != nil {
			return err
		}
	}
	return unix.Fchownat(dst, name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW)
}

func openBelow(dir *os.File, name string, flags int) (*os.File, error) {
	fd, err := unix.Openat(int(dir.Fd()), name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), filepath.Join(dir.Name(), name)), nil
}

// copyMeta gives b the owner, the extended attributes, the mode and the times of a.
func copyMeta(a, b *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(a.Fd()), &st); err != nil {
		return err
	}
	if err := unix.Fchown(int(b.Fd()), int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := copyXattrs(int(a.Fd()), int(b.Fd())); err != nil {
		return err
	}
	if err := unix.Fchmod(int(b.Fd()), st.Mode&0o7777); err != nil {
		return err
	}
	return os.Chtimes("/proc/self/fd/"+itoa(b.Fd()), timeOf(st.Atim), timeOf(st.Mtim))
}

func copyXattrs(a, b int) error {
	size, err := unix.Flistxattr(a, nil)
	if err != nil || size == 0 {
		return ignoreUnsupported(err)
	}
	list := make([]byte, size)
	if size, err = unix.Flistxattr(a, list); err != nil {
		return err
	}
	for _, name := range splitNames(list[:size]) {
		n, err := unix.Fgetxattr(a, name, nil)
		if err != nil {
			return err
		}
		value := make([]byte, n)
		if n, err = unix.Fgetxattr(a, name, value); err != nil {
			return err
		}
		if err := ignoreUnsupported(unix.Fsetxattr(b, name, value[:n], 0)); err != nil {
			return err
		}
	}
	return nil
}

func ignoreUnsupported(err error) error {
	if errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	return err
}
