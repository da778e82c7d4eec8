package transfer

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"berth/internal/errdef"
	"berth/internal/image"
	"berth/internal/image/content"
	"berth/internal/image/reference"
	"berth/internal/image/registry"
)

// PushOptions are the options of Push. Registry and Content must be set.
type PushOptions struct {
	Registry *registry.Client
	Content  *content.Store
	// Open gives the bytes of a blob from an offset on, and may fetch it for that; nil gives those of Content.
	Open func(ctx context.Context, d image.Descriptor, offset int64) (io.ReadCloser, error)
	// Has tells in which repositories of a registry the blob may be found, besides the one that is pushed to; nil knows of none.
	Has func(domain string, blob image.Digest) []string
	// Parallel is how many blobs are sent at a time; 0 means DefaultParallelPush.
	Parallel int
	// Progress is as in Options.
	Progress func(Event)
}

// DefaultParallelPush is docker's max-concurrent-uploads.
const DefaultParallelPush = 5

// Pushed is what a push has stored under the name.
type Pushed struct {
	image.Descriptor
	// Instead is the index that the manifest was pushed in the place of, as not all that it names is here.
	Instead image.Digest
}

// push is one push.
type push struct {
	opt    PushOptions
	ref    reference.Reference
	events *events
}

// Push stores in a registry what target, an index or a manifest, stands for, byte for byte, and names it ref. Of an index not all of
// whose manifests are here, or there, the one chosen is pushed alone.
//
//	every blob of every manifest, several at a time: there already | mounted from a neighbour | sent
//	every manifest below target, under its digest
//	target, under the name
func Push(ctx context.Context, ref reference.Reference, target, chosen image.Descriptor, opt PushOptions) (Pushed, error) {
	if opt.Parallel <= 0 {
		opt.Parallel = DefaultParallelPush
	}
	if opt.Open == nil {
		opt.Open = func(_ context.Context, d image.Descriptor, offset int64) (io.ReadCloser, error) {
			return opt.Content.OpenAt(d.Digest, offset)
		}
	}
	p := &push{opt: opt, ref: ref, events: &events{to: opt.Progress}}
	p.opt.Registry = opt.Registry.Notify(p.events.notice)
	pushed, err := p.run(ctx, target, chosen)
	if err != nil {
		return Pushed{}, fmt.Errorf("cannot push %s: %w", ref.Familiar(), err)
	}
	return pushed, nil
}

func (p *push) run(ctx context.Context, target, chosen image.Descriptor) (Pushed, error) {
	// What is being pushed is not swept meanwhile.
	release, err := p.opt.Content.HoldAdditions(ctx)
	if err != nil {
		return Pushed{}, err
	}
	defer release()
	pushed := Pushed{Descriptor: target}
	set, missing, err := Collect(p.opt.Content, target)
	if err != nil {
		return Pushed{}, err
	}
	for i := 0; i < len(missing); i++ {
		there, err := p.opt.Registry.HasManifest(ctx, p.ref, missing[i].Digest)
		if err != nil {
			return Pushed{}, err
		}
		if there {
			missing = slices.Delete(missing, i, i+1)
			i--
		}
	}
	if len(missing) > 0 && chosen.Digest != target.Digest {
		pushed = Pushed{chosen, target.Digest}
		if set, missing, err = Collect(p.opt.Content, chosen); err != nil {
			return Pushed{}, err
		}
	}
	if len(missing) > 0 {
		return Pushed{}, errdef.New(errdef.NotFound, "manifest %s is neither here nor there", missing[0].Digest)
	}
	if err := p.blobs(ctx, set.Blobs); err != nil {
		return Pushed{}, err
	}
	for _, d := range set.Documents { // what others name comes before them
		name := string(d.Desc.Digest)
		if d.Desc.Digest == pushed.Digest && p.ref.Tag != "" && p.ref.Digest == "" {
			name = p.ref.Tag
		}
		if err := p.opt.Registry.PutManifest(ctx, p.ref, name, d.Desc, d.Raw); err != nil {
			return Pushed{}, err
		}
		if d.Desc.Digest == pushed.Digest {
			pushed.Descriptor = d.Desc
		}
	}
	return pushed, nil
}

// Document is a manifest or an index as it is stored.
type Document struct {
	Desc image.Descriptor
	Raw  []byte
}

// Set is all that an index or a manifest consists of, each once.
type Set struct {
	Documents []Document         // those that others name before them
	Blobs     []image.Descriptor // configs and layers
}

