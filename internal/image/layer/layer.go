// Package layer keeps unpacked layers on disk under their chain IDs.
//
//	HEX/tree/        the layer in overlayfs's form; HEX is the chain ID's
//	HEX/layer.json   what it was made from (Info)
//	HEX/opaque-root  an empty file: the layer hides everything below it
//	HEX/whole        with the storage driver btrfs: all that the chain makes together, of which containers are snapshots
//	HEX/recipe       how the blob is made again of the tree (Recipe): of layers of builds, whose blob is kept nowhere
//	.tmp-HEX/        the same in the making, or being removed
//	.lock-HEX        flock of whoever makes or removes HEX; gone when nobody does
//
// That HEX exists means that the layer is whole and its content durable: it is made as .tmp-HEX, synced and renamed. The name is durable
// after SyncNames, at the latest before an image is named that needs it. Locks are
// taken in the order of the chain, the lowest layer first. The package reads no tar and decompresses nothing
// (image/unpack does), and it knows no images.
package layer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/image"
	"berth/internal/storage"
)

// Store is a directory of unpacked layers.
type Store struct{ dir string }

// Info says what a layer was made from. Size is docker's: the bytes of all regular files.
type Info struct {
	ChainID    image.Digest `json:"chainID"`
	DiffID     image.Digest `json:"diffID"`
	Parent     image.Digest `json:"parent,omitempty"`
	Size       int64        `json:"size"`
	Driver     string       `json:"driver"`
	OpaqueRoot bool         `json:"opaqueRoot,omitempty"`
	Created    time.Time    `json:"created"`
}

// DriverOverlay is the form of a tree whose whiteouts are overlayfs's.
const DriverOverlay = "overlay"

const (
	treeName   = "tree"
	infoName   = "layer.json"
	opaqueName = "opaque-root"
	recipeName = "recipe"
	lockPrefix = ".lock-"
)

// Open opens the layers in dir, which need not exist before the first is made.
func Open(dir string) *Store { return &Store{dir} }

// Has reports whether the layer is here.
func (s *Store) Has(chain image.Digest) bool {
	return chain.Validate() == nil && unix.Access(s.path(chain), unix.F_OK) == nil
}

// Path is the tree of a layer.
func (s *Store) Path(chain image.Digest) string { return s.path(chain) + "/" + treeName }

func (s *Store) path(chain image.Digest) string { return s.dir + "/" + chain.Hex() }
func (s *Store) temporary(chain image.Digest) string {
	return s.dir + "/" + disk.TemporaryPrefix + chain.Hex()
}

func (s *Store) lockPath(chain image.Digest) string { return s.dir + "/" + lockPrefix + chain.Hex() }

// Stack returns the trees to mount for a chain given from the lowest layer to the highest: in overlayfs's order,
// the highest first, and only down to one that hides all below it. A missing layer is errdef.NotFound.
func (s *Store) Stack(chain []image.Digest) ([]string, error) {
	trees := make([]string, 0, len(chain))
	for i := len(chain) - 1; i >= 0; i-- {
		if !s.Has(chain[i]) {
			return nil, errdef.New(errdef.NotFound, "layer %s is not unpacked", chain[i])
		}
		trees = append(trees, s.Path(chain[i]))
		if unix.Access(s.path(chain[i])+"/"+opaqueName, unix.F_OK) == nil {
			break
		}
	}
	return trees, nil
}

// Info reads what a layer was made from.
func (s *Store) Info(chain image.Digest) (Info, error) {
	var info Info
	if err := chain.Validate(); err != nil {
		return info, err
	}
	data, err := disk.Read(s.path(chain) + "/" + infoName)
	if errors.Is(err, fs.ErrNotExist) {
		return info, errdef.New(errdef.NotFound, "layer %s is not unpacked", chain)
	}
	if err != nil {
		return info, err
	}
	if err := json.Unmarshal(data, &info); err != nil {
		return info, errdef.New(errdef.Corrupt, "cannot read %s of layer %s: %w", infoName, chain, err)
	}
	return info, nil
}

