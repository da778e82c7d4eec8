package engine

import (
	"fmt"

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
