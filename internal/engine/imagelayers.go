package engine

import (
	"context"
	"fmt"
	"slices"

	"berth/internal/image"
	"berth/internal/image/merged"
	"berth/internal/image/store"
)

// LayerChanges is what one layer of an image makes of those below it.
type LayerChanges struct {
	Digest                  image.Digest // of its blob
	Blob, Bytes             int64        // of the blob, and of its files
	Added, Changed, Removed int          // paths
	Wasted                  int64        // bytes of lower layers' files that are seen no more
	CreatedBy               string
	Changes                 []merged.Change
}

// LayersOf tells what each layer of an image does, the lowest first.
func (e *Engine) LayersOf(im store.Image) ([]LayerChanges, error) {
	var by []string
	for _, h := range im.Config.History {
		if !h.EmptyLayer {
			by = append(by, h.CreatedBy)
		}
	}
	var all []LayerChanges
	for i, chain := range im.Chain {
		info, err := e.Images.Layers.Info(chain)
		if err != nil {
			return nil, err
		}
		l := LayerChanges{Digest: im.Manifest.Layers[i].Digest, Blob: im.Manifest.Layers[i].Size, Bytes: info.Size}
		if i < len(by) {
			l.CreatedBy = by[i]
		}
		below, err := e.Images.Layers.Stack(im.Chain[:i])
		if err != nil {
			return nil, err
		}
		if l.Changes, err = merged.Changes(e.Images.Layers.Path(chain), below); err != nil {
			return nil, fmt.Errorf("cannot compare layer %s with those below: %w", l.Digest, err)
		}
		for _, c := range l.Changes {
			switch c.Kind {
			case merged.Added:
				l.Added++
			case merged.Changed:
				l.Changed++
			case merged.Deleted:
				l.Removed++
			}
			l.Wasted += c.Was
		}
		all = append(all, l)
	}
	return all, nil
}

// Fate is what becomes of something that belongs to images when they are pruned, and why.
type Fate struct {
	Kind   string // "image", "layer", "blob"
	Name   string
	Kept   bool
	Reason string
	Bytes  int64
}

// ImageFates tells what PruneImages would do now, and changes nothing. Bytes are those that are seen to go: what images share is the layers'.
func (e *Engine) ImageFates(ctx context.Context, all bool, keep func(store.Image) bool) ([]Fate, error) {
	uses, err := e.Uses()
	if err != nil {
		return nil, err
	}
	records, err := e.Images.List()
	if err != nil {
		return nil, err
	}
	var fates []Fate
	gone := map[image.Digest]bool{}
	for _, r := range records {
		f := Fate{Kind: "image", Name: nameOf(r)}
		f.Kept, f.Reason = e.fate(r, records, uses, all, keep)
		if im, err := e.Images.Load(r); err == nil {
			f.Bytes = ImageSize(e.Images, im.Chain)
		}
		gone[r.ID] = !f.Kept
		fates = append(fates, f)
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
		fates = append(fates, Fate{Kind: u.Kind, Name: string(u.Digest), Reason: "no image, no container and no cache of builds needs it", Bytes: u.Bytes})
	}
	return fates, nil
}

// fate decides about one image.
func (e *Engine) fate(r store.Record, records []store.Record, uses []store.Use, all bool, keep func(store.Image) bool) (kept bool, reason string) {
	if i := slices.IndexFunc(uses, func(u store.Use) bool { return u.Image == r.ID }); i >= 0 {
		return true, uses[i].Owner() + " uses it"
	}
	named := slices.IndexFunc(records, func(o store.Record) bool { return o.ID == r.ID && o.Name != "" })
	switch {
	case named >= 0 && !all && r.Name != "":
		return true, "it has a name, and --all was not given"
	case named >= 0 && !all:
		return true, "it has the name " + nameOf(records[named])
	}
	if im, err := e.Images.Load(r); err == nil && keep(im) {
		return true, "a filter leaves it out"
	}
	if named < 0 {
		return false, "no container uses it, and it has no name"
	}
	return false, "no container uses it"
}

func nameOf(r store.Record) string {
	if ref, ok := r.Reference(); ok {
		return ref.Familiar()
	}
	return r.ID.Short()
}
