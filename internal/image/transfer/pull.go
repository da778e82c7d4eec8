// Package transfer carries images between registries and the local stores. Pull is the story of a pull:
//
//	resolve the name -> index -> the platform's manifest -> config
//	every layer, several at a time:
//	    registry -> ingest file (continued where an earlier try ended) -> verified blob
//	                    └-> unpacked from that file while it still grows
//	manifest and index into the store -> name
//
// The network never waits for the unpacking, as the file is between them: nothing that arrived is lost when we are
// killed, and memory is bounded whatever a layer's size. A layer's reader meets the end of the file only after the
// blob was verified. Nothing has a name before all of it is there.
//
// Push is the way back (see there).
//
// The package does not speak to registries itself, does not read tar, knows no layout of layers and prints nothing
// but what a Renderer is told: it reports Events. A *fetch* is one blob on its way; several layers may share one. A
// pull holds the content's lock against the sweep all the time, and each of its fetches one ingest lock.
package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"

	"berth/internal/errdef"
	"berth/internal/image"
	"berth/internal/image/content"
	"berth/internal/image/reference"
	"berth/internal/image/registry"
)

// Layers knows which layers are unpacked. A stack of layers is known by its chain ID.
type Layers interface{ Has(chain image.Digest) bool }

// Unpack makes sure that all layers of an image are unpacked, and verifies their diff IDs. It calls open for each layer
// that is not, several at a time if it likes; open waits until the layer's blob begins to arrive, and closing what it
// returns says that the layer is unpacked. An error of these readers is a reason to give up and to leave nothing.
type Unpack func(ctx context.Context, m image.Manifest, config image.Image, open func(ctx context.Context, layer int) (io.ReadCloser, error)) error

// Names is where images have their names.
type Names interface {
	// Digest returns what a name means, or errdef.NotFound.
	Digest(name string) (image.Digest, error)
	// Put makes name mean the manifest or index desc, of which manifest is the one for this pull's platform.
	Put(ctx context.Context, name string, desc, manifest image.Descriptor) error
}

// Options of Pull. All but Platform, Parallel and Progress must be set.
type Options struct {
	Registry *registry.Client
	Content  *content.Store
	Layers   Layers
	Unpack   Unpack
	Names    Names

	// Kept reports whether the blob of an unpacked layer need not be fetched, here or not; nil asks Content.
	Kept func(chain, diffID, blob image.Digest) bool
	// Platform is what was asked for; nil means the host's, and an image that has no other will do.
	Platform *image.Platform
	// Parallel is how many layers are fetched at a time; 0 means DefaultParallel.
	Parallel int
	// Progress gets what happens, one event at a time; nil means that nobody wants to know.
	Progress func(Event)
}

// DefaultParallel is docker's max-concurrent-downloads.
const DefaultParallel = 3

// Result is what a pull found.
type Result struct {
	Digest image.Digest // of what the name means: docker's RepoDigest
	ID     image.Digest // of the config: docker's image ID
	Newer  bool         // the name meant something else before, or nothing
}

// pull is one pull.
type pull struct {
	opt    Options
	ref    reference.Reference
	events *events
}

// Pull fetches, unpacks and names the image ref.
func Pull(ctx context.Context, ref reference.Reference, opt Options) (Result, error) {
	if opt.Parallel <= 0 {
		opt.Parallel = DefaultParallel
	}
	if opt.Kept == nil {
		opt.Kept = func(_, _, blob image.Digest) bool { return opt.Content.Has(blob) }
	}
	p := &pull{opt: opt, ref: ref, events: &events{to: opt.Progress}}
	p.opt.Registry = opt.Registry.Notify(p.events.notice)
	result, err := p.run(ctx)
	if err != nil {
		return Result{}, fmt.Errorf("cannot pull %s: %w", ref.Familiar(), err)
	}
	return result, nil
}

func (p *pull) run(ctx context.Context) (Result, error) {
	release, err := p.opt.Content.HoldAdditions(ctx)
	if err != nil {
		return Result{}, err
	}
	defer release()

	p.events.emit(Event{State: Resolving})
	before, err := p.opt.Names.Digest(p.ref.String())
	if err != nil && !errdef.Is(err, errdef.NotFound) {
		return Result{}, err
	}
	top, err := p.resolve(ctx, before)
	if err != nil {
		return Result{}, err
	}
	documents, manifest, err := p.choose(ctx, top)
	if err != nil {
		return Result{}, err
	}
	config, err := p.config(ctx, manifest)
	if err != nil {
		return Result{}, err
	}

	err = p.layers(ctx, manifest, config)
	if errors.Is(err, errStale) {
		// Bytes that an earlier try left were not what they should be. They are gone now.
		p.events.notice("what an earlier pull had left of a layer is damaged; fetching it again")
		err = p.layers(ctx, manifest, config)
	}
	if err != nil {
		return Result{}, err
	}
	for _, d := range documents {
		if err := p.opt.Content.Put(d.desc, d.raw); err != nil {
			return Result{}, err
		}
	}
	if err := p.opt.Names.Put(ctx, p.ref.String(), top.desc, documents[len(documents)-1].desc); err != nil {
		return Result{}, err
	}
	return Result{Digest: top.desc.Digest, ID: manifest.Config.Digest, Newer: top.desc.Digest != before}, nil
}

