package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"berth/internal/errdef"
	"berth/internal/image"
	"berth/internal/image/reference"
)

// Sizes of uploads. A blob of up to wholeBytes is sent by one PUT (distribution-spec, "POST then PUT"), a larger one by chunks, of
// which at most one is sent again when a connection breaks.
const (
	wholeBytes = 32 << 20
	chunkBytes = 32 << 20
	maxChunk   = 1 << 30 // what a registry may ask for as the least
)

// Source is where the bytes of a blob come from that is pushed.
type Source struct {
	// Open gives the bytes from offset on. It may be called several times.
	Open func(offset int64) (io.ReadCloser, error)
	// From are other repositories of the registry that have the blob, if they still do.
	From []string
	// Sent is told how many bytes have been sent; nil tells nobody. A broken connection takes some back.
	Sent func(done int64)
}

// Stored says how a blob came into a repository.
type Stored struct {
	Existed bool   // it was there
	Mounted string // the repository that it was mounted from
}

// HasBlob reports whether the repository of ref has the blob, asked as one who is going to push.
func (c *Client) HasBlob(ctx context.Context, ref reference.Reference, d image.Digest) (bool, error) {
	return c.has(ctx, request{method: http.MethodHead, ref: ref, path: "blobs/" + string(d), what: "blob " + string(d), access: access{push: true}})
}

// HasManifest is HasBlob for a manifest or an index.
func (c *Client) HasManifest(ctx context.Context, ref reference.Reference, d image.Digest) (bool, error) {
	r := manifestRequest(http.MethodHead, ref, string(d))
	r.access.push = true
	return c.has(ctx, r)
}

func (c *Client) has(ctx context.Context, r request) (bool, error) {
	_, _, err := c.brief(ctx, r)
	if errdef.Is(err, errdef.NotFound) {
		return false, nil
	}
	return err == nil, err
}

// brief carries out a request whose answer's body says nothing.
func (c *Client) brief(ctx context.Context, r request) (resp answer, h *host, err error) {
	err = c.retry(ctx, func() error {
		ctx, cancel := context.WithTimeoutCause(ctx, c.smallDeadline(), errSlow)
		defer cancel()
		if resp, h, err = c.once(ctx, r); err != nil {
			return err
		}
		return resp.Body.Close()
	})
	return resp, h, err
}

// PutBlob makes sure that the repository of ref has the blob desc: it asks, has it mounted from another repository, or sends it.
func (c *Client) PutBlob(ctx context.Context, ref reference.Reference, desc image.Descriptor, from Source) (Stored, error) {
	if err := desc.Digest.Validate(); err != nil {
		return Stored{}, err
	}
	if found, err := c.HasBlob(ctx, ref, desc.Digest); found || err != nil {
		return Stored{Existed: found}, err
	}
	for _, other := range from.From {
		// One that is not mounted has begun an upload, which the registry forgets: the one below has its own scope.
		q := url.Values{"mount": {string(desc.Digest)}, "from": {other}}
		resp, _, err := c.brief(ctx, request{
			method: http.MethodPost, ref: ref, path: "blobs/uploads/", query: q, access: access{push: true, from: other},
			what: "an upload to " + ref.Repository(), expect: []int{http.StatusCreated, http.StatusAccepted},
		})
		if err == nil && resp.StatusCode == http.StatusCreated {
			return Stored{Mounted: other}, nil
		}
		if errdef.Is(err, errdef.Cancelled) {
			return Stored{}, err
		}
	}
	u := &upload{c: c, ctx: ctx, ref: ref, desc: desc, from: from}
	return Stored{}, u.run()
}

// upload is one blob on its way to a registry.
type upload struct {
	c    *Client
	ctx  context.Context
	ref  reference.Reference
	desc image.Descriptor
	from Source

	h        *host
	session  *session
	at       *url.URL // where the next bytes go; the registry says so with every answer; nil before it has begun
	home     bool     // at is the registry's own word, and itself
	chunk    int64    // the most that goes in one request
	done     int64    // bytes that the registry has, as far as is known
	doubt    bool     // a request has failed: it may have more
	refused  bool     // the registry takes no chunks
	finished bool
	begun    int
}

func (u *upload) what() string { return "blob " + string(u.desc.Digest) + " for " + u.ref.Repository() }

// run sends the blob, step by step. A step that fails for a while is tried again, from where the registry says that it has got to.
func (u *upload) run() error {
	u.chunk = chunkBytes
	for !u.finished {
		if err := u.c.retry(u.ctx, u.step); err != nil {
			return err
		}
	}
	return nil
}

