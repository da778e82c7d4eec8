package unpack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"berth/internal/image"
	"berth/internal/image/content"
	"berth/internal/image/layer"
)

// Commit makes a layer on top of parent of the upper directory of an overlay that nobody uses any more. Its tar becomes a blob, and the
// directory itself the layer's tree: it is gone afterwards. The caller holds content.HoldAdditions.
func Commit(ctx context.Context, blobs *content.Store, layers *layer.Store, parent image.Digest, dir string, opt DiffOptions) (image.Descriptor, error) {
	upper, err := os.Open(dir)
	if err != nil {
		return image.Descriptor{}, err
	}
	defer upper.Close()
	var size int64
	opt.Size = &size
	r, w := io.Pipe()
	go func() { _ = w.CloseWithError(Diff(ctx, upper, w, opt)) }()
	desc, err := blobs.PutReader(r, image.MediaTypeLayer)
	_ = r.CloseWithError(err)
	if err != nil {
		return desc, err
	}
	st, err := layers.Begin(ctx, parent, desc.Digest)
	if err != nil || st == nil {
		return desc, err
	}
	if err = st.Adopt(dir); err == nil {
		err = layers.Publish(layer.Finished{Staging: st, Info: layer.Info{Size: size, Driver: layer.DriverOverlay, Created: time.Now().UTC()}})
	}
	if err != nil {
		return desc, errors.Join(fmt.Errorf("cannot store the layer %s: %w", desc.Digest, err), st.Abort())
	}
	return desc, nil
}