// Blob fetches one blob of the repository of ref into the content, unless it is there.
func Blob(ctx context.Context, client *registry.Client, to *content.Store, ref reference.Reference, desc image.Descriptor) error {
	p := &pull{opt: Options{Registry: client, Content: to}, ref: ref, events: &events{}}
	for try := 0; ; try++ {
		f := newFetch(desc)
		err := f.run(ctx, p)
		f.close()
		if try > 0 || !errors.Is(err, errStale) {
			return err
		}
	}
}

// document is a manifest or an index.
type document struct {
	desc image.Descriptor
	raw  []byte
}

// resolve finds what the name means. What is here already is not fetched again: asking for a digest alone does not
// count as a pull where registries count.
func (p *pull) resolve(ctx context.Context, before image.Digest) (document, error) {
	d := p.ref.Digest
	if d == "" && before != "" {
		now, err := p.opt.Registry.Head(ctx, p.ref)
		switch {
		case errdef.Is(err, errdef.Unavailable):
			return document{}, err
		case err == nil && now == before:
			d = now
		}
	}
	if d != "" {
		if found, ok := p.local(d); ok {
			return found, nil
		}
	}
	desc, raw, err := p.opt.Registry.Resolve(ctx, p.ref)
	return document{desc, raw}, err
}

func (p *pull) local(d image.Digest) (document, bool) {
	raw, err := p.opt.Content.ReadAll(d, image.MaxManifest)
	if err != nil {
		return document{}, false
	}
	mediaType, err := image.MediaTypeOf(raw, "")
	return document{image.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(raw))}, raw}, err == nil
}

// choose goes from top through indexes to the manifest for the platform. It returns the documents on the way, the
// manifest's last.
func (p *pull) choose(ctx context.Context, top document) ([]document, image.Manifest, error) {
	want := image.HostPlatform()
	if p.opt.Platform != nil {
		want = *p.opt.Platform
	}
	documents := []document{top}
	at := top
	for depth := 0; image.IsIndex(at.desc.MediaType); depth++ {
		if depth == image.MaxIndexDepth {
			return nil, image.Manifest{}, errdef.New(errdef.Invalid, "indexes are nested more than %d deep", image.MaxIndexDepth)
		}
		index, err := image.ParseIndex(at.raw, at.desc.MediaType)
		if err != nil {
			return nil, image.Manifest{}, err
		}
		desc, err := image.Select(index, want)
		if err != nil {
			return nil, image.Manifest{}, err
		}
		if at, err = p.document(ctx, desc); err != nil {
			return nil, image.Manifest{}, err
		}
		documents = append(documents, at)
	}
	manifest, err := image.ParseManifest(at.raw, at.desc.MediaType)
	if err != nil {
		return nil, image.Manifest{}, err
	}
	return documents, manifest, manifest.CheckRunnable()
}

// document gets what an index names.
func (p *pull) document(ctx context.Context, desc image.Descriptor) (document, error) {
	if found, ok := p.local(desc.Digest); ok && found.desc.Size == desc.Size {
		return found, nil
	}
	raw, err := p.opt.Registry.Manifest(ctx, p.ref, desc)
	if err != nil {
		return document{}, err
	}
	mediaType, err := image.MediaTypeOf(raw, desc.MediaType)
	return document{image.Descriptor{MediaType: mediaType, Digest: desc.Digest, Size: desc.Size}, raw}, err
}

// config gets the image's configuration and checks that it belongs to the manifest and the platform.
func (p *pull) config(ctx context.Context, manifest image.Manifest) (image.Image, error) {
	f := newFetch(manifest.Config)
	err := f.run(ctx, p)
	if errors.Is(err, errStale) {
		f = newFetch(manifest.Config)
		err = f.run(ctx, p)
	}
	f.close()
	if err != nil {
		return image.Image{}, err
	}
	raw, err := p.opt.Content.ReadAll(manifest.Config.Digest, image.MaxConfig)
	if err != nil {
		return image.Image{}, err
	}
	config, err := image.ParseConfig(raw)
	if err != nil {
		return image.Image{}, err
	}
	if err := p.checkPlatform(config.Platform); err != nil {
		return image.Image{}, err
	}
	return config, image.CheckLayers(manifest, config)
}

// checkPlatform refuses an image of another platform than was asked for, and says so if none was.
func (p *pull) checkPlatform(have image.Platform) error {
	want := image.HostPlatform()
	if p.opt.Platform != nil {
		want = *p.opt.Platform
	}
	if have.Architecture == "" || have.OS == "" || image.Rank(want, have) >= 0 {
		return nil
	}
	said := registry.OneLine(have.String())
	if p.opt.Platform != nil {
		return errdef.Hint(errdef.New(errdef.NotFound, "no image for platform %s", want), "there is one for %s", said)
	}
	p.events.notice(fmt.Sprintf("the image is for %s and this machine is %s", said, want))
	return nil
}
