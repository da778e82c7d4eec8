package files

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"berth/internal/errdef"
	"berth/internal/image/merged"

	"golang.org/x/sys/unix"
)

// Tree is where files are copied from.
type Tree struct {
	Layers []string // the topmost first; a directory of the host is a stack of one
	// Keep decides about a path of the tree, which is relative to its root: whether it is there at all, and whether what is below it
	// has to be looked at. nil keeps everything.
	Keep func(path string, dir bool) (keep, below bool)
}

// Item is a file or a directory of a tree.
type Item struct {
	Name string // its path in the tree, without links; "." is the root
	Dir  *merged.Dir
	In   int    // the directory that something else is in
	As   string // the name of its copy, unless it is its own: that of the link that led to it

	keep func(path string, dir bool) (keep, below bool)
	stat unix.Stat_t // of something else, if it was found in its directory
	// held says that the item has its parent open.
	parent *merged.Dir
}

func (i Item) base() string { return path.Base(i.Name) }

// Close closes the item.
func (i Item) Close() {
	if i.Dir != nil {
		i.Dir.Close()
	}
	if i.parent != nil {
		i.parent.Close()
	}
}

// Place is the path of the item on the host, if it is all in one layer.
func (i Item) Place() (p string, ok bool) {
	if i.keep != nil {
		return "", false
	}
	if i.Dir != nil {
		return i.Dir.Single()
	}
	if i.parent == nil {
		return "", false
	}
	dir, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(i.In))
	return path.Join(dir, i.base()), err == nil
}

// Stat is what something else than a directory is: as it was found, if it was in its directory.
func (i Item) Stat() (unix.Stat_t, error) {
	st := i.stat
	if st.Ino != 0 {
		return st, nil
	}
	if err := unix.Fstatat(i.In, i.base(), &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return st, &os.PathError{Op: "fstatat", Path: i.Name, Err: err}
	}
	return st, nil
}

// Open opens a regular file; never a FIFO that waits.
func (i Item) Open() (*os.File, error) {
	fd, err := i.open()
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), i.Name), nil
}

func (i Item) open() (int, error) { return openFile(i.In, i.base()) }

func openFile(dir int, name string) (int, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return fd, nil
}

// Except leaves out of an item what keep does not keep, by paths relative to the item.
func (i Item) Except(keep func(path string, dir bool) (keep, below bool)) Item {
	all, root := i.keep, i.Name
	i.keep = func(p string, dir bool) (bool, bool) {
		k, b := true, true
		if all != nil {
			k, b = all(p, dir)
		}
		rel := p
		if root != "." {
			rel = strings.TrimPrefix(p, root+"/")
		}
		k2, b2 := keep(rel, dir)
		return k && k2, b && b2
	}
	return i
}

// each visits what of a directory is kept. A directory that is not kept itself is visited if something below it is.
func (i Item) each(visit func(Item) error) error {
	return i.Dir.Entries(func(e merged.Entry) error {
		item := Item{Name: path.Join(i.Name, e.Name), Dir: e.Dir, In: e.In, stat: e.Stat, keep: i.keep}
		if i.keep != nil {
			keep, below := i.keep(item.Name, e.Dir != nil)
			if !keep && e.Dir != nil && below {
				some, err := item.some()
				if err != nil || !some {
					return err
				}
				keep = true
			}
			if !keep {
				return nil
			}
		}
		return visit(item)
	})
}

// Walk visits all that is kept below a directory, each directory before what is in it.
func (i Item) Walk(visit func(Item) error) error {
	if i.Dir == nil {
		return nil
	}
	return i.each(func(item Item) error {
		if err := visit(item); err != nil {
			return err
		}
		return item.Walk(visit)
	})
}

var errSome = errors.New("there is something")

// some reports whether anything of a directory is kept.
func (i Item) some() (bool, error) {
	err := i.each(func(Item) error { return errSome })
	if errors.Is(err, errSome) {
		return true, nil
	}
	return false, err
}

// kept reports whether something at a path is there.
func (t Tree) kept(p string, dir bool) bool {
	if t.Keep == nil || p == "." {
		return true
	}
	keep, below := t.Keep(p, dir)
	return keep || dir && below
}

// Find opens what a path leads to; links are followed, and do not leave the tree.
func (t Tree) Find(name string) (Item, error) {
	found, err := merged.Resolve(t.Layers, name, true)
	if err == nil && (found.Kind == 0 || !t.kept(found.Path, found.Kind == unix.S_IFDIR)) {
		err = &os.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	if err != nil {
		return Item{}, err
	}
	return t.at(found)
}

func (t Tree) at(found merged.Found) (Item, error) {
	item := Item{Name: found.Path, keep: t.Keep}
	if found.Kind == unix.S_IFDIR {
		dir, err := merged.OpenDir(t.Layers, found.Path)
		if err != nil {
			return item, err
		}
		item.Dir = dir
		return item, nil
	}
	parent, err := merged.OpenDir(t.Layers, path.Dir(found.Path))
	if err != nil {
		return item, err
	}
	e, err := parent.Lookup(path.Base(found.Path))
	if err != nil {
		parent.Close()
		return item, err
	}
	item.In, item.parent = e.In, parent
	return item, nil
}

// HasWildcards reports whether a path is a pattern.
func HasWildcards(p string) bool {
	for i := 0; i < len(p); i++ {
		switch p[i] {
		case '*', '?', '[':
			return true
		case '\\':
			i++
		}
	}
	return false
}

// Match are the paths that a pattern selects, in the order of their names. A path without wildcards is itself, whether it is there or not.
func (t Tree) Match(pattern string) ([]string, error) {
	pattern = strings.TrimPrefix(path.Clean("/"+pattern), "/")
	if pattern == "" {
		return []string{"."}, nil
	}
	if !HasWildcards(pattern) {
		return []string{pattern}, nil
	}
	if _, err := path.Match(pattern, ""); err != nil {
		return nil, errdef.New(errdef.Invalid, "invalid pattern %q: %w", pattern, err)
	}
	parts := strings.Split(pattern, "/")
	at := []string{""}
	for n, part := range parts {
		var next []string
		for _, dir := range at {
			if !HasWildcards(part) {
				next = append(next, path.Join(dir, part))
				continue
			}
			names, err := t.list(dir)
			if err != nil {
				return nil, err
			}
			for _, name := range names {
				if ok, _ := path.Match(part, path.Base(name)); ok {
					next = append(next, name)
				}
			}
		}
		at = next
		if n == len(parts)-1 {
			at = slices.DeleteFunc(at, func(p string) bool {
				found, err := merged.Resolve(t.Layers, p, false)
				return err != nil || found.Kind == 0 || !t.kept(found.Path, found.Kind == unix.S_IFDIR)
			})
		}
	}
	return at, nil
}

// list are the paths of what is in a directory; what is none has nothing in it.
func (t Tree) list(dir string) (names []string, err error) {
	d, err := merged.OpenDir(t.Layers, dir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer d.Close()
	err = d.Entries(func(e merged.Entry) error {
		if p := path.Join(dir, e.Name); t.kept(p, e.Dir != nil) {
			names = append(names, p)
		}
		return nil
	})
	return names, err
}
