package fullcli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"berth/internal/cli"
	"berth/internal/errdef"
	"berth/internal/image"
	"berth/internal/image/reference"
	"berth/internal/image/registry"
	"berth/internal/image/store"
	"berth/internal/image/transfer"
	"berth/internal/image/unpack"
)

// wanted reads the argument of pull and push. Without a tag it is the default one, which is said, unless all are asked for.
func wanted(c cli.Call) (ref reference.Reference, all bool, err error) {
	if ref, err = reference.Parse(c.Args[0]); err != nil {
		return ref, false, err
	}
	all = option(c, "all-tags") == "true"
	named := ref.Digest == "" && !strings.HasSuffix(c.Args[0], ":"+ref.Tag)
	switch {
	case all && !named:
		return ref, all, errdef.New(errdef.Invalid, "tag can't be used with --all-tags/-a")
	case named && !all && option(c, "quiet") != "true":
		fmt.Fprintf(c.Out, "Using default tag: %s\n", reference.DefaultTag)
	}
	return ref, all, nil
}

func pull(c cli.Call) error {
	ref, all, err := wanted(c)
	if err != nil {
		return err
	}
	want, err := platform(c)
	if err != nil {
		return err
	}
	client := newClient(c)
	defer client.Close()
	refs := []reference.Reference{ref}
	if all {
		tags, err := client.Tags(c.Context, ref)
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
		if err := pullOne(c, client, one, want); err != nil {
			return err
		}
	}
	if all && option(c, "quiet") == "true" {
		_, err = fmt.Fprintln(c.Out, ref.Repository())
	}
	return err
}

func pullOne(c cli.Call, client *registry.Client, ref reference.Reference, want *image.Platform) error {
	images := c.Engine.Images
	opt := transfer.Options{
		Registry: client, Content: images.Content, Layers: images.Layers, Names: names{images}, Platform: want,
		Unpack: func(ctx context.Context, m image.Manifest, config image.Image, open func(context.Context, int) (io.ReadCloser, error)) error {
			return unpack.Image(ctx, open, images.Layers, m, config, unpackOptions())
		},
	}
	quiet := option(c, "quiet") == "true"
	show := transfer.NewRenderer(c.Out, terminalSize(c.Out))
	if !quiet {
		opt.Progress = show.Event
		show.Begin(ref)
	}
	result, err := transfer.Pull(c.Context, ref, opt)
	if err != nil {
		if !quiet {
			show.Fail()
		}
		return err
	}
	c.Engine.NoteImage("pull", ref.Familiar(), ref.FamiliarName())
	if !quiet {
		show.End(ref, result)
		fmt.Fprintln(c.Out, ref)
	} else if option(c, "all-tags") != "true" {
		_, err = fmt.Fprintln(c.Out, ref)
	}
	return err
}

func push(c cli.Call) error {
	ref, all, err := wanted(c)
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
	quiet := option(c, "quiet") == "true"
	show := transfer.NewRenderer(c.Out, terminalSize(c.Out))
	if !quiet {
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
	opt := transfer.PushOptions{Registry: client, Content: c.Engine.Images.Content, Has: neighbours(c.Engine.Images, records)}
	if !quiet {
		opt.Progress = show.Event
	}
	for _, r := range chosen {
		name, _ := r.Reference()
		target, manifest := r.Target, r.Manifest
		if want != nil {
			if manifest, err = c.Engine.Images.For(r, *want); err != nil {
				return fmt.Errorf("cannot push %s: %w", name.Familiar(), err)
			}
			target = manifest
		}
		pushed, err := transfer.Push(c.Context, name, target, manifest, opt)
		if err != nil {
			show.Fail()
			return err
		}
		c.Engine.NoteImage("push", name.Familiar(), name.FamiliarName())
		if quiet {
			continue
		}
		show.EndPush(name, pushed)
		if pushed.Instead != "" {
			fmt.Fprintf(c.Err, "\n i Info → Not all multiplatform-content is present and only the available single-platform image was pushed\n          %s -> %s\n", pushed.Instead, pushed.Digest)
		}
	}
	if quiet {
		text := ref.String()
		if all {
			text = ref.Repository()
		}
		_, err = fmt.Fprintln(c.Out, text)
	}
	return err
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
	for _, r := range records {
		ref, ok := r.Reference()
		if !ok {
			continue
		}
		set, _, err := transfer.Collect(s.Content, r.Target)
		if err != nil {
			continue // it can be pushed from nowhere, then
		}
		of := have[ref.Domain]
		if of == nil {
			of = map[image.Digest][]string{}
			have[ref.Domain] = of
		}
		for _, b := range set.Blobs {
			if list := of[b.Digest]; len(list) < maxNeighbours && !slices.Contains(list, ref.Path) {
				of[b.Digest] = append(list, ref.Path)
			}
		}
	}
	return have
}
