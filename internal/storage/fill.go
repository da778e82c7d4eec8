package storage

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"

	"berth/internal/image/merged"
	"berth/internal/tree"

	"golang.org/x/sys/unix"
)

// nothing reports that there is no directory to copy.
func nothing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP)
}

// Fill copies what the layers, the topmost first, have at target into the empty directory dir; where they have no directory there, it stays
// empty. Files share their blocks with the layers where the file system can do that.
func Fill(dir, target string, layers []string, owner tree.Owner) error {
	if len(layers) == 0 {
		return nil
	}
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
	f := filler{tree.NewCopier(context.Background(), to, tree.Options{Owner: orSame(owner)}), tree.Meta{Owner: orSame(owner)}}
	return f.directory(from, to, ".")
}

// orSame is an owner that is asked: files keep theirs.
func orSame(owner tree.Owner) tree.Owner {
	if owner != nil {
		return owner
	}
	return func(uid, gid uint32) (int, int, error) { return int(uid), int(gid), nil }
}

type filler struct {
	entries tree.Copier
	meta    tree.Meta
}

// directory copies what is in from into to, and gives it what from has; where is its path.
func (f filler) directory(from *merged.Dir, to *os.File, where string) error {
	err := from.Entries(func(e merged.Entry) error {
		if e.Dir == nil {
			return f.entries.Entry(e.In, e.Name, to, e.Name, where)
		}
		if err := unix.Mkdirat(int(to.Fd()), e.Name, 0o700); err != nil {
			return os.NewSyscallError("mkdirat", err)
		}
		below, err := tree.OpenEntry(int(to.Fd()), e.Name, unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		defer below.Close()
		return f.directory(e.Dir, below, path.Join(where, e.Name))
	})
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(from.FD(), &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	return f.meta.Copy(from.FD(), int(to.Fd()), &st)
}
