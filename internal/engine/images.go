package engine

import (
	"context"

	"berth/internal/image/store"
)

// Uses are the containers' claims on images.
func (e *Engine) Uses() ([]store.Use, error) {
	all, err := e.Containers.List()
	if err != nil {
		return nil, err
	}
	var uses []store.Use
	for _, c := range all {
		uses = append(uses, store.Use{
			Container: c.ID, Image: c.Image.ID, Chain: c.Image.ChainIDs, Running: e.Containers.Monitored(c.ID),
		})
	}
	return uses, nil
}

// RemoveImage takes an image's name, and what nothing else needs.
func (e *Engine) RemoveImage(ctx context.Context, ref string, force bool) (store.Removed, error) {
	uses, err := e.Uses()
	if err != nil {
		return store.Removed{}, err
	}
	return e.Images.Remove(ctx, ref, force, uses, store.RootsOf(uses))
}
