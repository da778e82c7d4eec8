package merged

import (
	"errors"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Kind says what has become of a path; its text is docker's letter for it.
type Kind string

// The kinds of changes.
const (
	Added   Kind = "A"
	Changed Kind = "C"
	Deleted Kind = "D"
)

// Change is what is different about a path, which begins with "/".
type Change struct {
	Kind Kind
	Path string
	Size int64 // of a regular file that is there
	Was  int64 // bytes of files of the layers that are not seen any more; only Changes says so
}

// Owner says whose a file of the layers is where it was copied to.
type Owner func(uid, gid uint32) (int, int, error)

// Changes are what the upper directory of an overlay makes of the layers below, the topmost first, by their paths. A directory has
// changed when something in it has, too.
func Changes(upper string, layers []string) ([]Change, error) {
	return changes(upper, layers, func(w *differ, upper int, lower directory) error { return w.overlay(upper, lower, "") })
}

// ChangesOfCopy are how a tree differs from the layers of which it is a copy whose files have the owners that owner says. A file that has
// its size, time, mode and owner is taken for the same, unless the kernel has noted a change of it since the copy was made; the zero time is
// for a copy of which that is not known.
func ChangesOfCopy(tree string, layers []string, owner Owner, made unix.Timespec) ([]Change, error) {
	return changes(tree, layers, func(w *differ, tree int, lower directory) error {
		w.owner, w.copy, w.made = owner, true, made
		return w.copied(tree, lower, "")
	})
}

// Unknown is the time for ChangesOfCopy of a copy that nobody knows the time of.
var Unknown unix.Timespec

// Differences are ChangesOfCopy for who goes on with nothing but them: what has a file's size, time, mode and owner is looked at itself, with its
// attributes and its names.
func Differences(tree string, layers []string) ([]Change, error) {
	return changes(tree, layers, func(w *differ, tree int, lower directory) error {
		w.copy, w.thorough = true, true
		return w.copied(tree, lower, "")
	})
}

func changes(dir string, layers []string, walk func(w *differ, dir int, lower directory) error) ([]Change, error) {
	s, err := openStack(layers)
	if err != nil {
		return nil, err
	}
	defer s.close()
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	w := &differ{}
	if err := walk(w, fd, s.root); err != nil {
		return nil, err
	}
	slices.SortFunc(w.found, func(a, b Change) int { return strings.Compare(a.Path, b.Path) })
	return w.found, nil
}

type differ struct {
	found []Change
	owner Owner
	copy  bool
	made  unix.Timespec // of the copy
	// thorough compares contents, too.
	thorough bool
}

// touched reports whether something that is no directory has changed since the copy was made: its time of change, which no program can set, says so
// for attributes, too.
func (w *differ) touched(st *unix.Stat_t) bool {
	return w.made != unix.Timespec{} && st.Ctim.Nano() > w.made.Nano()
}

func (w *differ) add(k Kind, path string, st *unix.Stat_t) { w.instead(k, path, st, 0) }

// instead adds a change by which files of so many bytes are seen no more.
func (w *differ) instead(k Kind, path string, st *unix.Stat_t, was int64) {
	c := Change{Kind: k, Path: path, Was: was}
	if st != nil && st.Mode&unix.S_IFMT == unix.S_IFREG {
		c.Size = st.Size
	}
	w.found = append(w.found, c)
}

// namesOf reads a directory.
func namesOf(fd int) ([]string, error) {
	return (&Dir{parts: directory{fd}}).names()
}

// below is what the layers have under a name: a directory, or something else, in one of them.
type below struct {
	stack *stack
	dir   directory // nil: it is none
	st    unix.Stat_t
	in    int
	there bool
}

func find(lower directory, name string) (below, error) {
	b := below{stack: &stack{}}
	if lower == nil {
		return b, nil
	}
	dir, in, _, err := b.stack.lookup(lower, name)
	switch {
	case errors.Is(err, unix.ENOENT):
		return b, nil
	case err != nil:
		b.stack.close()
		return b, err
	case dir != nil:
		err = unix.Fstat(dir[0], &b.st)
	default:
		err = unix.Fstatat(in, name, &b.st, unix.AT_SYMLINK_NOFOLLOW)
	}
	b.dir, b.in, b.there = dir, in, true
	return b, err
}

// bytes are those of all regular files of what is below.
func (b below) bytes() (int64, error) {
	switch {
	case b.dir != nil:
		return bytesOf(&Dir{parts: b.dir})
	case b.there && b.st.Mode&unix.S_IFMT == unix.S_IFREG:
		return b.st.Size, nil
	}
	return 0, nil
}

func bytesOf(d *Dir) (sum int64, err error) {
	err = d.Entries(func(e Entry) error {
		if e.Dir != nil {
			n, err := bytesOf(e.Dir)
			sum += n
			return err
		}
		var st unix.Stat_t
		if err := unix.Fstatat(e.In, e.Name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return &os.PathError{Op: "fstatat", Path: e.Name, Err: err}
		}
		if st.Mode&unix.S_IFMT == unix.S_IFREG {
			sum += st.Size
		}
		return nil
	})
	return sum, err
}

// overlay compares a directory of an upper layer with what is below it.
func (w *differ) overlay(upper int, lower directory, path string) error {
	names, err := namesOf(upper)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := w.overlayEntry(upper, lower, name, path+"/"+name); err != nil {
			return err
		}
	}
	return nil
}

