package build

import (
	"context"

	"berth/internal/image"
	"berth/internal/image/archive"
)

// Ways of packing the layers of an image.
const (
	Uncompressed = archive.Uncompressed
	Gzip         = archive.Gzip
	Zstd         = archive.Zstd
)

// compression is how the layers of the image are to be packed: as they are in the store, unless it is sent somewhere.
func (s *session) compression() (how string, force bool) {
	for _, o := range s.Outputs {
		switch {
		case o.Compression != "":
			how, force = o.Compression, o.Force
		case o.Push && how == "":
			how = Gzip
		}
	}
	return how, force
}

// compressed packs layers as the image is to have them.
func (s *session) compressed(ctx context.Context, layers []image.Descriptor) ([]image.Descriptor, error) {
	how, force := s.compression()
	if how == "" {
		return layers, nil
	}
	return archive.Compress(ctx, s.engine.Images, layers, how, force)
}
