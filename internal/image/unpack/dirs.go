package unpack

import (
	"errors"
	"fmt"
	"hash/maphash"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/image/merged"
)

// dirHandle is an open directory of the tree.
type dirHandle struct {
	fd      int
	ino     uint64
	depth   int
	viaLink bool // a symlink of this layer leads here
}

// maxOpenDirs is well below the 1,024 descriptors that a process may have everywhere.
const maxOpenDirs = 128

// parent returns the directory p of the tree, "." or a clean path, and makes it if the tar has not.
func (x *extractor) parent(p string) (*dirHandle, error) {
	if h := x.dirs[p]; h != nil {
		return h, nil
	}
	h, err := x.openDir(p)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		// A file on the way may still be in the making.
		if err := x.settle(); err != nil {
			return nil, err
		}
		return x.imply(p)
	}
	return h, err
}

// parentNoLink is parent for whiteouts: they speak about the layers below, where a symlink of this layer says
// nothing.
func (x *extractor) parentNoLink(p string) (*dirHandle, error) {
	h, err := x.parent(p)
	if err == nil && h.viaLink {
		return nil, errdef.New(errdef.Invalid, "it is a whiteout behind a symlink")
	}
	return h, err
}

// openDir opens the directory p and remembers it. A symlink in it is followed as if the tree were "/".
func (x *extractor) openDir(p string) (*dirHandle, error) {
	const flags = unix.O_PATH | unix.O_DIRECTORY
	h := &dirHandle{}
	var err error
	h.fd, err = disk.OpenIn(x.root, p, flags, 0, disk.Beneath|unix.RESOLVE_NO_SYMLINKS)
	if errors.Is(err, unix.ELOOP) {
		h.viaLink = true
		h.fd, err = disk.OpenIn(x.root, p, flags, 0, disk.InRoot)
	}
	if err != nil {
		return nil, err
	}
	if err := x.identify(h, p); err != nil {
		_ = unix.Close(h.fd)
		return nil, err
	}
	if len(x.dirs) >= maxOpenDirs {
		x.forget()
	}
	x.dirs[p] = h
	return h, nil
}

