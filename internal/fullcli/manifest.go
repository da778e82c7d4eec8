package fullcli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"berth/internal/cli"
	"berth/internal/errdef"
	"berth/internal/image"
	"berth/internal/image/reference"
	"berth/internal/image/registry"
	"berth/internal/image/store"
)

// remote is a manifest of a registry.
type remote struct {
	desc image.Descriptor
	raw  []byte
}

// entry finds what a manifest list names by the reference text: a manifest of a registry, with the platform that its config says.
func entry(c cli.Call, client *registry.Client, text string) (store.ListEntry, error) {
	fail := func(err error) (store.ListEntry, error) {
		return store.ListEntry{}, fmt.Errorf("cannot use %s in a manifest list: %w", text, err)
	}
	ref, err := reference.Parse(text)
	if err != nil {
		return store.ListEntry{}, err
	}
	desc, raw, err := client.Resolve(c.Context, ref)
	if err != nil {
		return fail(err)
	}
	if image.IsIndex(desc.MediaType) {
		return fail(errdef.New(errdef.Invalid, "%s is a manifest list", text))
	}
	m, err := image.ParseManifest(raw, desc.MediaType)
	if err != nil {
		return fail(err)
	}
	config, err := readBlob(c, client, ref, m.Config, image.MaxConfig)
	if err != nil {
		return fail(err)
	}
	im, err := image.ParseConfig(config)
	if err != nil {
		return fail(err)
	}
	p := im.Platform
	desc.Platform = &p
	return store.ListEntry{Ref: ref.String(), Descriptor: desc}, nil
}

// readBlob reads a small blob and verifies it.
func readBlob(c cli.Call, client *registry.Client, ref reference.Reference, d image.Descriptor, limit int64) ([]byte, error) {
	if d.Size > limit {
		return nil, errdef.New(errdef.Invalid, "blob %s has %d bytes; at most %d are read", d.Digest, d.Size, limit)
	}
	r, err := client.Blob(c.Context, ref, d, 0)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err == nil {
		err = errdef.As(errdef.Corrupt, d.Digest.Verify(data))
	}
	return data, err
}

func manifestCreate(c cli.Call) error {
	list, err := reference.Parse(c.Args[0])
	if err != nil {
		return err
	}
	amend := option(c, "amend") == "true"
	if _, err := c.Engine.Images.ReadList(list); err == nil && !amend {
		return errdef.Hint(errdef.New(errdef.Conflict, "refusing to amend an existing manifest list with no --amend flag"), "berth manifest rm %s", c.Args[0])
	}
	client := newClient(c)
	defer client.Close()
	var found []store.ListEntry
	for _, text := range c.Args[1:] {
		e, err := entry(c, client, text)
		if err != nil {
			return err
		}
		found = append(found, e)
	}
	err = c.Engine.Images.ChangeList(list, func(l *store.List, _ bool) error {
		for _, e := range found {
			l.Entries = slices.DeleteFunc(l.Entries, func(have store.ListEntry) bool { return have.Ref == e.Ref })
			l.Entries = append(l.Entries, e)
		}
		return nil
	})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.Out, "Created manifest list %s\n", list)
	return err
}

func manifestAnnotate(c cli.Call) error {
	list, err := reference.Parse(c.Args[0])
	if err != nil {
		return err
	}
	of, err := reference.Parse(c.Args[1])
	if err != nil {
		return err
	}
	return c.Engine.Images.ChangeList(list, func(l *store.List, exists bool) error {
		i := slices.IndexFunc(l.Entries, func(e store.ListEntry) bool { return e.Ref == of.String() })
		if !exists || i < 0 {
			return errdef.New(errdef.NotFound, "manifest for image %s does not exist in %s", c.Args[1], c.Args[0])
		}
		p := l.Entries[i].Platform
		for _, f := range []struct {
			name string
			at   *string
		}{{"arch", &p.Architecture}, {"os", &p.OS}, {"os-version", &p.OSVersion}, {"variant", &p.Variant}} {
			if v := option(c, f.name); v != "" {
				*f.at = v
			}
		}
		for _, v := range c.Options["os-features"] {
			p.OSFeatures = append(p.OSFeatures, strings.Split(v, ",")...)
		}
		if !p.Known() {
			return errdef.New(errdef.Invalid, "manifest entry for image has unsupported os/arch combination: %s/%s", p.OS, p.Architecture)
		}
		return nil
	})
}

// inspected is what inspect --verbose says of a manifest; the names of its fields are docker's.
type inspected struct {
	Ref              string
	Descriptor       image.Descriptor
	Raw              []byte
	SchemaV2Manifest json.RawMessage `json:",omitempty"`
	OCIManifest      json.RawMessage `json:",omitempty"`
}