func (w *differ) overlayEntry(upper int, lower directory, name, path string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(upper, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		if err == unix.ENOENT { // removed meanwhile
			return nil
		}
		return &os.PathError{Op: "fstatat", Path: path, Err: err}
	}
	under, err := find(lower, name)
	if err != nil {
		return err
	}
	defer under.stack.close()
	switch kind := st.Mode & unix.S_IFMT; {
	case kind == unix.S_IFCHR && st.Rdev == 0, IsFileWhiteout(upper, name, &st):
		if under.there {
			was, err := under.bytes()
			w.instead(Deleted, path, nil, was)
			return err
		}
		return nil
	case kind != unix.S_IFDIR && under.there:
		was, err := under.bytes()
		w.instead(Changed, path, &st, was)
		return err
	case kind != unix.S_IFDIR:
		w.add(Added, path, &st)
		return nil
	}
	child, err := unix.Openat(upper, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "openat", Path: path, Err: err}
	}
	defer unix.Close(child)
	before := len(w.found)
	if err := w.overlay(child, under.dir, path); err != nil {
		return err
	}
	if under.dir != nil && Opaque(child) {
		if err := w.hidden(child, under.dir, path); err != nil {
			return err
		}
	}
	switch {
	case !under.there:
		w.add(Added, path, nil)
	case under.dir == nil:
		was, err := under.bytes()
		w.instead(Changed, path, nil, was)
		return err
	case len(w.found) > before || !w.alike(&st, &under.st):
		w.add(Changed, path, nil)
	}
	return nil
}

// hidden finds what an opaque directory hides and does not have itself.
func (w *differ) hidden(upper int, lower directory, path string) error {
	names, err := (&Dir{parts: lower}).names()
	if err != nil {
		return err
	}
	for _, name := range names {
		var st unix.Stat_t
		if unix.Fstatat(upper, name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil {
			continue
		}
		under, err := find(lower, name)
		if err != nil {
			return err
		}
		var was int64
		if under.there {
			if !w.copy {
				was, err = under.bytes()
			}
			w.instead(Deleted, path+"/"+name, nil, was)
		}
		under.stack.close()
		if err != nil {
			return err
		}
	}
	return nil
}

// copied compares a directory of a copy with its original.
func (w *differ) copied(tree int, lower directory, path string) error {
	names, err := namesOf(tree)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := w.copiedEntry(tree, lower, name, path+"/"+name); err != nil {
			return err
		}
	}
	if lower == nil {
		return nil
	}
	return w.hidden(tree, lower, path)
}

func (w *differ) copiedEntry(tree int, lower directory, name, path string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(tree, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		if err == unix.ENOENT {
			return nil
		}
		return &os.PathError{Op: "fstatat", Path: path, Err: err}
	}
	under, err := find(lower, name)
	if err != nil {
		return err
	}
	defer under.stack.close()
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		switch {
		case !under.there:
			w.add(Added, path, &st)
		case under.dir != nil || !w.alike(&st, &under.st) || st.Size != under.st.Size || st.Rdev != under.st.Rdev || w.touched(&st):
			w.add(Changed, path, &st)
		case w.thorough:
			same, err := sameFile(tree, under.in, name, &st, &under.st)
			if !same && err == nil {
				w.add(Changed, path, &st)
			}
			return err
		}
		return nil
	}
	child, err := unix.Openat(tree, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "openat", Path: path, Err: err}
	}
	defer unix.Close(child)
	before := len(w.found)
	if err := w.copied(child, under.dir, path); err != nil {
		return err
	}
	switch {
	case !under.there:
		w.add(Added, path, nil)
	case under.dir == nil || len(w.found) > before || !w.alike(&st, &under.st) || w.thorough && !sameAttributes(child, under.dir[0]):
		w.add(Changed, path, nil)
	}
	return nil
}

// alike reports whether something has the mode, the owner and the time of what it comes from. In a copy the times of links, directories and
// empty files say nothing: places of mounts are made there, too, and what is in a directory is looked at itself.
func (w *differ) alike(st, from *unix.Stat_t) bool {
	uid, gid := int(from.Uid), int(from.Gid)
	if w.owner != nil {
		var err error
		if uid, gid, err = w.owner(from.Uid, from.Gid); err != nil {
			return false
		}
	}
	timeless := w.copy && (st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size == 0)
	return st.Mode == from.Mode && int(st.Uid) == uid && int(st.Gid) == gid && (timeless || st.Mtim == from.Mtim)
}
