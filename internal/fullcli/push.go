package fullcli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"

	"berth/internal/cli"
	"berth/internal/errdef"
	"berth/internal/image"
	"berth/internal/image/archive"
	"berth/internal/image/policy"
	"berth/internal/image/reference"
	"berth/internal/image/registry"
	"berth/internal/image/store"
	"berth/internal/image/transfer"
	"berth/internal/image/unpack"
)

// wanted reads an argument of pull and push. Without a tag it is the default one, which is said, unless all are asked for.
func wanted(c cli.Call, text string, show *transfer.Renderer) (ref reference.Reference, all bool, err error) {
	if ref, err = reference.Parse(text); err != nil {
		return ref, false, err
	}
	all = option(c, "all-tags") == "true"
	named := ref.Digest == "" && !strings.HasSuffix(text, ":"+ref.Tag)
	switch {
	case all && !named:
		return ref, all, errdef.New(errdef.Invalid, "tag can't be used with --all-tags/-a")
	case named && !all && show != nil:
		show.Say("Using default tag: " + reference.DefaultTag)
	}
	return ref, all, nil
}

// renderer shows what goes on as --progress asks; nil where nothing is to be shown.
func renderer(c cli.Call) (*transfer.Renderer, error) {
	if option(c, "quiet") == "true" {
		return nil, nil
	}
	switch kind := option(c, "progress"); kind {
	case "", "auto", "tty":
		return transfer.NewRenderer(c.Out, terminalSize(c.Out)), nil
	case "plain":
		return transfer.NewRenderer(c.Out, nil), nil
	case "json":
		return transfer.NewJSONRenderer(c.Out), nil
	default:
		return nil, errdef.New(errdef.Invalid, "--progress %q is none of auto, plain, json", kind)
	}
}

