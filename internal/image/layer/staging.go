package layer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"berth/internal/disk"
	"berth/internal/image"
)

// Staging is a layer in the making. It holds the layer's lock until Publish or Abort.
type Staging struct {
	Chain, Parent, DiffID image.Digest

	store *Store
	lock  *disk.Lock
	tree  *os.File
}

// Begin begins to make the layer diffID on top of parent, which is "" for the lowest. It waits for whoever is
// making the same layer; if the layer is there (now), Begin returns nil.
func (s *Store) Begin(ctx context.Context, parent, diffID image.Digest) (*Staging, error) {
	if err := diffID.Validate(); err != nil {
		return nil, err
	}
	chain := image.ChainID(parent, diffID)
	if s.Has(chain) {
		return nil, nil
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, err
	}
	lock, err := s.lock(ctx, chain)
	if err != nil {
		return nil, fmt.Errorf("cannot begin layer %s: %w", chain, err)
	}
	st := &Staging{Chain: chain, Parent: parent, DiffID: diffID, store: s, lock: lock}
	if s.Has(chain) {
		return nil, s.unlock(chain, lock)
	}
	if err := st.prepare(); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot begin layer %s: %w", chain, err), st.Abort())
	}
	return st, nil
}

func (st *Staging) prepare() error {
	if err := st.store.clear(st.Chain); err != nil { // what a process that died left
		return err
	}
	dir := st.store.temporary(st.Chain)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	tree := filepath.Join(dir, treeName)
	if err := os.Mkdir(tree, 0o755); err != nil {
		return err
	}
	var err error
	st.tree, err = os.Open(tree)
	return err
}

// Tree is the empty directory to fill.
func (st *Staging) Tree() *os.File { return st.tree }

// Adopt takes the directory dir, which is on the same file system and in overlayfs's form already, for the tree, and the file recipe for how its
// blob is made. They are gone from where they were.
func (st *Staging) Adopt(dir, recipe string) error {
	tree := st.tree.Name()
	if err := os.Remove(tree); err != nil {
		return err
	}
	if err := os.Rename(dir, tree); err != nil {
		return err
	}
	if err := os.Rename(recipe, filepath.Join(st.store.temporary(st.Chain), recipeName)); err != nil {
		return err
	}
	f, err := os.Open(tree)
	if err != nil {
		return err
	}
	err = st.tree.Close()
	st.tree = f
	return err
}

// Abort ends the making and leaves nothing. After Publish it does nothing.
func (st *Staging) Abort() error {
	if st == nil || st.lock == nil {
		return nil
	}
	var err error
	if st.tree != nil {
		err = st.tree.Close()
	}
	err = errors.Join(err, st.store.clear(st.Chain), st.store.unlock(st.Chain, st.lock))
	st.lock = nil
	return err
}

// A Finished staging and what Publish writes about it; chain ID, diff ID and parent are filled in.
type Finished struct {
	*Staging
	Info Info
}

// Publish makes layers, given from the lowest to the highest, durable with a single syncfs(2) and gives them their
// names. After an error the ones without a name are still to be aborted. If we die in between, those that have
// their names are whole, and the others are swept.
func (s *Store) Publish(layers ...Finished) error {
	if len(layers) == 0 {
		return nil
	}
	if err := s.PublishContents(layers...); err != nil {
		return err
	}
	return s.SyncNames()
}

// PublishContents is Publish with names that are durable only after SyncNames: a power cut before takes layers away as a whole.
func (s *Store) PublishContents(layers ...Finished) error {
	for _, l := range layers {
		if err := l.describe(); err != nil {
			return fmt.Errorf("cannot store layer %s: %w", l.Chain, err)
		}
	}
	if err := disk.SyncFS(layers[0].tree); err != nil {
		return fmt.Errorf("cannot make layers durable: %w", err)
	}
	for _, l := range layers {
		if err := os.Rename(s.temporary(l.Chain), s.path(l.Chain)); err != nil {
			return fmt.Errorf("cannot store layer %s: %w", l.Chain, err)
		}
	}
	var errs []error
	for _, l := range layers {
		errs = append(errs, l.tree.Close(), s.unlock(l.Chain, l.lock))
		l.lock = nil
	}
	return errors.Join(errs...)
}

// SyncNames makes the names of all layers durable. There need not be any.
func (s *Store) SyncNames() error {
	if err := disk.SyncDir(s.dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// describe writes what stands beside the tree. Nothing is synced here: syncfs follows.
func (l Finished) describe() error {
	l.Info.ChainID, l.Info.DiffID, l.Info.Parent = l.Chain, l.DiffID, l.Parent
	data, err := json.Marshal(l.Info)
	if err != nil {
		return err
	}
	dir := l.store.temporary(l.Chain)
	if l.Info.OpaqueRoot {
		if err := os.WriteFile(filepath.Join(dir, opaqueName), nil, 0o600); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, infoName), data, 0o600)
}

// Again begins to make a layer once more that is there, to compare it with what it should be or to take its place.
func (s *Store) Again(ctx context.Context, chain image.Digest) (*Staging, error) {
	info, err := s.Info(chain)
	if err != nil {
		return nil, err
	}
	lock, err := s.lock(ctx, chain)
	if err != nil {
		return nil, fmt.Errorf("cannot begin layer %s again: %w", chain, err)
	}
	st := &Staging{Chain: chain, Parent: info.Parent, DiffID: info.DiffID, store: s, lock: lock}
	if err := st.prepare(); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot begin layer %s again: %w", chain, err), st.Abort())
	}
	// Its blob is made of the new tree as it was of the old one.
	if err := os.Link(s.recipe(chain), filepath.Join(s.temporary(chain), recipeName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, errors.Join(fmt.Errorf("cannot begin layer %s again: %w", chain, err), st.Abort())
	}
	return st, nil
}

// Replace puts a layer that was made Again in the place of the one that is there, which nobody may have mounted. There is a whole one at
// every moment; if we die, the other is swept.
func (s *Store) Replace(l Finished) error {
	fail := func(err error) error { return fmt.Errorf("cannot replace layer %s: %w", l.Chain, err) }
	if err := l.describe(); err != nil {
		return fail(err)
	}
	if err := disk.SyncFS(l.tree); err != nil {
		return fail(err)
	}
	if err := unix.Renameat2(unix.AT_FDCWD, s.temporary(l.Chain), unix.AT_FDCWD, s.path(l.Chain), unix.RENAME_EXCHANGE); err != nil {
		return fail(os.NewSyscallError("renameat2", err))
	}
	if err := disk.SyncDir(s.dir); err != nil {
		return fail(err)
	}
	return errors.Join(s.DropBases(), l.Abort()) // which removes what is now the temporary one
}