// identify finds out which directory h is and how deep it lies.
func (x *extractor) identify(h *dirHandle, p string) error {
	var st unix.Stat_t
	if err := unix.Fstat(h.fd, &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	h.ino = st.Ino
	switch {
	case p == ".":
	case !h.viaLink:
		h.depth = 1 + strings.Count(p, "/")
	default:
		// Only for counting: the text is not used as a path. It is too long for readlink where it is too deep.
		here, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", h.fd))
		if err != nil {
			return err
		}
		root, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", x.root))
		if err != nil {
			return err
		}
		h.depth = strings.Count(here, "/") - strings.Count(root, "/")
	}
	return nil
}

// forget makes the next look at a path a fresh one: there are too many directories open, or a path may mean
// something else now. Descriptors stay open until the entry is made.
func (x *extractor) forget() {
	for _, h := range x.dirs {
		x.retired = append(x.retired, h)
	}
	clear(x.dirs)
}

// closeRetired closes the directories that were forgotten during the last entry.
func (x *extractor) closeRetired() error {
	if len(x.retired) == 0 {
		return nil
	}
	err := x.settle() // the makers of small files use the descriptors
	for _, h := range x.retired {
		_ = unix.Close(h.fd)
	}
	x.retired = x.retired[:0]
	return err
}

// imply makes a directory that entries need and that has none of its own (yet).
func (x *extractor) imply(p string) (*dirHandle, error) {
	up, err := x.parent(path.Dir(p))
	if err != nil {
		return nil, err
	}
	at := place{up, path.Base(p)}
	made, err := x.mkdir(at, keepOthers)
	if err != nil {
		return nil, err
	}
	if made {
		x.implied = append(x.implied, p)
		x.isImplied[p] = true
	}
	return x.openDir(p)
}

// place is a name in an open directory.
type place struct {
	in   *dirHandle
	base string
}

// key stands for a place in the set of places used so far. That two places share a key by chance costs a little
// time and does no harm.
func (x *extractor) key(at place) uint64 {
	type identity struct {
		ino  uint64
		base string
	}
	return maphash.Comparable(x.seed, identity{at.in.ino, at.base})
}

// used reports whether something may be at the place already, and notes that there is now.
func (x *extractor) used(at place) bool {
	k := x.key(at)
	_, used := x.places[k]
	if !used {
		x.places[k] = struct{}{}
	}
	return used
}

// inhabitant is what is at a place.
type inhabitant uint8

const (
	nobody inhabitant = iota
	aDirectory
	aWhiteout
	something
)

func look(at place) (inhabitant, error) {
	var st unix.Stat_t
	err := unix.Fstatat(at.in.fd, at.base, &st, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case err == unix.ENOENT:
		return nobody, nil
	case err != nil:
		return nobody, os.NewSyscallError("fstatat", err)
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return aDirectory, nil
	case st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0, merged.IsFileWhiteout(at.in.fd, at.base, &st):
		return aWhiteout, nil
	}
	return something, nil
}

// What mkdir does with a file that is at its place.
type othersPolicy bool

const (
	keepOthers    othersPolicy = false // an error: the tar uses a file for a directory
	replaceOthers othersPolicy = true  // an entry replaces an earlier one of its name
)

// mkdir makes a directory, unless there is one. One that takes the place of a whiteout is opaque: the whiteout
// hid what the layers below have there, and so must the directory.
func (x *extractor) mkdir(at place, policy othersPolicy) (made bool, err error) {
	if at.in.depth >= maxDepth { // reached through symlinks, which clean does not count
		return false, errdef.New(errdef.Invalid, "it lies more than %d directories deep", maxDepth)
	}
	if x.used(at) {
		if err := x.settle(); err != nil {
			return false, err
		}
	}
	opaque := false
	for {
		err := unix.Mkdirat(at.in.fd, at.base, 0o700)
		if err == nil {
			break
		}
		if err != unix.EEXIST {
			return false, os.NewSyscallError("mkdirat", err)
		}
		who, err := look(at)
		switch {
		case err != nil:
			return false, err
		case who == aDirectory:
			return false, nil
		case who == aWhiteout:
			opaque = true
		case policy == keepOthers:
			return false, errdef.New(errdef.Invalid, "%q, which it lies in, is not a directory", at.base)
		}
		if err := x.remove(at); err != nil {
			return false, err
		}
	}
	if opaque {
		return true, x.setOpaque(at)
	}
	return true, nil
}

// remove takes away what is at a place, a whole tree if need be.
func (x *extractor) remove(at place) error {
	err := unix.Unlinkat(at.in.fd, at.base, 0)
	switch err {
	case unix.ENOENT:
		return nil
	case nil:
	case unix.EISDIR:
		if err := removeTree(at.in.fd, at.base); err != nil {
			return err
		}
	default:
		return os.NewSyscallError("unlinkat", err)
	}
	x.forget() // it may have been a symlink or a directory on the way to others
	return nil
}

// removeTree removes the directory base with all that is in it, by descriptors only.
func removeTree(dir int, base string) error {
	fd, err := unix.Openat(dir, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("openat", err)
	}
	f := os.NewFile(uintptr(fd), base)
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		err := unix.Unlinkat(fd, name, 0)
		if err == unix.EISDIR {
			if err := removeTree(fd, name); err != nil {
				return err
			}
		} else if err != nil {
			return os.NewSyscallError("unlinkat", err)
		}
	}
	return os.NewSyscallError("unlinkat", unix.Unlinkat(dir, base, unix.AT_REMOVEDIR))
}

// setOpaque marks the directory at a place as hiding what is below it.
func (x *extractor) setOpaque(at place) error {
	fd, err := unix.Openat(at.in.fd, at.base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("openat", err)
	}
	defer unix.Close(fd)
	name := x.mark("opaque")
	if err := unix.Fsetxattr(fd, name, []byte("y"), 0); err != nil {
		return errdef.Hint(&os.PathError{Op: "fsetxattr", Path: name, Err: err}, "the file system must keep extended attributes")
	}
	return nil
}
