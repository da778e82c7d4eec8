package store

import (
	"context"
	"errors"
	"os"
	"slices"

	"berth/internal/errdef"
	"berth/internal/image"
	"berth/internal/image/layer"
)

// Kept reports whether the blob of an unpacked layer is here, or is not to be because it can be fetched again.
func (s *Store) Kept(chain, blob image.Digest) bool {
	return s.Content.Has(blob) || s.Layers.HasOrigin(chain, blob)
}

// Release says that the layers of an image have come from a repository, and, where blobs are not kept (DropBlobs), deletes those of its blobs that
// nothing else needs. While somebody is adding to the content they are left to the next sweep.
func (s *Store) Release(ctx context.Context, m image.Manifest, chain []image.Digest, roots func() (Roots, error), repository string) error {
	if !s.DropBlobs {
		return nil
	}
	for i, l := range m.Layers {
		err := s.Layers.AddOrigin(chain[i], layer.Origin{Blob: l.Digest, Repository: repository})
		if err != nil && !errdef.Is(err, errdef.NotFound) { // removed meanwhile
			return err
		}
	}
	release, free, err := s.Content.TryHoldSweep()
	if err != nil || !free {
		return err
	}
	defer release()
	needed, err := roots()
	if err != nil {
		return err
	}
	marks, err := s.mark(needed, nil)
	if err != nil {
		return err
	}
	var errs []error
	for _, l := range m.Layers {
		if !marks.blobs[l.Digest] && s.Content.Has(l.Digest) {
			errs = append(errs, s.Content.Delete(l.Digest))
		}
	}
	return errors.Join(append(errs, ctx.Err())...)
}

// Blob opens a blob. One that is not kept is fetched again from where it came; it then stays until the next sweep.
func (s *Store) Blob(ctx context.Context, d image.Descriptor) (*os.File, error) {
	f, err := s.Content.Open(d.Digest)
	if s.Fetch == nil || !errdef.Is(err, errdef.NotFound) {
		return f, err
	}
	origins, listErr := s.Layers.Origins()
	if listErr != nil || len(origins[d.Digest]) == 0 {
		return nil, errors.Join(err, listErr)
	}
	for _, repository := range slices.Backward(origins[d.Digest]) {
		if err = s.Fetch(ctx, repository, d); err == nil {
			f, err = s.Content.Open(d.Digest)
		}
		if err == nil {
			return f, nil
		}
		err = errdef.New(errdef.KindOf(err), "blob %s is not kept here, and cannot be fetched again from %s: %w", d.Digest, repository, err)
	}
	return nil, errdef.Hint(err, "with keep-blobs = true the next pull keeps what it fetches")
}
