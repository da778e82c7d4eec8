// Package storage is how the files of containers lie on disk: the drivers, which of them a container gets (Choose, pure), and what each does.
//
// Layers have one form whatever the driver: overlayfs's (image/layer). A driver decides what a container's own directory holds beside them. A
// *layered* one keeps what is written there, in upper, and the container's root is mounted of it and the layers: by the kernel (overlay) or by
// a program (fuse-overlayfs). With a *whole* one the root is the directory tree, which begins as all that the layers make together: a copy whose
// files share their blocks with the layers where the file system can do that (vfs), or a snapshot (btrfs).
//
// It knows no records and no locks (state has them: whoever calls holds the container's), mounts no overlay (runtime/plan does), and moves nothing
// from one driver to another but within one container's directory.
package storage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/image/merged"
	"berth/internal/tree"
)

// The drivers; the words are docker's and podman's.
const (
	Overlay = "overlay"
	Fuse    = "fuse-overlayfs"
	Btrfs   = "btrfs"
	VFS     = "vfs"
)

// Names are all of them, the first that is possible first.
var Names = [...]string{Overlay, Fuse, Btrfs, VFS}

// What is in a container's directory.
const (
	upperName = "upper"
	workName  = "work"
	treeName  = "tree"
	newSuffix = ".new" // in the making
)

// Place is a container, as far as it is files.
type Place struct {
	Dir    string   // upper and work, or tree
	Layers []string // of its image, the topmost first
	Points string   // lies below them: places of mounts; "" is nothing
	// Owner says whose a file of the layers is in the container; nil is what the layers say. Layered drivers cannot have it.
	Owner tree.Owner
	// Durable says that what is made is to outlive a power cut.
	Durable bool
}

// Upper and Work are a layered driver's, Tree is a whole one's.
func (p Place) Upper() string { return filepath.Join(p.Dir, upperName) }

// Work is overlayfs's directory for what is half done.
func (p Place) Work() string { return filepath.Join(p.Dir, workName) }

// Tree is all that a container consists of.
func (p Place) Tree() string { return filepath.Join(p.Dir, treeName) }

func (p Place) below() []string {
	if p.Points == "" {
		return p.Layers
	}
	return append(slices.Clone(p.Layers), p.Points)
}

// Driver is one way to keep what containers write. The caller holds the container's lock; the container does not run, except for Changes and
// Stack.
type Driver interface {
	// Name is the driver's.
	Name() string
	// Prepare makes what has to be there before the container's root can be mounted, unless it is there: whole or not at all.
	Prepare(p Place) error
	// Stack are the directories that the container's files are in, the topmost first, as package merged reads them.
	Stack(p Place) []string
	// Changes are what the container has made of its image.
	Changes(p Place) ([]merged.Change, error)
	// Take makes this driver's form of what the container has in the form of another one, which stays, unless both have theirs in the same place:
	// then it is for both to read. It has its place when it is whole and durable; whatever was there before, a driver's of this kind had left.
	Take(p Place, from Driver) error
	// Drop removes this driver's form; what is missing is no error.
	Drop(p Place) error
}

// Move makes what a container has in one driver's form another one's. record writes down, durably, that the container is that one's now: until then
// it is as it was, and from then on as it will be; what a crash leaves of the other form nobody looks at, and the next move or the removal of the
// container takes it away.
func Move(p Place, from, to Driver, record func() error) error {
	if from.Name() == to.Name() {
		return nil
	}
	if err := to.Take(p, from); err != nil {
		return err
	}
	if err := record(); err != nil {
		return err
	}
	if Whole(from.Name()) == Whole(to.Name()) { // they have it in the same place
		return nil
	}
	return from.Drop(p)
}

// Open returns a driver by its name; the empty one is overlay, as records have it.
func Open(name string) (Driver, error) {
	switch name {
	case Overlay, "":
		return layered{Overlay}, nil
	case Fuse:
		return layered{Fuse}, nil
	case Btrfs:
		return whole{Btrfs}, nil
	case VFS:
		return whole{VFS}, nil
	}
	return nil, errdef.New(errdef.Invalid, "there is no storage driver %q", name)
}

// Of is Open for a container's record, which no other names are in.
func Of(name string) Driver {
	d, err := Open(name)
	if err != nil {
		return whole{name} // of a later version: its tree is looked for, and found or not
	}
	return d
}

// Whole reports whether the containers of a driver have trees of their own.
func Whole(name string) bool { return name != Overlay && name != "" && name != Fuse }

// layered keeps what is written apart from the layers.
type layered struct{ name string }

func (l layered) Name() string         { return l.name }
func (layered) Prepare(Place) error    { return nil } // made with the container
func (layered) Stack(p Place) []string { return append([]string{p.Upper()}, p.below()...) }
func (layered) Drop(p Place) error     { return errors.Join(empty(p.Upper()), empty(p.Work())) }
func (l layered) Changes(p Place) ([]merged.Change, error) {
	return merged.Changes(p.Upper(), p.below())
}

