package transfer

import (
	"context"
	"io"
	"sync"

	"berth/internal/errdef"
	"berth/internal/image"
)

// layers fetches and unpacks all layers. The first failure stops everything and is returned.
func (p *pull) layers(ctx context.Context, m image.Manifest, config image.Image) error {
	fetches, byLayer, err := p.plan(m.Layers, config.RootFS.DiffIDs)
	if err != nil || len(fetches) == 0 {
		return err
	}
	defer func() {
		for _, f := range fetches {
			f.close()
		}
	}()
	crew := newCrew(ctx)
	// In the order of the layers. A fetch waits for no reader, so that nothing can wait in a circle.
	toFetch := queue(fetches)
	for range min(p.opt.Parallel, len(fetches)) {
		crew.start(func(ctx context.Context) error {
			for f := range toFetch {
				if err := f.run(ctx, p); err != nil {
					return err
				}
			}
			return nil
		})
	}
	crew.start(func(ctx context.Context) error {
		return p.opt.Unpack(ctx, m, config, func(open context.Context, layer int) (io.ReadCloser, error) {
			f := byLayer[layer]
			if err := f.started(open); err != nil {
				<-ctx.Done() // so that the reason why all is over is the fetch's, not the unpacking's
				return nil, err
			}
			return p.events.watch(&follower{ctx: ctx, f: f}), nil
		})
	})
	if err := crew.wait(); err != nil {
		return err
	}
	for _, f := range fetches {
		p.events.emit(Event{State: Done, Layer: f.desc.Digest, Done: f.desc.Size, Total: f.desc.Size})
	}
	return nil
}

// plan says what is to be done: the blobs to fetch, each once, and for each layer the one it is in. A layer that is here
// and unpacked is left alone; a blob that is here is "fetched" in no time.
func (p *pull) plan(blobs []image.Descriptor, diffIDs []image.Digest) (fetches []*fetch, byLayer []*fetch, err error) {
	known := map[image.Digest]*fetch{}
	for i, chain := range image.ChainIDs(diffIDs) {
		blob := blobs[i]
		f := known[blob.Digest]
		if f != nil && f.desc.Size != blob.Size {
			return nil, nil, errdef.New(errdef.Invalid, "layer %d: blob %s has two sizes, %d and %d", i, blob.Digest, f.desc.Size, blob.Size)
		}
		if f == nil {
			f = newFetch(blob)
			known[blob.Digest] = f
		}
		byLayer = append(byLayer, f)
		switch {
		case f.planned:
		case p.opt.Layers.Has(chain) && p.opt.Kept(chain, diffIDs[i], blob.Digest):
			p.events.emit(Event{State: Exists, Layer: blob.Digest})
		default:
			f.planned = true
			fetches = append(fetches, f)
			p.events.emit(Event{State: Waiting, Layer: blob.Digest, Total: blob.Size})
		}
	}
	return fetches, byLayer, nil
}

// queue is a channel that gives all and then ends.
func queue[T any](all []T) <-chan T {
	c := make(chan T, len(all))
	for _, one := range all {
		c <- one
	}
	close(c)
	return c
}

// crew is a group of goroutines of which the first failure stops the others.
type crew struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup
	once   sync.Once
	err    error
}

func newCrew(ctx context.Context) *crew {
	c := &crew{}
	c.ctx, c.cancel = context.WithCancelCause(ctx)
	return c
}

func (c *crew) start(f func(context.Context) error) {
	c.wg.Go(func() {
		if err := f(c.ctx); err != nil {
			c.once.Do(func() {
				c.err = err
				c.cancel(err)
			})
		}
	})
}

func (c *crew) wait() error {
	c.wg.Wait()
	c.cancel(nil)
	return c.err
}
