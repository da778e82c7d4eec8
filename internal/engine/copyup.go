package engine

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"berth/internal/errdef"
	"berth/internal/image/merged"
	"berth/internal/image/store"
	"berth/internal/runtime/userns"
	"berth/internal/state"

	"golang.org/x/sys/unix"
)

// fillVolume copies what the image has at target into the new volume at dir, as docker does. Where the image has nothing,
// or no directory, the volume stays empty.
func (e *Engine) fillVolume(c *state.Container, dir, target string, im store.Image) error {
	layers, err := e.Images.Layers.Stack(im.Chain)
	if err != nil || len(layers) == 0 {
		return err
	}
	return fill(dir, target, layers, ownersOf(c))
}

// nothing reports that there is no directory to copy.
func nothing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP)
}

// owners says whose the copy of a file is.
type owners func(unix.Stat_t) (uid, gid int, err error)

// ownersOf are those of files that a container sees as an image has them.
func ownersOf(c *state.Container) owners {
	maps := userns.Maps{UID: c.UIDMaps, GID: c.GIDMaps}
	return func(st unix.Stat_t) (int, int, error) {
		if maps.UID == nil {
			return int(st.Uid), int(st.Gid), nil
		}
		uid, ok1 := maps.User(st.Uid)
		gid, ok2 := maps.Group(st.Gid)
		if !ok1 || !ok2 {
			return 0, 0, errdef.New(errdef.Invalid, "the image has a file of user %d, group %d, and the container has not these ids", st.Uid, st.Gid)
		}
		return int(uid), int(gid), nil
	}
}

func fill(dir, target string, layers []string, of owners) error {
	from, err := merged.OpenDir(layers, target)
	if nothing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer to.Close()
	if err := copyTree(from, to, of); err != nil {
		return err
	}
	return copyMeta(from.FD(), to, of)
}

// copyTree copies what is in from into to, each beneath itself: no link is followed.
func copyTree(from *merged.Dir, to *os.File, of owners) error {
	return from.Entries(func(e merged.Entry) error {
		err := copyEntry(e, to, of)
		if err != nil {
			return fmt.Errorf("%s: %w", e.Name, err)
		}
		return nil
	})
}

func copyEntry(e merged.Entry, to *os.File, of owners) error {
	name, dst := e.Name, int(to.Fd())
	if e.Dir != nil {
		if err := unix.Mkdirat(dst, name, 0o700); err != nil {
			return os.NewSyscallError("mkdirat", err)
		}
		b, err := openBelow(dst, name, unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		defer b.Close()
		if err := copyTree(e.Dir, b, of); err != nil {
			return err
		}
		return copyMeta(e.Dir.FD(), b, of)
	}
	var st unix.Stat_t
	if err := unix.Fstatat(e.In, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return os.NewSyscallError("fstatat", err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		a, err := openBelow(e.In, name, unix.O_RDONLY)
		if err != nil {
			return err
		}
		defer a.Close()
		b, err := openBelow(dst, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL)
		if err != nil {
			return err
		}
		defer b.Close()
		if _, err := io.Copy(b, a); err != nil {
			return err
		}
		return copyMeta(int(a.Fd()), b, of)
	case unix.S_IFLNK:
		var link [unix.PathMax]byte
		n, err := unix.Readlinkat(e.In, name, link[:])
		if err != nil {
			return os.NewSyscallError("readlinkat", err)
		}
		if err := unix.Symlinkat(string(link[:n]), dst, name); err != nil {
			return os.NewSyscallError("symlinkat", err)
		}
	default:
		if err := unix.Mknodat(dst, name, st.Mode, int(st.Rdev)); err != nil {
			return os.NewSyscallError("mknodat", err)
		}
		if err := unix.Fchmodat(dst, name, st.Mode&0o7777, 0); err != nil {
			return os.NewSyscallError("fchmodat", err)
		}
	}
	uid, gid, err := of(st)
	if err != nil {
		return err
	}
	return os.NewSyscallError("fchownat", unix.Fchownat(dst, name, uid, gid, unix.AT_SYMLINK_NOFOLLOW))
}

func openBelow(dir int, name string, flags int) (*os.File, error) {
	fd, err := unix.Openat(dir, name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, os.NewSyscallError("openat", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// copyMeta gives b the owner, the extended attributes, the mode and the times of a.
func copyMeta(a int, b *os.File, of owners) error {
	var st unix.Stat_t
	if err := unix.Fstat(a, &st); err != nil {
		return err
	}
	uid, gid, err := of(st)
	if err != nil {
		return err
	}
	if err := unix.Fchown(int(b.Fd()), uid, gid); err != nil {
		return err
	}
	if err := copyXattrs(a, int(b.Fd())); err != nil {
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
		if strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.") {
			continue // says how the layers fit together
		}
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
