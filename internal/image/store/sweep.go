package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/image"
)

// Roots is what is needed although no name leads to it.
type Roots struct {
	Chains []image.Digest // layers that containers use, with all below them
	Blobs  []image.Digest // of a build cache, for example
}

// RootsOf returns what containers need.
func RootsOf(uses []Use) (roots Roots) {
	for _, use := range uses {
		roots.Chains = append(roots.Chains, use.Chain...)
	}
	return roots
}

// Swept is what a sweep removed.
type Swept struct {
	Blobs  []image.Digest
	Layers []image.Digest
	Bytes  int64 // of blobs and of interrupted downloads, and docker's size of the layers
}

// Sweep removes all blobs and layers that neither a name nor roots lead to. It waits until nobody is adding any
// (content.HoldAdditions), so that it is safe beside a pull. What interrupted pulls left is kept for partialAge.
func (s *Store) Sweep(ctx context.Context, roots Roots, partialAge time.Duration) (Swept, error) {
	release, err := s.Content.HoldSweep(ctx)
	if err != nil {
		return Swept{}, fmt.Errorf("cannot sweep the images: %w", err)
	}
	defer release()
	if err := s.sweepTemporaries(); err != nil {
		return Swept{}, fmt.Errorf("cannot sweep the images: %w", err)
	}
	marks, err := s.mark(roots, nil)
	if err != nil {
		return Swept{}, fmt.Errorf("cannot sweep the images: %w", err)
	}
	return s.sweepMarked(ctx, marks, partialAge)
}

// sweepTemporaries removes half-written names and indexes. Both are written under the lock on names.
func (s *Store) sweepTemporaries() error {
	names, err := s.lock()
	if err != nil {
		return err
	}
	defer names.Unlock()
	return errors.Join(disk.SweepTemporaries(s.dir), disk.SweepTemporaries(s.Content.Dir()))
}

// marks is what is needed.
type marks struct {
	blobs, chains map[image.Digest]bool
	// followed are the documents whose blobs are marked. It is not blobs: a layer of one image may be the manifest
	// of another.
	followed map[image.Digest]bool
}

// Unneeded is a blob or a layer that a sweep would remove.
type Unneeded struct {
	Kind   string // "blob" or "layer"
	Digest image.Digest
	Bytes  int64
}

// Unneeded tells what a sweep would remove if the images that without says were gone. It removes nothing.
func (s *Store) Unneeded(ctx context.Context, roots Roots, without func(Record) bool) ([]Unneeded, error) {
	release, err := s.Content.HoldSweep(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot look at the images: %w", err)
	}
	defer release()
	m, err := s.mark(roots, without)
	if err != nil {
		return nil, fmt.Errorf("cannot look at the images: %w", err)
	}
	chains, err := s.Layers.List()
	if err != nil {
		return nil, err
	}
	var all []Unneeded
	for _, chain := range chains {
		if m.chains[chain] {
			continue
		}
		u := Unneeded{Kind: "layer", Digest: chain}
		if info, err := s.Layers.Info(chain); err == nil {
			u.Bytes = info.Size
		}
		all = append(all, u)
	}
	err = s.Content.Walk(func(d image.Digest, info fs.FileInfo) error {
		if !m.blobs[d] {
			all = append(all, Unneeded{"blob", d, info.Size()})
		}
		return nil
	})
	return all, err
}

// mark follows every name but those of the images that without says; nil says none. A record that cannot be followed stops the sweep: what
// it needs is not known.
func (s *Store) mark(roots Roots, without func(Record) bool) (marks, error) {
	m := marks{map[image.Digest]bool{}, map[image.Digest]bool{}, map[image.Digest]bool{}}
	for _, d := range roots.Blobs {
		m.blobs[d] = true
	}
	for _, chain := range roots.Chains {
		for depth := 0; chain != "" && !m.chains[chain] && depth <= image.MaxLayers; depth++ {
			m.chains[chain] = true
			info, err := s.Layers.Info(chain)
			if errdef.Is(err, errdef.NotFound) {
				break
			}
			if err != nil {
				return m, err
			}
			chain = info.Parent
		}
	}
	all, err := s.List()
	if err != nil {
		return m, err
	}
	for _, r := range all {
		if without != nil && without(r) {
			continue
		}
		for _, d := range [...]image.Descriptor{r.Target, r.Manifest} {
			if err := s.markBlob(&m, d, 0); err != nil {
				return m, fmt.Errorf("image %s: %w", r.fileKey(), err)
			}
		}
	}
	return m, nil
}

