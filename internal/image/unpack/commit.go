package unpack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"berth/internal/disk"
	"berth/internal/image"
	"berth/internal/image/content"
	"berth/internal/image/layer"
)

// Commit makes a layer on top of parent of the upper directory of an overlay that nobody uses any more. Its tar becomes a blob, and the
// directory itself the layer's tree: it is gone afterwards. Both are made durable by one syncfs(2); their names are when an image that needs
// them gets its own (store.Put). Until then a power cut may take the layer or its blob away, as a whole. The caller holds content.HoldAdditions.
func Commit(ctx context.Context, blobs *content.Store, layers *layer.Store, parent image.Digest, dir string, opt DiffOptions) (_ image.Descriptor, err error) {
	var none image.Descriptor
	upper, err := os.Open(dir)
	if err != nil {
		return none, err
	}
	defer upper.Close()
	var size int64
	opt.Size = &size
	r, w := io.Pipe()
	go func() { _ = w.CloseWithError(Diff(ctx, upper, w, opt)) }()
	blob, err := blobs.Write(r, image.MediaTypeLayer)
	_ = r.CloseWithError(err)
	if err != nil {
		return none, err
	}
	defer func() { err = errors.Join(err, blob.Abort()) }()
	desc := blob.Desc
	st, err := layers.Begin(ctx, parent, desc.Digest)
	if err != nil {
		return none, err
	}
	if st == nil { // it is there, but perhaps its blob is not
		if err := disk.SyncFS(upper); err != nil {
			return none, err
		}
		return desc, blob.Publish()
	}
	if err = st.Adopt(dir); err == nil {
		info := layer.Info{Size: size, Driver: layer.DriverOverlay, Created: time.Now().UTC()}
		err = layers.PublishWith(blob.Publish, layer.Finished{Staging: st, Info: info})
	}
	if err != nil {
		return none, errors.Join(fmt.Errorf("cannot store the layer %s: %w", desc.Digest, err), st.Abort())
	}
	return desc, nil
}