func manifestInspect(c cli.Call) error {
	ref, err := reference.Parse(c.Args[0])
	if err != nil {
		return err
	}
	verbose := option(c, "verbose") == "true"
	client := newClient(c)
	defer client.Close()
	list, err := c.Engine.Images.ReadList(ref)
	local := err == nil
	switch {
	case len(c.Args) == 2: // one of a list that is here
		if !local {
			return errdef.New(errdef.NotFound, "No such manifest: %s", c.Args[0])
		}
		of, err := reference.Parse(c.Args[1])
		if err != nil {
			return err
		}
		i := slices.IndexFunc(list.Entries, func(e store.ListEntry) bool { return e.Ref == of.String() })
		if i < 0 {
			return errdef.New(errdef.NotFound, "No such manifest: %s", c.Args[1])
		}
		list.Entries = list.Entries[i : i+1]
		verbose = true
	case !local:
		desc, raw, err := client.Resolve(c.Context, ref)
		if err != nil {
			return fmt.Errorf("no such manifest: %s: %w", c.Args[0], err)
		}
		if !verbose {
			return indented(c.Out, raw)
		}
		if !image.IsIndex(desc.MediaType) {
			e, err := entry(c, client, c.Args[0])
			if err != nil {
				return err
			}
			return printJSON(c.Out, describe(e, remote{desc, raw}))
		}
		index, err := image.ParseIndex(raw, desc.MediaType)
		if err != nil {
			return err
		}
		for _, d := range index.Manifests {
			at := ref
			at.Tag, at.Digest = "", d.Digest
			list.Entries = append(list.Entries, store.ListEntry{Ref: at.String(), Descriptor: d})
		}
	case !verbose:
		return printJSON(c.Out, list.Index())
	}
	var all []inspected
	for _, e := range list.Entries {
		of, err := reference.Parse(e.Ref)
		if err != nil {
			return err
		}
		raw, err := client.Manifest(c.Context, of, e.Descriptor)
		if err != nil {
			return err
		}
		all = append(all, describe(e, remote{e.Descriptor, raw}))
	}
	if len(c.Args) == 2 {
		return printJSON(c.Out, all[0])
	}
	return printJSON(c.Out, all)
}

func describe(e store.ListEntry, r remote) inspected {
	v := inspected{Ref: e.Ref, Descriptor: e.Descriptor, Raw: r.raw}
	if r.desc.MediaType == image.MediaTypeDockerManifest {
		v.SchemaV2Manifest = r.raw
	} else {
		v.OCIManifest = r.raw
	}
	return v
}

func printJSON(w io.Writer, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return indented(w, raw)
}

// indented prints JSON as docker's manifest command does. Within JSON no control character stands as itself.
func indented(w io.Writer, raw []byte) error {
	var b bytes.Buffer
	if err := json.Indent(&b, raw, "", "   "); err != nil {
		return err
	}
	b.WriteByte('\n')
	_, err := b.WriteTo(w)
	return err
}

// manifestPush stores a list in its registry, and before it what it names: mounted or copied from where that is.
func manifestPush(c cli.Call) error {
	ref, err := reference.Parse(c.Args[0])
	if err != nil {
		return err
	}
	list, err := c.Engine.Images.ReadList(ref)
	if err != nil {
		return err
	}
	client := newClient(c)
	defer client.Close()
	for _, e := range list.Entries {
		if err := copyManifest(c, client, e, ref); err != nil {
			return fmt.Errorf("cannot push %s: %w", ref.Familiar(), err)
		}
		fmt.Fprintf(c.Out, "Pushed ref %s@%s with digest: %s\n", ref.Repository(), e.Digest, e.Digest)
	}
	index := list.Index()
	raw, err := json.MarshalIndent(index, "", "   ")
	if err != nil {
		return err
	}
	desc := image.Descriptor{MediaType: index.MediaType, Digest: image.DigestOf(raw), Size: int64(len(raw))}
	if err := client.PutManifest(c.Context, ref, ref.Tag, desc, raw); err != nil {
		return fmt.Errorf("cannot push %s: %w", ref.Familiar(), err)
	}
	c.Engine.NoteImage("push", ref.Familiar(), ref.FamiliarName())
	if option(c, "purge") == "true" {
		if err := c.Engine.Images.RemoveList(ref); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintln(c.Out, desc.Digest)
	return err
}

func copyManifest(c cli.Call, client *registry.Client, e store.ListEntry, to reference.Reference) error {
	from, err := reference.Parse(e.Ref)
	if err != nil {
		return err
	}
	plain := image.Descriptor{MediaType: e.MediaType, Digest: e.Digest, Size: e.Size}
	raw, err := client.Manifest(c.Context, from, plain)
	if err != nil {
		return err
	}
	if from.Repository() == to.Repository() {
		return nil
	}
	m, err := image.ParseManifest(raw, e.MediaType)
	if err != nil {
		return err
	}
	for _, d := range append(m.Layers, m.Config) {
		source := registry.Source{Open: func(offset int64) (io.ReadCloser, error) { return client.Blob(c.Context, from, d, offset) }}
		if from.Domain == to.Domain {
			source.From = []string{from.Path}
		}
		if _, err := client.PutBlob(c.Context, to, d, source); err != nil {
			return err
		}
	}
	return client.PutManifest(c.Context, to, string(e.Digest), plain, raw)
}

func manifestRm(c cli.Call) error {
	for _, text := range c.Args {
		ref, err := reference.Parse(text)
		if err != nil {
			return err
		}
		if err := c.Engine.Images.RemoveList(ref); err != nil {
			return err
		}
	}
	return nil
}
