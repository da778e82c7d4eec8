package unpack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"berth/internal/image"
	"berth/internal/image/content"
	"berth/internal/image/layer"
)

// Commit makes a layer on top of parent of the upper directory of an overlay that nobody uses any more. The directory itself becomes the
// layer's tree: it is gone afterwards. The blob is not written: its digest is taken of what it would be, and a recipe, first written beside the
// directory, says how it is made. All is durable (one syncfs) before the layer has its name, which is when an image that needs it gets its own
// (store.Put). Until then a power cut may take the layer away, as a whole. The caller holds content.HoldAdditions.
func Commit(ctx context.Context, blobs *content.Store, layers *layer.Store, parent image.Digest, dir string, opt DiffOptions) (_ image.Descriptor, err error) {
	var none image.Descriptor
	upper, err := os.Open(dir)
	if err != nil {
		return none, err
	}
	defer upper.Close()
	var size int64
	opt.Size = &size
	recipe := filepath.Join(filepath.Dir(dir), "recipe")
	desc, err := diffTo(ctx, upper, recipe, opt)
	if err != nil {
		return none, err
	}
	st, err := layers.Begin(ctx, parent, desc.Digest)
	if err != nil {
		return none, err
	}
	if st == nil { // it is there, but perhaps without its blob
		if blobs.Has(desc.Digest) {
			return desc, nil
		}
		return desc, layers.TakeRecipe(image.ChainID(parent, desc.Digest), recipe)
	}
	if err = st.Adopt(dir, recipe); err == nil {
		info := layer.Info{Size: size, Driver: layer.DriverOverlay, Created: time.Now().UTC()}
		err = layers.PublishContents(layer.Finished{Staging: st, Info: info})
	}
	if err != nil {
		return none, errors.Join(fmt.Errorf("cannot store the layer %s: %w", desc.Digest, err), st.Abort())
	}
	return desc, nil
}

// diffTo takes the digest of a layer's tar, and writes how it is made.
func diffTo(ctx context.Context, upper *os.File, recipe string, opt DiffOptions) (d image.Descriptor, err error) {
	f, err := os.OpenFile(recipe, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return d, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	opt.Recipe = layer.NewRecipe(f)
	digester := image.NewDigester(image.SHA256)
	behind := newBehind(digester)
	err = Diff(ctx, upper, behind, opt)
	behind.wait()
	if err == nil {
		err = opt.Recipe.Close()
	}
	return image.Descriptor{MediaType: image.MediaTypeLayer, Digest: digester.Digest(), Size: digester.Size()}, err
}

// behind hands what is written to a writer in a goroutine of its own, a few pieces later: a digest is taken while the next files are read.
type behind struct {
	full, free chan []byte
	ended      chan struct{}
}

func newBehind(to *image.Digester) *behind {
	b := &behind{make(chan []byte, behindPieces), make(chan []byte, behindPieces), make(chan struct{})}
	for range behindPieces {
		b.free <- nil
	}
	go func() {
		defer close(b.ended)
		for piece := range b.full {
			_, _ = to.Write(piece) // a digest takes everything
			b.free <- piece
		}
	}()
	return b
}

const behindPieces = 4

func (b *behind) Write(p []byte) (int, error) {
	piece := append((<-b.free)[:0], p...)
	b.full <- piece
	return len(p), nil
}

// wait ends the writing.
func (b *behind) wait() {
	close(b.full)
	<-b.ended
}