// List returns the chain IDs of all layers.
func (s *Store) List() ([]image.Digest, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var chains []image.Digest
	for _, entry := range entries {
		if chain, ok := chainOf(entry.Name()); ok {
			chains = append(chains, chain)
		}
	}
	return chains, nil
}

// chainOf is the chain ID whose hexadecimal digits name is. The lowest layer's is its diff ID, which may be a sha512.
func chainOf(name string) (image.Digest, bool) {
	for _, algorithm := range [...]string{image.SHA256, image.SHA512} {
		if d, err := image.ParseDigest(algorithm + ":" + name); err == nil {
			return d, true
		}
	}
	return "", false
}

// lock waits for the lock of a layer. It polls because flock(2) cannot be told to stop.
func (s *Store) lock(ctx context.Context, chain image.Digest) (*disk.Lock, error) {
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		lock, err := disk.TryLock(s.lockPath(chain))
		if !errors.Is(err, disk.ErrLocked) {
			return lock, err
		}
		select {
		case <-ctx.Done():
			return nil, errdef.As(errdef.Cancelled, context.Cause(ctx))
		case <-time.After(pause):
		}
	}
}

// unlock removes the lock's file while it is held, so that nobody can hold a lock on a file without a name.
func (s *Store) unlock(chain image.Digest, lock *disk.Lock) error {
	err := os.Remove(s.lockPath(chain))
	lock.Unlock()
	return err
}

// Remove removes a layer; one that is not here is no error. Nobody may have it mounted.
func (s *Store) Remove(ctx context.Context, chain image.Digest) error {
	if err := chain.Validate(); err != nil {
		return err
	}
	lock, err := s.lock(ctx, chain)
	if err != nil {
		return fmt.Errorf("cannot remove layer %s: %w", chain, err)
	}
	err = s.clear(chain)
	if err == nil {
		// First the name, so that a half-removed layer is never taken for a whole one.
		err = os.Rename(s.path(chain), s.temporary(chain))
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	}
	if err == nil {
		err = s.clear(chain)
	}
	if err = errors.Join(err, s.unlock(chain, lock)); err != nil {
		return fmt.Errorf("cannot remove layer %s: %w", chain, err)
	}
	return nil
}

// clear removes what is left of a layer in the making or being removed. Its lock is held.
func (s *Store) clear(chain image.Digest) error { return removeAll(s.temporary(chain)) }

// removeAll is os.RemoveAll for trees whose directories may be closed to their owner, who is not root.
func removeAll(path string) error {
	err := os.RemoveAll(path)
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	_ = filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if d != nil && d.IsDir() { // called again with the error if it cannot be read
			_ = os.Chmod(p, 0o700)
		}
		return nil
	})
	return os.RemoveAll(path)
}

// DropBases removes what containers of the storage driver btrfs are snapshots of; the next one has it made again.
func (s *Store) DropBases() error {
	chains, err := s.List()
	errs := []error{err}
	for _, chain := range chains {
		errs = append(errs, storage.DropBase(s.Path(chain)))
	}
	return errors.Join(errs...)
}

// Sweep removes what processes that died left behind: layers half made or half removed.
func (s *Store) Sweep() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var errs []error
	for _, entry := range entries {
		name, ok := strings.CutPrefix(entry.Name(), disk.TemporaryPrefix)
		if !ok {
			name, ok = strings.CutPrefix(entry.Name(), lockPrefix)
		}
		chain, isChain := chainOf(name)
		if !ok && isChain {
			errs = append(errs, storage.SweepBase(s.Path(chain)))
		}
		if !ok || !isChain {
			continue
		}
		lock, err := disk.TryLock(s.lockPath(chain))
		if errors.Is(err, disk.ErrLocked) {
			continue // somebody is at work
		}
		if err == nil {
			err = errors.Join(s.clear(chain), s.unlock(chain, lock))
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
