package engine

import (
	"context"

	"berth/internal/image"
	"berth/internal/image/store"
)

// ReleaseBlobs lets go of the blobs of an image that has come from a repository, where they are not kept.
func (e *Engine) ReleaseBlobs(ctx context.Context, m image.Manifest, chain []image.Digest, repository string) error {
	return e.Images.Release(ctx, m, chain, func() (store.Roots, error) {
		uses, err := e.Uses()
		if err != nil {
			return store.Roots{}, err
		}
		return e.roots(uses)
	}, repository)
}
