package registry

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/url"
	"slices"
	"time"

	"berth/internal/errdef"
	"berth/internal/image"
	"berth/internal/image/reference"
)

// smallDeadline is how long one answer may take that is held in memory.
func (c *Client) smallDeadline() time.Duration { return 4 * c.opt.StallTimeout }

// request asks for something in a repository.
type request struct {
	method string
	ref    reference.Reference
	path   string // behind /v2/REPOSITORY/
	header http.Header
	what   string // for messages
	access access
	query  url.Values
	body   []byte
	expect []int // statuses that are no failure; none means 200 and 206
}

// bytesBody gives data as often as it is to be sent.
func bytesBody(data []byte) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
}

// admitted carries out x, which asks the registry itself, logging in if need be.
func (c *Client) admitted(ctx context.Context, h *host, s *session, x exchange, what string, expect []int) (answer, error) {
	if expect == nil {
		expect = []int{http.StatusOK, http.StatusPartialContent}
	}
	authorization, err := s.current(ctx, c, h)
	if err != nil {
		return answer{}, err
	}
	// Two answers to challenges: a token may have expired early, and the next one is then new.
	for challenged := 0; ; challenged++ {
		x.authorization = authorization
		resp, err := c.send(ctx, h, x)
		if err != nil {
			return answer{}, err
		}
		switch {
		case slices.Contains(expect, resp.StatusCode):
			return resp, nil
		case resp.StatusCode == http.StatusUnauthorized && resp.home && challenged < 2:
			found, err := s.answer(ctx, c, h, parseChallenges(resp.Header.Values("WWW-Authenticate")), authorization)
			if err != nil {
				_ = resp.Body.Close()
				return answer{}, err
			}
			if found != "" && found != authorization {
				_ = resp.Body.Close()
				authorization = found
				continue
			}
		}
		return answer{}, failure(h, resp, what)
	}
}

// accept lists what we can read. Schema 1 is not among it, but old registries give it anyway.
func accept() []string {
	return []string{image.MediaTypeIndex, image.MediaTypeDockerList, image.MediaTypeManifest, image.MediaTypeDockerManifest}
}

// manifestRequest asks for the manifest that target, a tag or a digest, names.
func manifestRequest(method string, ref reference.Reference, target string) request {
	return request{method: method, ref: ref, path: "manifests/" + target, header: http.Header{"Accept": accept()}, what: "manifest " + target + " in " + ref.Repository()}
}

// Resolve finds the manifest or index that ref names. What is returned is verified against the digests of ref and of
// the registry. NotFound, Denied, Unavailable, Unsupported and Corrupt say what went wrong.
func (c *Client) Resolve(ctx context.Context, ref reference.Reference) (image.Descriptor, []byte, error) {
	target := ref.Tag
	if ref.Digest != "" {
		target = string(ref.Digest)
	}
	raw, header, err := c.small(ctx, manifestRequest(http.MethodGet, ref, target), image.MaxManifest)
	if err != nil {
		return image.Descriptor{}, nil, err
	}
	desc := image.Descriptor{Size: int64(len(raw)), Digest: ref.Digest}
	if desc.Digest == "" {
		desc.Digest = image.DigestOf(raw)
	} else if err := desc.Digest.Verify(raw); err != nil {
		return image.Descriptor{}, nil, errdef.As(errdef.Corrupt, err)
	}
	if claimed := header.Get("Docker-Content-Digest"); claimed != "" {
		d, err := image.ParseDigest(claimed)
		if err == nil {
			err = d.Verify(raw)
		}
		if err != nil {
			return image.Descriptor{}, nil, errdef.New(errdef.Corrupt, "%s sends another manifest than it announces: %w", ref.Domain, err)
		}
	}
	desc.MediaType, err = image.MediaTypeOf(raw, header.Get("Content-Type"))
	if err != nil {
		return image.Descriptor{}, nil, err
	}
	return desc, raw, nil
}

// Head asks what ref names without fetching it, which registries do not count as a pull. The digest is the
// registry's word and verified by nothing: good for "is what I have still current?" and for no more.
func (c *Client) Head(ctx context.Context, ref reference.Reference) (image.Digest, error) {
	target := ref.Tag
	if ref.Digest != "" {
		target = string(ref.Digest)
	}
	var d image.Digest
	err := c.retry(ctx, func() error {
		ctx, cancel := context.WithTimeoutCause(ctx, c.smallDeadline(), errSlow)
		defer cancel()
		resp, _, err := c.once(ctx, manifestRequest(http.MethodHead, ref, target))
		if err != nil {
			return err
		}
		_ = resp.Body.Close()
		if d, err = image.ParseDigest(resp.Header.Get("Docker-Content-Digest")); err != nil {
			return errdef.New(errdef.Corrupt, "%s does not say the digest of %s", ref.Domain, target)
		}
		return nil
	})
	return d, err
}

// Manifest fetches the manifest or index desc, one that an index names, and verifies it.
func (c *Client) Manifest(ctx context.Context, ref reference.Reference, desc image.Descriptor) ([]byte, error) {
	if err := desc.Digest.Validate(); err != nil {
		return nil, err
	}
	if desc.Size < 0 || desc.Size > image.MaxManifest {
		return nil, errdef.New(errdef.Invalid, "manifest %s has %d bytes; at most %d are read", desc.Digest, desc.Size, image.MaxManifest)
	}
	raw, header, err := c.small(ctx, manifestRequest(http.MethodGet, ref, string(desc.Digest)), desc.Size)
	if err != nil {
		return nil, err
	}
	if int64(len(raw)) != desc.Size {
		return nil, errdef.New(errdef.Corrupt, "manifest %s has %d bytes, not the announced %d", desc.Digest, len(raw), desc.Size)
	}
	if err := desc.Digest.Verify(raw); err != nil {
		return nil, errdef.As(errdef.Corrupt, err)
	}
	said, err := image.MediaTypeOf(raw, header.Get("Content-Type"))
	if err != nil {
		return nil, err
	}
	if desc.MediaType != "" && said != desc.MediaType {
		return nil, errdef.New(errdef.Corrupt, "manifest %s is called %.100q and is %.100q", desc.Digest, desc.MediaType, said)
	}
	return raw, nil
}

// small fetches what is held in memory: at most limit bytes.
func (c *Client) small(ctx context.Context, r request, limit int64) (data []byte, header http.Header, err error) {
	err = c.retry(ctx, func() error {
		ctx, cancel := context.WithTimeoutCause(ctx, c.smallDeadline(), errSlow)
		defer cancel()
		resp, h, err := c.once(ctx, r)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		data, err = io.ReadAll(io.LimitReader(resp.Body, limit+1))
		if err != nil {
			return broken(ctx, h.address, err)
		}
		if int64(len(data)) > limit {
			return errdef.New(errdef.Corrupt, "%s sends more than %d bytes as %s", h.address, limit, r.what)
		}
		header = resp.Header
		return nil
	})
	return data, header, err
}
