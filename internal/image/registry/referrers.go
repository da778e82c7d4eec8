package registry

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"

	"berth/internal/errdef"
	"berth/internal/image"
	"berth/internal/image/reference"
)

// CosignSuffixes are what cosign appends to the fallback tag of what it signs: signatures, attestations, SBOMs.
var CosignSuffixes = [...]string{".sig", ".att", ".sbom"}

// FallbackTag is where a registry without a list of referrers has it (distribution-spec 1.1, "Referrers Tag Schema").
func FallbackTag(d image.Digest) string {
	const most = 128 // a tag's
	tag := d.Algorithm() + "-" + d.Hex()
	return tag[:min(len(tag), most)]
}

// Referrers are the manifests of the repository of ref that refer to the manifest subject: by the registry's own list or, where it has
// none, by the fallback tag.
func (c *Client) Referrers(ctx context.Context, ref reference.Reference, subject image.Digest) ([]image.Descriptor, error) {
	if err := subject.Validate(); err != nil {
		return nil, err
	}
	raw, _, err := c.small(ctx, request{
		method: http.MethodGet, ref: ref, path: "referrers/" + string(subject), what: "list of what refers to " + string(subject),
		header: http.Header{"Accept": {image.MediaTypeIndex}},
	}, image.MaxManifest)
	if errdef.Is(err, errdef.NotFound) {
		list, _, err := c.fallback(ctx, ref, subject)
		return list.Manifests, err
	}
	if err != nil {
		return nil, err
	}
	index, err := image.ParseIndex(raw, image.MediaTypeIndex)
	return index.Manifests, err
}

// fallback reads the list under the fallback tag; there need not be one.
func (c *Client) fallback(ctx context.Context, ref reference.Reference, subject image.Digest) (index image.Index, found bool, err error) {
	ref.Tag, ref.Digest = FallbackTag(subject), ""
	desc, raw, err := c.Resolve(ctx, ref)
	if errdef.Is(err, errdef.NotFound) {
		return index, false, nil
	}
	if err != nil {
		return index, false, err
	}
	if !image.IsIndex(desc.MediaType) {
		return index, false, nil // somebody's tag of that name
	}
	index, err = image.ParseIndex(raw, desc.MediaType)
	return index, err == nil, err
}

// Refer makes sure that the manifest d, which is in the repository of ref, is found among those that refer to subject. A registry with a
// list of its own has it there by now; in another the fallback tag is changed, which two at a time must not do.
func (c *Client) Refer(ctx context.Context, ref reference.Reference, subject image.Digest, d image.Descriptor) error {
	_, _, err := c.small(ctx, request{
		method: http.MethodGet, ref: ref, path: "referrers/" + string(subject), what: "list of what refers to " + string(subject),
		header: http.Header{"Accept": {image.MediaTypeIndex}}, access: access{push: true},
	}, image.MaxManifest)
	if !errdef.Is(err, errdef.NotFound) {
		return err
	}
	index, found, err := c.fallback(ctx, ref, subject)
	if err != nil {
		return err
	}
	if !found {
		index = image.Index{SchemaVersion: 2, MediaType: image.MediaTypeIndex}
	}
	if slices.ContainsFunc(index.Manifests, func(have image.Descriptor) bool { return have.Digest == d.Digest }) {
		return nil
	}
	index.Manifests = append(index.Manifests, d)
	raw, err := json.Marshal(index)
	if err != nil {
		return err
	}
	desc := image.Descriptor{MediaType: image.MediaTypeIndex, Digest: image.DigestOf(raw), Size: int64(len(raw))}
	return c.PutManifest(ctx, ref, FallbackTag(subject), desc, raw)
}

// DeleteManifest removes a manifest, or what a tag means, from the repository of ref. A registry that deletes nothing is
// errdef.Unsupported.
func (c *Client) DeleteManifest(ctx context.Context, ref reference.Reference, target string) error {
	_, _, err := c.brief(ctx, request{
		method: http.MethodDelete, ref: ref, path: "manifests/" + target, access: access{push: true, remove: true},
		what: "manifest " + target + " in " + ref.Repository(), expect: []int{http.StatusAccepted, http.StatusOK, http.StatusNoContent},
	})
	return err
}
