package engine

import (
	"context"
	"errors"
	"slices"
	"time"

	"berth/internal/event"
	"berth/internal/image"
	"berth/internal/image/store"
)

// partialAge is how old what an interrupted pull has left must be to be removed: until then the next pull goes on with it.
const partialAge = 24 * time.Hour

// PrunedImages are what PruneImages has removed.
type PrunedImages struct {
	Untagged []string
	Deleted  []image.Digest // images, layers and blobs
	Bytes    int64
}

// PruneImages removes the images that no container uses and that have no name, or with all even those that have one, but for those that keep names; and
// what is left of images that nothing needs.
func (e *Engine) PruneImages(ctx context.Context, pruning *Pruning, all bool, keep func(store.Image) bool) (p PrunedImages, _ error) {
	uses, err := e.Uses()
	if err != nil {
		return p, err
	}
	records, err := e.Images.List()
	if err != nil {
		return p, err
	}
	used, named := map[image.Digest]bool{}, map[image.Digest]bool{}
	needed := map[image.Digest]bool{} // layers that others have, too
	for _, u := range uses {
		if pruning.without([]string{u.Container}) {
			continue
		}
		used[u.Image] = true
		for _, chain := range u.Chain {
			needed[chain] = true
		}
	}
	for _, r := range records {
		named[r.ID] = named[r.ID] || r.Name != ""
	}
	if pruning.Dry {
		return e.unusedImages(records, needed, func(r store.Record, im store.Image) bool {
			return used[r.ID] || named[r.ID] && !all || keep(im)
		}), nil
	}
	errs := e.Images.Together(func() error { return e.pruneRecords(ctx, &p, records, used, named, all, keep) })
	swept, err := e.SweepImages(ctx, partialAge)
	p.Deleted = append(append(p.Deleted, swept.Blobs...), swept.Layers...)
	p.Bytes += swept.Bytes
	e.NotePrune(event.Image, p.Bytes)
	return p, errors.Join(errs, err)
}

func (e *Engine) pruneRecords(ctx context.Context, p *PrunedImages, records []store.Record, used, named map[image.Digest]bool, all bool, keep func(store.Image) bool) (errs error) {
	for _, r := range records {
		if used[r.ID] || named[r.ID] && !all {
			continue
		}
		used[r.ID] = true // once
		im, err := e.Images.Load(r)
		if err == nil && keep(im) {
			continue
		}
		sizes := map[image.Digest]int64{}
		for _, chain := range im.Chain {
			if info, err := e.Images.Layers.Info(chain); err == nil {
				sizes[chain] = info.Size
			}
		}
		removed, err := e.RemoveImage(ctx, string(r.ID), nil, true)
		errs = errors.Join(errs, err)
		p.Untagged, p.Deleted = append(p.Untagged, removed.Untagged...), append(p.Deleted, removed.Deleted...)
		for _, d := range removed.Deleted {
			p.Bytes += sizes[d]
		}
	}
	return errs
}

// Pruning is how unused things are removed.
type Pruning struct {
	// Dry says what would go, and removes nothing.
	Dry  bool
	gone []string // the containers that would go: what they use is unused
}

// without reports whether nothing but containers that would go is among users.
func (p *Pruning) without(users []string) bool {
	return !slices.ContainsFunc(users, func(id string) bool { return !slices.Contains(p.gone, id) })
}

// unusedImages says what would go of images that are not to be kept; needed are the layers of containers.
func (e *Engine) unusedImages(records []store.Record, needed map[image.Digest]bool, keep func(store.Record, store.Image) bool) (p PrunedImages) {
	var chains []image.Digest
	for _, r := range records {
		im, err := e.Images.Load(r)
		if err != nil || keep(r, im) {
			for _, chain := range im.Chain {
				needed[chain] = true
			}
			continue
		}
		if name, ok := r.Reference(); ok {
			p.Untagged = append(p.Untagged, name.Familiar())
		}
		if !slices.Contains(p.Deleted, r.ID) {
			p.Deleted = append(p.Deleted, r.ID)
		}
		chains = append(chains, im.Chain...)
	}
	for _, chain := range chains {
		if info, err := e.Images.Layers.Info(chain); err == nil && !needed[chain] {
			needed[chain] = true // once
			p.Bytes += info.Size
		}
	}
	return p
}
