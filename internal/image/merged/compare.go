package merged

import (
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Compare says what is different in a second stack of layers: added there, changed, or not there any more. A file that both have from one
// layer is the same; one that has its type, size, time, mode, owner and device is taken for the same.
func Compare(first, second []string) ([]Change, error) {
	a, err := openStack(first)
	if err != nil {
		return nil, err
	}
	defer a.close()
	b, err := openStack(second)
	if err != nil {
		return nil, err
	}
	defer b.close()
	w := &differ{}
	if err := w.compare(a.root, b.root, ""); err != nil {
		return nil, err
	}
	slices.SortFunc(w.found, func(a, b Change) int { return strings.Compare(a.Path, b.Path) })
	return w.found, nil
}

// compare compares two directories, of which either may be nil.
func (w *differ) compare(a, b directory, path string) error {
	names := map[string]bool{}
	for _, d := range []directory{a, b} {
		if d == nil {
			continue
		}
		some, err := (&Dir{parts: d}).names()
		if err != nil {
			return err
		}
		for _, n := range some {
			names[n] = true
		}
	}
	for name := range names {
		if err := w.compareEntry(a, b, name, path+"/"+name); err != nil {
			return err
		}
	}
	return nil
}

func (w *differ) compareEntry(a, b directory, name, path string) error {
	before, err := find(a, name)
	if err != nil {
		return err
	}
	defer before.stack.close()
	after, err := find(b, name)
	if err != nil {
		return &os.PathError{Op: "find", Path: path, Err: err}
	}
	defer after.stack.close()
	switch {
	case before.there && !after.there:
		w.add(Deleted, path, nil)
		return nil
	case !after.there:
		return nil // hidden in both
	}
	known := len(w.found)
	if after.dir != nil && !same(before.dir, after.dir) {
		if err := w.compare(before.dir, after.dir, path); err != nil {
			return err
		}
	}
	switch {
	case !before.there:
		w.add(Added, path, &after.st)
	case before.st.Dev == after.st.Dev && before.st.Ino == after.st.Ino && after.dir == nil:
	case len(w.found) > known, !w.alike(&after.st, &before.st), before.st.Rdev != after.st.Rdev,
		after.st.Mode&unix.S_IFMT == unix.S_IFREG && before.st.Size != after.st.Size:
		w.add(Changed, path, &after.st)
	}
	return nil
}

// same reports whether two directories are the same parts: then all below is the same.
func same(a, b directory) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		var one, two unix.Stat_t
		if unix.Fstat(a[i], &one) != nil || unix.Fstat(b[i], &two) != nil || one.Dev != two.Dev || one.Ino != two.Ino {
			return false
		}
	}
	return true
}
