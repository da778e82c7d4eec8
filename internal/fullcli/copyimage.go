package fullcli

import (
	"fmt"
	"os"
	"strings"

	"berth/internal/cli"
	"berth/internal/errdef"
	"berth/internal/image"
	"berth/internal/image/policy"
	"berth/internal/image/reference"
	"berth/internal/image/registry"
	"berth/internal/image/relay"
)

// copyImage copies an image from one place to another.
func copyImage(c cli.Call) error {
	want, err := platform(c)
	if err != nil {
		return err
	}
	allowed, err := policy.Read(policy.Files(os.Getenv))
	if err != nil {
		return err
	}
	client := newClient(c)
	defer client.Close()
	opt := relay.Options{
		Registry: client, Policy: allowed, Platform: want, All: option(c, "all") == "true", Referrers: option(c, "referrers") == "true",
	}
	if opt.All && want != nil {
		return errdef.New(errdef.Invalid, "--all and --platform exclude each other")
	}
	quiet := option(c, "quiet") == "true"
	if !quiet {
		opt.Progress = func(what string, d image.Descriptor) { fmt.Fprintf(c.Out, "%s: %s copied\n", d.Digest.Short(), what) }
	}
	done, err := relay.Copy(c.Context, c.Args[0], c.Args[1], opt)
	if err != nil {
		return err
	}
	if quiet {
		return nil
	}
	_, err = fmt.Fprintf(c.Out, "Digest: %s\n", done.Digest)
	return err
}

// remoteReference reads an argument that means an image of a registry; "docker://" may stand before it.
func remoteReference(text string) (reference.Reference, error) {
	return reference.Parse(strings.TrimPrefix(text, "docker://"))
}

// listReferrers shows what refers to an image of a registry.
func listReferrers(c cli.Call) error {
	ref, err := remoteReference(c.Args[0])
	if err != nil {
		return err
	}
	client := newClient(c)
	defer client.Close()
	fail := func(err error) error { return fmt.Errorf("cannot list what refers to %s: %w", ref.Familiar(), err) }
	top, raw, err := client.Resolve(c.Context, ref)
	if err != nil {
		return fail(err)
	}
	subjects := []image.Descriptor{top}
	if image.IsIndex(top.MediaType) {
		index, err := image.ParseIndex(raw, top.MediaType)
		if err != nil {
			return fail(err)
		}
		subjects = append(subjects, index.Manifests...)
	}
	var rows [][]string
	for _, s := range subjects {
		if kind := s.Annotations["vnd.docker.reference.type"]; kind != "" { // a builder's attestation, inside the index
			rows = append(rows, []string{kind, string(s.Digest), cli.HumanSize(s.Size), "index, of " + image.Digest(s.Annotations["vnd.docker.reference.digest"]).Short()})
			continue
		}
		list, err := client.Referrers(c.Context, ref, s.Digest)
		if err != nil {
			return fail(err)
		}
		for _, d := range list {
			rows = append(rows, []string{d.ArtifactType, string(d.Digest), cli.HumanSize(d.Size), "referrer, of " + s.Digest.Short()})
		}
		for _, suffix := range registry.CosignSuffixes {
			tag := ref
			tag.Tag, tag.Digest = registry.FallbackTag(s.Digest)+suffix, ""
			d, err := client.Head(c.Context, tag)
			if errdef.Is(err, errdef.NotFound) {
				continue
			}
			if err != nil {
				return fail(err)
			}
			rows = append(rows, []string{"cosign " + suffix[1:], string(d), "", "tag, of " + s.Digest.Short()})
		}
	}
	return cli.Table(c.Out, []string{"TYPE", "DIGEST", "SIZE", "FOUND AS"}, rows)
}

// listTags lists the tags of a repository of a registry.
func listTags(c cli.Call) error {
	ref, err := remoteReference(c.Args[0])
	if err != nil {
		return err
	}
	client := newClient(c)
	defer client.Close()
	tags, err := client.Tags(c.Context, ref)
	if err != nil {
		return fmt.Errorf("cannot list the tags of %s: %w", ref.FamiliarName(), err)
	}
	for _, tag := range tags {
		fmt.Fprintln(c.Out, cli.Visible(tag))
	}
	return nil
}

// deleteImage removes a manifest from a registry, and so every tag that means it.
func deleteImage(c cli.Call) error {
	ref, err := remoteReference(c.Args[0])
	if err != nil {
		return err
	}
	client := newClient(c)
	defer client.Close()
	fail := func(err error) error {
		return fmt.Errorf("cannot delete %s from its registry: %w", ref.Familiar(), err)
	}
	d := ref.Digest
	if d == "" {
		if d, err = client.Head(c.Context, ref); err != nil {
			return fail(err)
		}
	}
	if err := client.DeleteManifest(c.Context, ref, string(d)); err != nil {
		return fail(err)
	}
	_, err = fmt.Fprintf(c.Out, "Deleted: %s\n", d)
	return err
}