// Take makes the upper directory of what is different about another driver's files.
func (l layered) Take(p Place, from Driver) error {
	if _, same := from.(layered); same {
		return l.adopt(p)
	}
	if _, err := os.Lstat(p.Tree()); errors.Is(err, fs.ErrNotExist) {
		return nil // it has never run
	}
	made := p.Upper() + newSuffix
	if err := errors.Join(os.RemoveAll(made), os.Mkdir(made, 0o755)); err != nil {
		return err
	}
	err := writeChanges(p, made)
	if err == nil {
		err = syncFileSystem(made)
	}
	if err == nil {
		err = errors.Join(empty(p.Work()), exchange(made, p.Upper()))
	}
	return errors.Join(err, os.RemoveAll(made))
}

// empty leaves a directory without anything in it. Its limit, if it has one, stays.
func empty(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, e := range entries {
		errs = append(errs, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return errors.Join(errs...)
}

// whole has all in one directory.
type whole struct{ name string }

func (w whole) Name() string { return w.name }

// Prepare makes the tree of the layers.
func (w whole) Prepare(p Place) error {
	if _, err := os.Lstat(p.Tree()); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return w.publish(p, p.Durable, func(made string) error {
		if w.name == Btrfs && p.Owner == nil && len(p.Layers) > 0 {
			base, err := baseOf(p.Layers[0], p.below())
			if err != nil {
				return err
			}
			return snapshot(base, made)
		}
		if err := w.mkdir(made); err != nil {
			return err
		}
		return Fill(made, "/", p.below(), p.Owner) // with the places of mounts, which are no changes
	})
}

// mkdir makes the directory of a tree.
func (w whole) mkdir(dir string) error {
	if w.name == Btrfs {
		return makeSubvolume(dir)
	}
	return os.Mkdir(dir, 0o755)
}

// publish has a tree made beside its place, and then gives it that.
func (w whole) publish(p Place, durable bool, make func(dir string) error) error {
	made := p.Tree() + newSuffix
	if err := remove(made); err != nil {
		return err
	}
	if err := make(made); err != nil {
		return errors.Join(err, remove(made))
	}
	if durable {
		if err := syncFileSystem(made); err != nil {
			return err
		}
	}
	if err := os.Rename(made, p.Tree()); err != nil {
		return err
	}
	if durable {
		return disk.SyncDir(p.Dir)
	}
	return nil
}

// Stack is the tree, or the image where the container has never run.
func (w whole) Stack(p Place) []string {
	if _, err := os.Lstat(p.Tree()); errors.Is(err, fs.ErrNotExist) {
		return p.below()
	}
	return []string{p.Tree(), p.Points}
}

// Changes are told by what every file says of itself: nobody notes which were written.
func (w whole) Changes(p Place) ([]merged.Change, error) {
	found, err := merged.ChangesOfCopy(p.Tree(), p.below(), merged.Owner(p.Owner), merged.Unknown)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // it has never run
	}
	return found, err
}

// Take makes the tree of all that another driver has.
func (w whole) Take(p Place, from Driver) error {
	stack := append([]string{p.Upper()}, p.below()...)
	if _, copies := from.(whole); copies {
		if stack = []string{p.Tree()}; !exists(p.Tree()) {
			return nil
		}
		return w.retake(p, stack)
	}
	if err := remove(p.Tree()); err != nil { // nobody's
		return err
	}
	return w.publish(p, true, func(made string) error {
		if err := w.mkdir(made); err != nil {
			return err
		}
		return Fill(made, "/", stack, nil)
	})
}

// retake takes the place of a tree of the other kind.
func (w whole) retake(p Place, stack []string) error {
	made := p.Tree() + newSuffix
	if err := remove(made); err != nil {
		return err
	}
	err := w.mkdir(made)
	if err == nil {
		err = Fill(made, "/", stack, nil)
	}
	if err == nil {
		err = syncFileSystem(made)
	}
	if err == nil {
		err = exchange(made, p.Tree())
	}
	return errors.Join(err, remove(made)) // what is there now is the old one, or half of the new
}

// Drop removes the tree.
func (w whole) Drop(p Place) error { return errors.Join(remove(p.Tree()+newSuffix), remove(p.Tree())) }

// remove removes a tree, quickly where it is a subvolume that we may remove so. A container on a btrfs may have made subvolumes in it, and
// read-only ones, which cannot be emptied.
func remove(dir string) error {
	if !exists(dir) || removeSubvolume(dir) == nil {
		return nil
	}
	if removeSubvolumesIn(dir); removeSubvolume(dir) == nil {
		return nil
	}
	return os.RemoveAll(dir)
}

// Discard removes what a whole driver has in a container's directory that is about to be deleted, as far as it can: what it leaves goes with the
// directory, or is reported then.
func Discard(name, dir string) {
	if Whole(name) {
		_ = remove(filepath.Join(dir, treeName))
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func syncFileSystem(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return disk.SyncFS(f)
}

func failed(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("cannot %s: %w", what, err)
}
