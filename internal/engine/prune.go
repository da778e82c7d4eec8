package engine

import (
	"context"
	"errors"
	"slices"
	"time"

	"berth/internal/errdef"
	"berth/internal/event"
	"berth/internal/image"
	"berth/internal/image/store"
)

// partialAge is how old what an interrupted pull has left must be to be removed: until then the next pull goes on with it.
const partialAge = 24 * time.Hour

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

// usesLeft are the uses of images by those who stay.
func (e *Engine) usesLeft(pruning *Pruning) ([]store.Use, error) {
	uses, err := e.Uses()
	return slices.DeleteFunc(uses, func(u store.Use) bool { return pruning.without([]string{u.Container}) }), err
}

// PrunedImages are what PruneImages has removed.
type PrunedImages struct {
	Untagged []string
	Deleted  []image.Digest // images, layers and blobs
	Bytes    int64
}

// PruneImages removes the images that no container uses and that have no name, or with all even those that have one, but for those that keep names; and
// what is left of images that nothing needs.
func (e *Engine) PruneImages(ctx context.Context, pruning *Pruning, all bool, keep func(store.Image) bool) (p PrunedImages, _ error) {
	if pruning.Dry {
		fates, err := e.ImageFates(ctx, pruning, all, keep)
		return goneBy(fates), err
	}
	uses, err := e.usesLeft(pruning)
	if err != nil {
		return p, err
	}
	records, err := e.Images.List()
	if err != nil {
		return p, err
	}
	// First the names, then in one sweep all that they alone have led to.
	errs := e.Images.RemoveTogether(ctx, nil, func() error { return e.pruneRecords(ctx, &p, e.decide(records, uses, all, keep)) })
	swept, err := e.SweepImages(ctx, partialAge)
	for _, d := range append(swept.Layers, swept.Blobs...) {
		if !slices.Contains(p.Deleted, d) { // an image's ID is that of a blob
			p.Deleted = append(p.Deleted, d)
		}
	}
	p.Bytes += swept.Bytes
	e.NotePrune(event.Image, p.Bytes)
	return p, errors.Join(errs, err)
}

func (e *Engine) pruneRecords(ctx context.Context, p *PrunedImages, fates []Fate) (errs error) {
	for _, f := range fates {
		if f.Kept || slices.Contains(p.Deleted, f.record.ID) { // which has gone with all its names
			continue
		}
		gone, err := e.RemoveImage(ctx, string(f.record.ID), nil, true)
		if !errdef.Is(err, errdef.NotFound) { // somebody was quicker
			errs = errors.Join(errs, err)
		}
		p.Untagged = append(p.Untagged, gone.Untagged...)
		if len(gone.Deleted) > 0 {
			p.Deleted = append(p.Deleted, f.record.ID)
		}
	}
	return errs
}

// Fate is what becomes of something that belongs to images when they are pruned, and why.
type Fate struct {
	Kind   string // "image", "layer", "blob"
	Name   string
	Kept   bool
	Reason string
	Bytes  int64

	record store.Record // of an image
	digest image.Digest // of anything else
}

// ImageFates tells what PruneImages would do now, and changes nothing. Bytes are those that are seen to go: what images share is the layers'.
func (e *Engine) ImageFates(ctx context.Context, pruning *Pruning, all bool, keep func(store.Image) bool) ([]Fate, error) {
	uses, err := e.usesLeft(pruning)
	if err != nil {
		return nil, err
	}
	records, err := e.Images.List()
	if err != nil {
		return nil, err
	}
	fates := e.decide(records, uses, all, keep)
	gone := map[image.Digest]bool{}
	for _, f := range fates {
		gone[f.record.ID] = !f.Kept
	}
	roots, err := e.roots(uses)
	if err != nil {
		return nil, err
	}
	unneeded, err := e.Images.Unneeded(ctx, roots, func(r store.Record) bool { return gone[r.ID] })
	if err != nil {
		return nil, err
	}
	for _, u := range unneeded {
		fates = append(fates, Fate{Kind: u.Kind, Name: string(u.Digest), Reason: "no image, no container and no cache of builds needs it", Bytes: u.Bytes, digest: u.Digest})
	}
	return fates, nil
}

// decide says of each image whether a prune keeps it. It is the only place that does.
func (e *Engine) decide(records []store.Record, uses []store.Use, all bool, keep func(store.Image) bool) (fates []Fate) {
	for _, r := range records {
		f := Fate{Kind: "image", Name: nameOf(r), record: r}
		im, err := e.Images.Load(r)
		if err == nil {
			f.Bytes = ImageSize(e.Images, im.Chain)
		}
		f.Kept, f.Reason = fate(r, records, uses, all, err == nil && keep(im))
		fates = append(fates, f)
	}
	return fates
}

// fate decides about one image; filtered says that a filter leaves it out.
func fate(r store.Record, records []store.Record, uses []store.Use, all, filtered bool) (kept bool, reason string) {
	if i := slices.IndexFunc(uses, func(u store.Use) bool { return u.Image == r.ID }); i >= 0 {
		return true, uses[i].Owner() + " uses it"
	}
	named := slices.IndexFunc(records, func(o store.Record) bool { return o.ID == r.ID && o.Name != "" })
	switch {
	case named >= 0 && !all && r.Name != "":
		return true, "it has a name, and --all was not given"
	case named >= 0 && !all:
		return true, "it has the name " + nameOf(records[named])
	case filtered:
		return true, "a filter leaves it out"
	case named < 0:
		return false, "no container uses it, and it has no name"
	}
	return false, "no container uses it"
}

// goneBy is what is removed when fates come true.
func goneBy(fates []Fate) (p PrunedImages) {
	for _, f := range fates {
		if f.Kept {
			continue
		}
		d := f.digest
		if f.Kind == "image" { // whose bytes are its layers' and blobs'
			d = f.record.ID
			if name, ok := f.record.Reference(); ok {
				p.Untagged = append(p.Untagged, name.Familiar())
				if name.Digest == "" { // which goes with the image
					p.Untagged = append(p.Untagged, name.FamiliarName()+"@"+string(f.record.Target.Digest))
				}
			}
		} else {
			p.Bytes += f.Bytes
		}
		if !slices.Contains(p.Deleted, d) {
			p.Deleted = append(p.Deleted, d)
		}
	}
	return p
}

func nameOf(r store.Record) string {
	if ref, ok := r.Reference(); ok {
		return ref.Familiar()
	}
	return r.ID.Short()
}
