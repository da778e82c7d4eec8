package engine

import (
	"context"
	"errors"
	"time"

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
func (e *Engine) PruneImages(ctx context.Context, all bool, keep func(store.Image) bool) (p PrunedImages, _ error) {
	uses, err := e.Uses()
	if err != nil {
		return p, err
	}
	records, err := e.Images.List()
	if err != nil {
		return p, err
	}
	used, named := map[image.Digest]bool{}, map[image.Digest]bool{}
	for _, u := range uses {
		used[u.Image] = true
	}
	for _, r := range records {
		named[r.ID] = named[r.ID] || r.Name != ""
	}
	errs := e.Images.Together(func() error { return e.pruneRecords(ctx, &p, records, used, named, all, keep) })
	swept, err := e.SweepImages(ctx, partialAge)
	p.Deleted = append(append(p.Deleted, swept.Blobs...), swept.Layers...)
	p.Bytes += swept.Bytes
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
