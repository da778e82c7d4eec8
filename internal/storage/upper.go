package storage

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"berth/internal/disk"
	"berth/internal/image/merged"
	"berth/internal/tree"

	"golang.org/x/sys/unix"
)

// writeChanges writes what is different about a container's tree into the empty directory dir, in overlayfs's form.
func writeChanges(p Place, dir string) error {
	changes, err := merged.Differences(p.Tree(), p.below())
	if err != nil {
		return err
	}
	from, err := os.Open(p.Tree())
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer to.Close()
	entries := tree.NewCopier(context.Background(), to, tree.Options{Owner: orSame(nil)})
	var directories []string
	for _, c := range changes { // a directory before what is in it
		isDir, err := writeChange(entries, from, to, c)
		if err != nil {
			return &os.PathError{Op: "copy", Path: c.Path, Err: err}
		}
		if isDir {
			directories = append(directories, c.Path)
		}
	}
	for _, name := range slices.Backward(directories) {
		if err := sameDirectory(from, to, name); err != nil {
			return &os.PathError{Op: "copy", Path: name, Err: err}
		}
	}
	return nil
}

func writeChange(entries tree.Copier, from, to *os.File, c merged.Change) (isDir bool, _ error) {
	name := strings.TrimPrefix(c.Path, "/")
	where, base := path.Dir(name), path.Base(name)
	in, err := beneath(to, where)
	if err != nil {
		return false, err
	}
	defer in.Close()
	if c.Kind == merged.Deleted {
		return false, os.NewSyscallError("mknodat", unix.Mknodat(int(in.Fd()), base, unix.S_IFCHR, 0))
	}
	out, err := beneath(from, where)
	if err != nil {
		return false, err
	}
	defer out.Close()
	var st unix.Stat_t
	if err := unix.Fstatat(int(out.Fd()), base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return false, os.NewSyscallError("fstatat", err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return true, os.NewSyscallError("mkdirat", unix.Mkdirat(int(in.Fd()), base, 0o700))
	}
	return false, entries.Entry(int(out.Fd()), base, in, base, where)
}

// sameDirectory gives a directory what its original has: at the end, since its time changes with what is put into it.
func sameDirectory(from, to *os.File, name string) error {
	a, err := beneath(from, strings.TrimPrefix(name, "/"))
	if err != nil {
		return err
	}
	defer a.Close()
	b, err := beneath(to, strings.TrimPrefix(name, "/"))
	if err != nil {
		return err
	}
	defer b.Close()
	return tree.Meta{Owner: orSame(nil)}.CopyOf(a, b)
}

func beneath(root *os.File, name string) (*os.File, error) {
	fd, err := disk.OpenIn(int(root.Fd()), path.Join(".", name), unix.O_RDONLY|unix.O_DIRECTORY, 0, disk.Beneath|unix.RESOLVE_NO_SYMLINKS)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// exchange lets two directories change places, in one step.
func exchange(a, b string) error {
	if err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE); err != nil {
		return os.NewSyscallError("renameat2", err)
	}
	return disk.SyncDir(path.Dir(b))
}

// adopt makes an upper directory that the other layered driver has written this one's. fuse-overlayfs reads overlayfs's form; it marks a directory
// that hides all below it by a file in it, too, which overlayfs would show, and in a user namespace by an attribute that is not overlayfs's.
func (l layered) adopt(p Place) error {
	if l.name != Overlay {
		return empty(p.Work())
	}
	root, err := os.Open(p.Upper())
	if err != nil {
		return err
	}
	defer root.Close()
	return errors.Join(unmark(root), empty(p.Work()), syncFileSystem(p.Upper()))
}

// unmark leaves of fuse-overlayfs's marks those that are overlayfs's. The attribute comes first: the directory hides what is below it at every
// moment.
func unmark(dir *os.File) error {
	if merged.Opaque(int(dir.Fd())) {
		for _, name := range [...]string{"trusted.overlay.opaque", "user.overlay.opaque"} {
			err := unix.Fsetxattr(int(dir.Fd()), name, []byte("y"), 0)
			if err == nil {
				break
			}
			if !errors.Is(err, unix.EPERM) {
				return os.NewSyscallError("fsetxattr", err)
			}
		}
		for _, mark := range [...]string{merged.OpaqueMark, merged.HiddenMark} {
			if err := unix.Unlinkat(int(dir.Fd()), mark, 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return os.NewSyscallError("unlinkat", err)
			}
		}
	}
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		var st unix.Stat_t
		if err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return os.NewSyscallError("fstatat", err)
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			continue
		}
		below, err := tree.OpenEntry(int(dir.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		if err := errors.Join(unmark(below), below.Close()); err != nil {
			return err
		}
	}
	return nil
}
