package tree

import (
	"errors"
	"io"
	"os"

	"berth/internal/errdef"

	"golang.org/x/sys/unix"
)

// Bytes is how many bytes the regular files in a directory have, each counted once.
func Bytes(path string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	seen := map[inode]bool{}
	var bytes int64
	return bytes, walk(int(f.Fd()), 0, func(_ int, _ string, st *unix.Stat_t) error {
		if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink > 1 && seen[inodeOf(st)] {
			return nil
		}
		seen[inodeOf(st)] = st.Nlink > 1
		bytes += st.Size
		return nil
	})
}

// Chown gives a directory, and all that is in it, to a user and a group.
func Chown(dir *os.File, uid, gid int) error {
	if err := unix.Fchown(int(dir.Fd()), uid, gid); err != nil {
		return os.NewSyscallError("fchown", err)
	}
	return walk(int(dir.Fd()), 0, func(in int, name string, _ *unix.Stat_t) error {
		return os.NewSyscallError("fchownat", unix.Fchownat(in, name, uid, gid, unix.AT_SYMLINK_NOFOLLOW))
	})
}

// walk visits everything in a directory, directories before what is in them. What goes away meanwhile is left out.
func walk(dir, depth int, visit func(in int, name string, st *unix.Stat_t) error) error {
	if depth > MaxDepth {
		return errdef.New(errdef.Unsupported, "more than %d directories deep", MaxDepth)
	}
	f, err := OpenEntry(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		names, err := f.Readdirnames(namesAtOnce)
		for _, name := range names {
			if err := walkEntry(dir, name, depth, visit); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func walkEntry(dir int, name string, depth int, visit func(in int, name string, st *unix.Stat_t) error) error {
	var st unix.Stat_t
	err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == unix.ENOENT {
		return nil
	}
	if err == nil {
		err = visit(dir, name, &st)
	}
	if err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return err
	}
	below, err := OpenEntry(dir, name, unix.O_RDONLY|unix.O_DIRECTORY)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return nil
	}
	if err != nil {
		return err
	}
	defer below.Close()
	return walk(int(below.Fd()), depth+1, visit)
}