// markBlob marks a blob and, if it is a document that names others, these. A blob that is missing or damaged leads
// nowhere, and keeps nothing else from being swept.
func (s *Store) markBlob(m *marks, d image.Descriptor, depth int) error {
	m.blobs[d.Digest] = true
	if depth > image.MaxIndexDepth || m.followed[d.Digest] || !image.IsIndex(d.MediaType) && !image.IsManifest(d.MediaType) {
		return nil
	}
	m.followed[d.Digest] = true
	c, err := s.childrenOf(d)
	if err != nil {
		return err
	}
	for _, entry := range c.documents {
		if err := s.markBlob(m, entry, depth+1); err != nil {
			return err
		}
	}
	for _, b := range c.blobs {
		m.blobs[b] = true
	}
	for i, chain := range c.chains {
		m.chains[chain] = true
		if blob := c.layers[i]; !s.DropBlobs || !s.Layers.HasOrigin(chain, blob) {
			m.blobs[blob] = true
		}
	}
	return nil
}

// childrenOf reads what a document leads to: nothing, if it is missing or damaged. That is not remembered, as somebody may be fetching it.
func (s *Store) childrenOf(d image.Descriptor) (children, error) {
	if s.memory != nil {
		if known, ok := s.memory.documents[d.Digest]; ok {
			return known, nil
		}
	}
	c, whole, err := s.readChildren(d)
	if whole && s.memory != nil {
		s.memory.documents[d.Digest] = c
	}
	if skippable(err) {
		err = nil
	}
	return c, err
}

// readChildren reads as much as there is; whole says that it is all.
func (s *Store) readChildren(d image.Descriptor) (c children, whole bool, err error) {
	data, err := s.Content.ReadAll(d.Digest, image.MaxManifest)
	if err != nil {
		return c, false, err
	}
	if image.IsIndex(d.MediaType) {
		index, err := image.ParseIndex(data, d.MediaType)
		c.documents = index.Manifests
		return c, err == nil, nil
	}
	manifest, err := image.ParseManifest(data, d.MediaType)
	if err != nil {
		return c, false, nil //nolint:nilerr // of no use to anybody, and leads nowhere
	}
	c.blobs = append(c.blobs, manifest.Config.Digest)
	for _, l := range manifest.Layers {
		c.blobs = append(c.blobs, l.Digest)
	}
	if !image.IsConfig(manifest.Config.MediaType) {
		return c, true, nil
	}
	data, err = s.Content.ReadAll(manifest.Config.Digest, image.MaxConfig)
	if err != nil {
		return c, false, err
	}
	config, err := image.ParseConfig(data)
	if err == nil {
		if c.chains = image.ChainIDs(config.RootFS.DiffIDs); len(c.chains) == len(manifest.Layers) {
			c.blobs, c.layers = c.blobs[:1], c.blobs[1:]
		} else {
			c.layers = make([]image.Digest, len(c.chains)) // of no use to anybody
		}
	}
	return c, err == nil, nil
}

// skippable tells damage, with which the image is of no use anyway, from failures that may pass.
func skippable(err error) bool {
	switch errdef.KindOf(err) {
	case errdef.NotFound, errdef.Corrupt, errdef.Invalid:
		return true
	}
	return false
}

// sweepMarked removes what is not marked. The sweep's lock is held.
func (s *Store) sweepMarked(ctx context.Context, m marks, partialAge time.Duration) (Swept, error) {
	var swept Swept
	var errs []error
	chains, err := s.Layers.List()
	errs = append(errs, err)
	for _, chain := range chains {
		if m.chains[chain] {
			continue
		}
		if info, err := s.Layers.Info(chain); err == nil {
			swept.Bytes += info.Size
		}
		if err := s.Layers.Remove(ctx, chain); err != nil {
			errs = append(errs, err)
			continue
		}
		swept.Layers = append(swept.Layers, chain)
	}
	errs = append(errs, s.Layers.Sweep())
	errs = append(errs, s.Content.Walk(func(d image.Digest, info fs.FileInfo) error {
		if m.blobs[d] {
			return nil
		}
		if err := s.Content.Delete(d); err != nil {
			return err
		}
		swept.Blobs = append(swept.Blobs, d)
		swept.Bytes += info.Size()
		return nil
	}))
	freed, err := s.Content.SweepIngest(partialAge)
	swept.Bytes += freed
	if err = errors.Join(append(errs, err)...); err != nil {
		err = fmt.Errorf("cannot sweep the images: %w", err)
	}
	return swept, err
}