func (u *upload) step() (err error) {
	if u.doubt {
		if err := u.resume(); err != nil {
			return err
		}
	}
	if u.at == nil {
		if u.begun++; u.begun > maxTries {
			return errdef.New(errdef.Unavailable, "%s has forgotten %d uploads of blob %s", u.ref.Domain, maxTries, u.desc.Digest)
		}
		if err := u.begin(); err != nil {
			return err
		}
	}
	switch {
	case u.desc.Size <= wholeBytes || u.refused:
		if err := u.put(u.desc.Size); err != nil {
			u.at = nil // what a PUT leaves that was half sent differs from registry to registry
			return err
		}
		u.finished = true
	case u.done < u.desc.Size:
		before := u.done
		if err := u.patch(); err != nil {
			u.doubt = true
			return err
		}
		if !u.refused && u.done <= before {
			return errdef.New(errdef.Corrupt, "%s was sent blob %s from byte %d on and says that it has %d bytes", u.h.address, u.desc.Digest, before, u.done)
		}
	default:
		if err := u.put(0); err != nil {
			u.doubt = true
			return err
		}
		u.finished = true
	}
	return nil
}

// begin opens an upload.
func (u *upload) begin() error {
	ctx, cancel := context.WithTimeoutCause(u.ctx, u.c.smallDeadline(), errSlow)
	defer cancel()
	resp, h, err := u.c.once(ctx, request{
		method: http.MethodPost, ref: u.ref, path: "blobs/uploads/", access: access{push: true},
		what: "an upload to " + u.ref.Repository(), expect: []int{http.StatusAccepted},
	})
	if err != nil {
		return err
	}
	u.h, u.session, u.done = h, h.session(h.ref(u.ref), access{push: true}), 0
	if least, ok := parseCount(resp.Header.Get("OCI-Chunk-Min-Length")); ok {
		u.chunk = min(max(u.chunk, least), maxChunk)
	}
	err = u.moved(resp, true)
	return errors.Join(err, resp.Body.Close())
}

// moved notes where the registry says that the upload goes on. Credentials go there only if that is the registry itself, and the word
// its own: whoever a redirect has led to must not choose what is asked with them.
func (u *upload) moved(resp answer, needed bool) error {
	location := resp.Header.Get("Location")
	if location == "" && !needed {
		return nil
	}
	next, err := u.h.forbids().next(resp.Request.URL, location)
	if err != nil {
		return err
	}
	base, err := u.c.base(u.ctx, u.h)
	if err != nil {
		return err
	}
	u.at, u.home = next, resp.home && sameOrigin(base, next)
	return nil
}

// ask carries out one request of the upload.
func (u *upload) ask(ctx context.Context, x exchange, expect ...int) (answer, error) {
	if u.home {
		return u.c.admitted(ctx, u.h, u.session, x, u.what(), expect)
	}
	resp, err := u.c.send(ctx, u.h, x)
	if err != nil {
		return answer{}, err
	}
	for _, status := range expect {
		if resp.StatusCode == status {
			return resp, nil
		}
	}
	return answer{}, failure(u.h, resp, u.what())
}

// content is the body of a request that sends n bytes from done on.
func (u *upload) content(n int64) func() (io.ReadCloser, error) {
	from := u.done
	return func() (io.ReadCloser, error) {
		if n == 0 {
			return http.NoBody, nil
		}
		r, err := u.from.Open(from)
		if err != nil {
			return nil, err
		}
		return &counted{io.LimitReader(r, n), r, from, u.from.Sent}, nil
	}
}

// counted tells how much has been read of what is sent.
type counted struct {
	io.Reader
	io.Closer
	at   int64
	sent func(int64)
}

func (r *counted) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if r.at += int64(n); r.sent != nil && n > 0 {
		r.sent(r.at)
	}
	return n, err
}

// put sends the last n bytes, and says what all of them are.
func (u *upload) put(n int64) error {
	to := *u.at
	q := to.RawQuery
	if q != "" {
		q += "&"
	}
	to.RawQuery = q + "digest=" + url.QueryEscape(string(u.desc.Digest)) // as it is otherwise: a registry may have signed it
	x := exchange{method: http.MethodPut, url: &to, header: http.Header{"Content-Type": {"application/octet-stream"}}, body: u.content(n), length: n}
	resp, err := u.ask(u.ctx, x, http.StatusCreated, http.StatusNoContent)
	if err != nil {
		return err
	}
	return errors.Join(u.claimed(resp), resp.Body.Close())
}

func (u *upload) claimed(resp answer) error {
	claimed := resp.Header.Get("Docker-Content-Digest")
	if claimed != "" && claimed != string(u.desc.Digest) {
		return errdef.New(errdef.Corrupt, "%s has stored blob %s as %.100q", resp.Request.URL.Host, u.desc.Digest, claimed)
	}
	return nil
}

// patch sends a chunk.
func (u *upload) patch() error {
	n := min(u.chunk, u.desc.Size-u.done)
	x := exchange{method: http.MethodPatch, url: u.at, body: u.content(n), length: n, header: http.Header{
		"Content-Type":  {"application/octet-stream"},
		"Content-Range": {fmt.Sprintf("%d-%d", u.done, u.done+n-1)},
	}}
	// A registry without chunks says so in several ways.
	other := []int{http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusUnsupportedMediaType, http.StatusNotImplemented}
	resp, err := u.ask(u.ctx, x, append(other, http.StatusAccepted, http.StatusRequestedRangeNotSatisfiable)...)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusAccepted:
		if err := u.moved(resp, false); err != nil {
			return err
		}
		return u.received(resp, u.done+n)
	case http.StatusRequestedRangeNotSatisfiable:
		return &transient{error: errdef.New(errdef.Unavailable, "%s has another part of blob %s than was sent", u.h.address, u.desc.Digest)}
	}
	u.refused, u.at, u.done = true, nil, 0
	return nil
}