func pull(c cli.Call) error {
	want, err := platform(c)
	if err != nil {
		return err
	}
	show, err := renderer(c)
	if err != nil {
		return err
	}
	allowed, err := policy.Read(policy.Files(os.Getenv))
	if err != nil {
		return err
	}
	client := newClient(c)
	defer client.Close()
	p := pulling{c, client, allowed, want, show}
	var errs []error
	for _, text := range c.Args {
		err := pullNamed(p, text)
		if errors.Is(c.Context.Err(), context.Canceled) {
			return err
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// pulling is what the images of one command have in common.
type pulling struct {
	cli.Call
	client  *registry.Client
	allowed policy.Policy
	want    *image.Platform
	show    *transfer.Renderer
}

// pullNamed pulls what an argument stands for.
func pullNamed(p pulling, text string) error {
	ref, all, err := wanted(p.Call, text, p.show)
	if err != nil {
		return err
	}
	refs := []reference.Reference{ref}
	if all {
		tags, err := p.client.Tags(p.Context, ref)
		if err != nil {
			return fmt.Errorf("cannot pull all of %s: %w", ref.FamiliarName(), err)
		}
		refs = nil
		for _, tag := range tags {
			one, err := reference.Parse(ref.Repository() + ":" + tag)
			if err != nil {
				return errdef.New(errdef.Corrupt, "cannot pull all of %s: the registry lists the tag %.200q", ref.FamiliarName(), tag)
			}
			refs = append(refs, one)
		}
	}
	for _, one := range refs {
		if err := pullOne(p, one); err != nil {
			return err
		}
	}
	switch {
	case p.show == nil && all:
		_, err = fmt.Fprintln(p.Out, ref.Repository())
	case p.show == nil:
		_, err = fmt.Fprintln(p.Out, ref)
	}
	return err
}

func pullOne(p pulling, ref reference.Reference) error {
	if err := p.allowed.Registry(ref); err != nil {
		return fmt.Errorf("cannot pull %s: %w", ref.Familiar(), err)
	}
	images := p.Engine.Images
	opt := transfer.Options{
		Registry: p.client, Content: images.Content, Layers: images.Layers, Names: names{images}, Platform: p.want,
		Kept: kept(images),
		Unpack: func(ctx context.Context, m image.Manifest, config image.Image, open func(context.Context, int) (io.ReadCloser, error)) error {
			return unpack.Image(ctx, open, images.Layers, m, config, unpackOptions())
		},
	}
	if p.show != nil {
		opt.Progress = p.show.Event
		p.show.Begin(ref)
	}
	result, err := transfer.Pull(p.Context, ref, opt)
	if err != nil {
		if p.show != nil {
			p.show.Fail()
		}
		return err
	}
	if images.DropBlobs {
		if err := letGo(p, ref, result.Digest); err != nil {
			return fmt.Errorf("cannot let go of the blobs of %s: %w", ref.Familiar(), err)
		}
	}
	p.Engine.NoteImage("pull", ref.Familiar(), ref.FamiliarName())
	if p.show != nil {
		p.show.End(ref, result)
		p.show.Say(ref.String())
	}
	return nil
}

func push(c cli.Call) error {
	show, err := renderer(c)
	if err != nil {
		return err
	}
	ref, all, err := wanted(c, c.Args[0], show)
	if err != nil {
		return err
	}
	want, err := platform(c)
	if err != nil {
		return err
	}
	records, err := c.Engine.Images.List()
	if err != nil {
		return err
	}
	var chosen []store.Record
	for _, r := range records {
		if name, ok := r.Reference(); ok && name.Repository() == ref.Repository() && name.Tag != "" && (all || name == ref) {
			chosen = append(chosen, r)
		}
	}
	if show != nil {
		show.BeginPush(ref)
	}
	switch {
	case len(chosen) == 0 && all:
		return errdef.New(errdef.NotFound, "An image does not exist locally with the tag: %s", ref.FamiliarName())
	case len(chosen) == 0:
		return errdef.Hint(errdef.New(errdef.NotFound, "An image does not exist locally with the tag: %s", ref.Familiar()),
			"give it that name with \"berth tag IMAGE %s\"", ref.Familiar())
	}
	client := newClient(c)
	defer client.Close()
	opt := transfer.PushOptions{Registry: client, Content: c.Engine.Images.Content, Has: neighbours(c.Engine.Images, records), Open: c.Engine.Images.Blob}
	c.Engine.Images.Fetch = fetchFrom(c, client)
	if show != nil {
		opt.Progress = show.Event
	}
	for _, r := range chosen {
		name, _ := r.Reference()
		if r, err = archive.Packed(c.Context, c.Engine.Images, r, c.Engine.NeededNow); err != nil {
			return fmt.Errorf("cannot push %s: %w", name.Familiar(), err)
		}
		target, manifest := r.Target, r.Manifest
		if want != nil {
			if manifest, err = c.Engine.Images.For(r, *want); err != nil {
				return fmt.Errorf("cannot push %s: %w", name.Familiar(), err)
			}
			target = manifest
		}
		pushed, err := transfer.Push(c.Context, name, target, manifest, opt)
		if err != nil {
			if show != nil {
				show.Fail()
			}
			return err
		}
		c.Engine.NoteImage("push", name.Familiar(), name.FamiliarName())
		if show == nil {
			continue
		}
		show.EndPush(name, pushed)
		if pushed.Instead != "" {
			fmt.Fprintf(c.Err, "\n i Info → Not all multiplatform-content is present and only the available single-platform image was pushed\n          %s -> %s\n", pushed.Instead, pushed.Digest)
		}
	}
	if show == nil {
		text := ref.String()
		if all {
			text = ref.Repository()
		}
		_, err = fmt.Fprintln(c.Out, text)
	}
	return err
}

// letGo lets go of the blobs of an image that was pulled, unless its name means another one by now.
func letGo(p pulling, ref reference.Reference, pulled image.Digest) error {
	r, err := p.Engine.Images.Find(ref.String())
	if errdef.Is(err, errdef.NotFound) || err == nil && r.Target.Digest != pulled {
		return nil
	}
	if err != nil {
		return err
	}
	im, err := p.Engine.Images.Load(r)
	if err != nil {
		return err
	}
	return p.Engine.ReleaseBlobs(p.Context, im.Manifest, im.Chain, ref.Repository())
}

// kept says which blobs a pull need not fetch; nil is those that are here.
func kept(images *store.Store) func(chain, diffID, blob image.Digest) bool {
	if !images.DropBlobs {
		return nil
	}
	return images.Kept
}

// fetchFrom gets blobs again that are not kept.
func fetchFrom(c cli.Call, client *registry.Client) func(context.Context, string, image.Descriptor) error {
	return func(ctx context.Context, repository string, d image.Descriptor) error {
		ref, err := reference.Parse(repository)
		if err != nil {
			return err
		}
		return transfer.Blob(ctx, client, c.Engine.Images.Content, ref, d)
	}
}

// maxNeighbours is how many repositories are asked for a blob before it is sent.
const maxNeighbours = 3

// neighbours finds the repositories of a registry whose images, as they are known here, have a blob. It looks when it is first asked.
func neighbours(s *store.Store, records []store.Record) func(string, image.Digest) []string {
	look := sync.OnceValue(func() map[string]map[image.Digest][]string { return repositories(s, records) })
	return func(domain string, d image.Digest) []string { return slices.Clone(look()[domain][d]) }
}

// repositories are those that have a blob, by their registry and its digest.
func repositories(s *store.Store, records []store.Record) map[string]map[image.Digest][]string {
	have := map[string]map[image.Digest][]string{}
	add := func(domain, path string, d image.Digest) {
		of := have[domain]
		if of == nil {
			of = map[image.Digest][]string{}
			have[domain] = of
		}
		if list := of[d]; len(list) < maxNeighbours && !slices.Contains(list, path) {
			of[d] = append(list, path)
		}
	}
	if origins, err := s.Layers.Origins(); err == nil { // what is not kept is there for certain
		for d, repositories := range origins {
			for _, repository := range repositories {
				if ref, err := reference.Parse(repository); err == nil {
					add(ref.Domain, ref.Path, d)
				}
			}
		}
	}
	for _, r := range records {
		ref, ok := r.Reference()
		if !ok {
			continue
		}
		set, _, err := transfer.Collect(s.Content, r.Target)
		if err != nil {
			continue // it can be pushed from nowhere, then
		}
		for _, b := range set.Blobs {
			add(ref.Domain, ref.Path, b.Digest)
		}
	}
	return have
}
