package engine

import (
	"context"

	"berth/internal/image"
)

// ReleaseBlobs lets go of the blobs of an image that has come from a repository, where they are not kept.
func (e *Engine) ReleaseBlobs(ctx context.Context, m image.Manifest, chain []image.Digest, repository string) error {
	return e.Images.Release(ctx, m, chain, e.NeededNow, repository)
}