// Collect reads what target consists of. missing are the manifests that it names and that are not here.
func Collect(from *content.Store, target image.Descriptor) (set Set, missing []image.Descriptor, err error) {
	seen := map[image.Digest]bool{}
	err = set.collect(from, target, 0, seen, &missing)
	return set, missing, err
}

// maxDocuments is more than an index has reason to name.
const maxDocuments = 10_000

func (s *Set) collect(from *content.Store, d image.Descriptor, depth int, seen map[image.Digest]bool, missing *[]image.Descriptor) error {
	if seen[d.Digest] {
		return nil
	}
	seen[d.Digest] = true
	if depth > image.MaxIndexDepth || len(s.Documents) > maxDocuments {
		return errdef.New(errdef.Invalid, "%s names too many manifests, or too deeply", d.Digest)
	}
	raw, err := from.ReadAll(d.Digest, image.MaxManifest)
	if errdef.Is(err, errdef.NotFound) {
		*missing = append(*missing, d)
		return nil
	}
	if err != nil {
		return err
	}
	mediaType, err := image.MediaTypeOf(raw, d.MediaType)
	if err != nil {
		return err
	}
	doc := Document{image.Descriptor{MediaType: mediaType, Digest: d.Digest, Size: int64(len(raw)), Platform: d.Platform}, raw}
	if image.IsIndex(mediaType) {
		index, err := image.ParseIndex(raw, mediaType)
		if err != nil {
			return err
		}
		for _, entry := range index.Manifests {
			if err := s.collect(from, entry, depth+1, seen, missing); err != nil {
				return err
			}
		}
	} else {
		manifest, err := image.ParseManifest(raw, mediaType)
		if err != nil {
			return err
		}
		for _, blob := range append(slices.Clone(manifest.Layers), manifest.Config) {
			if !seen[blob.Digest] {
				seen[blob.Digest] = true
				s.Blobs = append(s.Blobs, blob)
			}
		}
	}
	s.Documents = append(s.Documents, doc)
	return nil
}

// blobs brings the blobs into the repository. The first error ends all.
func (p *push) blobs(ctx context.Context, blobs []image.Descriptor) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	for _, d := range blobs {
		if !image.IsConfig(d.MediaType) {
			p.events.emit(Event{State: Preparing, Layer: d.Digest, Total: d.Size})
		}
	}
	turns := make(chan struct{}, p.opt.Parallel)
	var all sync.WaitGroup
	for _, d := range blobs {
		all.Go(func() {
			turns <- struct{}{}
			defer func() { <-turns }()
			if ctx.Err() == nil {
				if err := p.blob(ctx, d); err != nil {
					cancel(err)
				}
			}
		})
	}
	all.Wait()
	if cause := context.Cause(ctx); cause != nil {
		if errdef.KindOf(cause) == errdef.Unknown && ctx.Err() != nil && cause == context.Canceled {
			return errdef.As(errdef.Cancelled, cause)
		}
		return cause
	}
	return nil
}

func (p *push) blob(ctx context.Context, d image.Descriptor) error {
	report := func(e Event) {
		if e.Layer, e.Total = d.Digest, d.Size; !image.IsConfig(d.MediaType) {
			p.events.emit(e)
		}
	}
	if foreign(d) && !p.opt.Content.Has(d.Digest) {
		report(Event{State: Skipped})
		return nil
	}
	from := registry.Source{
		Open: func(offset int64) (io.ReadCloser, error) { return p.opt.Open(ctx, d, offset) },
		Sent: func(done int64) { report(Event{State: Pushing, Done: done}) },
	}
	if p.opt.Has != nil {
		from.From = slices.DeleteFunc(p.opt.Has(p.ref.Domain, d.Digest), func(path string) bool { return path == p.ref.Path })
	}
	stored, err := p.opt.Registry.PutBlob(ctx, p.ref, d, from)
	switch {
	case err != nil:
		return err
	case stored.Existed:
		report(Event{State: Present})
	case stored.Mounted != "":
		report(Event{State: Mounted, Text: stored.Mounted})
	default:
		report(Event{State: Sent, Done: d.Size})
	}
	return nil
}

// foreign tells a layer that must not be given to registries (docker's foreign layers, OCI's non-distributable ones).
func foreign(d image.Descriptor) bool {
	return strings.Contains(d.MediaType, ".foreign.") || strings.Contains(d.MediaType, "nondistributable")
}