// received takes over how much a registry says that it has, of the sent bytes at most. Where it does not say, it has them all.
func (u *upload) received(resp answer, sent int64) error {
	span := strings.TrimPrefix(resp.Header.Get("Range"), "bytes=")
	if span == "" {
		u.done = sent
		return nil
	}
	from, to, _ := strings.Cut(span, "-")
	last, ok := parseCount(to)
	if from != "0" || !ok || last >= max(sent, 1) {
		return errdef.New(errdef.Corrupt, "%s says that it has bytes %.60q of the %d of blob %s that were sent", u.h.address, span, sent, u.desc.Digest)
	}
	if u.done = last + 1; last == 0 {
		u.done = 0 // distribution says "0-0" of an upload that is empty
	}
	return nil
}

// resume asks how far an upload has got that was interrupted. One that is no more is begun again.
func (u *upload) resume() error {
	ctx, cancel := context.WithTimeoutCause(u.ctx, u.c.smallDeadline(), errSlow)
	defer cancel()
	resp, err := u.ask(ctx, exchange{method: http.MethodGet, url: u.at}, http.StatusNoContent, http.StatusOK, http.StatusAccepted)
	if t := (*transient)(nil); errors.As(err, &t) || errdef.Is(err, errdef.Cancelled) {
		return err
	}
	u.doubt = false
	if err != nil || resp.Header.Get("Range") == "" {
		u.at, u.done = nil, 0
		if err == nil {
			_ = resp.Body.Close()
		}
		return nil
	}
	err = u.moved(resp, false)
	if err == nil {
		err = u.received(resp, u.desc.Size)
	}
	return errors.Join(err, resp.Body.Close())
}

// PutManifest stores a manifest or an index, all of whose parts the repository has, under target: a tag or its own digest.
func (c *Client) PutManifest(ctx context.Context, ref reference.Reference, target string, desc image.Descriptor, raw []byte) error {
	resp, h, err := c.brief(ctx, request{
		method: http.MethodPut, ref: ref, path: "manifests/" + target, body: raw, access: access{push: true},
		header: http.Header{"Content-Type": {desc.MediaType}}, what: "manifest " + target + " for " + ref.Repository(),
		expect: []int{http.StatusCreated, http.StatusOK, http.StatusAccepted},
	})
	if err != nil {
		return err
	}
	if claimed := resp.Header.Get("Docker-Content-Digest"); claimed != "" && claimed != string(desc.Digest) {
		return errdef.New(errdef.Corrupt, "%s has stored manifest %s as %.100q", h.address, desc.Digest, claimed)
	}
	return nil
}

// Limits on lists, which come in pages.
const (
	maxPage  = 4 << 20
	maxPages = 1000
	maxNames = 1_000_000
)

// Tags are the tags of the repository of ref, in the registry's order (distribution-spec, "Listing Tags").
func (c *Client) Tags(ctx context.Context, ref reference.Reference) ([]string, error) {
	return c.list(ctx, request{method: http.MethodGet, ref: ref, path: "tags/list", what: "list of tags of " + ref.Repository()})
}

// Catalog are the repositories of a registry, if it lists them (distribution's API, "Catalog").
func (c *Client) Catalog(ctx context.Context, domain string) ([]string, error) {
	return c.list(ctx, request{method: http.MethodGet, ref: reference.Reference{Domain: domain}, path: "_catalog", what: "catalog"})
}

func (c *Client) list(ctx context.Context, r request) ([]string, error) {
	r.query = url.Values{"n": {strconv.Itoa(1000)}}
	var all []string
	for range maxPages {
		raw, header, err := c.small(ctx, r, maxPage)
		if err != nil {
			return nil, err
		}
		var page struct{ Tags, Repositories []string }
		if err := json.Unmarshal(raw, &page); err != nil {
			return nil, errdef.New(errdef.Corrupt, "the %s cannot be read: %w", r.what, err)
		}
		all = append(append(all, page.Tags...), page.Repositories...)
		if len(all) > maxNames {
			return nil, errdef.New(errdef.Corrupt, "the %s has more than %d names", r.what, maxNames)
		}
		next := nextPage(header.Get("Link"))
		if next == nil || next.Encode() == r.query.Encode() {
			return all, nil
		}
		r.query = next
	}
	return nil, errdef.New(errdef.Corrupt, "the %s has more than %d pages", r.what, maxPages)
}

// nextPage is the query of the next page in a Link header (RFC 8288): only that, since the page is asked for where the first was.
func nextPage(link string) url.Values {
	target, params, ok := strings.Cut(link, ">")
	target, opened := strings.CutPrefix(strings.TrimSpace(target), "<")
	if !ok || !opened || !strings.Contains(params, "next") {
		return nil
	}
	u, err := url.Parse(target)
	if err != nil {
		return nil
	}
	return u.Query()
}
