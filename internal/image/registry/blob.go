package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"berth/internal/errdef"
	"berth/internal/image"
	"berth/internal/image/reference"
)

// Blob reads the blob desc from offset on. The reader survives broken connections and servers that fail for a while,
// gives at most desc.Size-offset bytes, and fewer only with an error. It does not verify the digest: who stores the
// bytes does. Close must be called.
func (c *Client) Blob(ctx context.Context, ref reference.Reference, desc image.Descriptor, offset int64) (io.ReadCloser, error) {
	if err := desc.Digest.Validate(); err != nil {
		return nil, err
	}
	if offset < 0 || offset > desc.Size {
		return nil, errdef.New(errdef.Invalid, "blob %s has no byte %d", desc.Digest, offset)
	}
	if desc.Size-offset >= c.ranges.least {
		return c.openPieces(ctx, ref, desc, offset)
	}
	b := &blob{c: c, ctx: ctx, ref: ref, desc: desc, at: offset, end: desc.Size, mark: offset}
	if offset < desc.Size {
		if err := b.open(); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// blob is a reader over one connection at a time.
type blob struct {
	c    *Client
	ctx  context.Context
	ref  reference.Reference
	desc image.Descriptor

	at   int64         // of the blob, the next byte to give
	end  int64         // behind the last one
	body io.ReadCloser // nil between connections
	from string        // the host that body comes from
	skip int64         // bytes of body that lie before at
	// part says that bytes which were not asked for are not worth reading: errNoRanges is the answer then.
	part    bool
	offered bool // the server has said that it gives ranges
	// fails counts connections that broke since mark, so that a server which breaks every one after a few bytes does
	// not hold us for ever.
	fails int
	mark  int64
}

// ranged says that less than the whole blob is wanted.
func (b *blob) ranged() bool { return b.at > 0 || b.end < b.desc.Size }

// errNoRanges says that a server sends the whole blob when asked for a part.
var errNoRanges = errors.New("the server gives no ranges")

// progress is what makes up for a broken connection.
const progress = 1 << 20

func (b *blob) open() error {
	what := "blob " + string(b.desc.Digest) + " in " + b.ref.Repository()
	r := request{method: http.MethodGet, ref: b.ref, path: "blobs/" + string(b.desc.Digest), what: what}
	if b.ranged() {
		// With its end: not every server knows "bytes=5-".
		r.header = http.Header{"Range": {fmt.Sprintf("bytes=%d-%d", b.at, b.end-1)}}
	}
	return b.c.retry(b.ctx, func() error {
		resp, _, err := b.c.once(b.ctx, r)
		if err != nil {
			return foreign(err, b.desc)
		}
		skip, err := b.locate(resp)
		if err != nil {
			_ = resp.Body.Close()
			return err
		}
		b.offered = resp.StatusCode == http.StatusPartialContent || resp.Header.Get("Accept-Ranges") == "bytes"
		b.body, b.from, b.skip = resp.Body, resp.Request.URL.Host, skip
		return nil
	})
}

// foreign explains a missing layer that is said to be elsewhere.
func foreign(err error, desc image.Descriptor) error {
	if len(desc.URLs) > 0 && errdef.Is(err, errdef.NotFound) {
		return fmt.Errorf("%w; the manifest says it is at another place, where berth does not go", err)
	}
	return err
}

// locate says how many bytes of the body lie before what was asked for, and finds lies about the length.
func (b *blob) locate(resp answer) (skip int64, err error) {
	from := resp.Request.URL.Host
	lies := func(size int64) error {
		return errdef.New(errdef.Corrupt, "%s says that blob %s has %d bytes, the manifest says %d", from, b.desc.Digest, size, b.desc.Size)
	}
	if resp.StatusCode == http.StatusOK {
		if resp.ContentLength >= 0 && resp.ContentLength != b.desc.Size {
			return 0, lies(resp.ContentLength)
		}
		if b.part {
			return 0, errNoRanges
		}
		return b.at, nil // the whole blob: a server that knows no ranges
	}
	first, total, ok := parseContentRange(resp.Header.Get("Content-Range"))
	switch {
	case !b.ranged():
		return 0, errdef.New(errdef.Corrupt, "%s sends a part of blob %s when asked for all", from, b.desc.Digest)
	case !ok:
		return 0, errdef.New(errdef.Corrupt, "%s sends a part of blob %s and does not say which", from, b.desc.Digest)
	case first != b.at:
		return 0, errdef.New(errdef.Corrupt, "%s sends blob %s from byte %d when asked for byte %d", from, b.desc.Digest, first, b.at)
	case total >= 0 && total != b.desc.Size:
		return 0, lies(total)
	}
	return 0, nil
}

// parseContentRange reads "bytes 5-9/10" and "bytes 5-9/*", whose total is -1 (RFC 9110, section 14.4).
func parseContentRange(s string) (first, total int64, ok bool) {
	s, ok = strings.CutPrefix(s, "bytes ")
	if !ok {
		return 0, 0, false
	}
	span, size, ok1 := strings.Cut(s, "/")
	from, to, ok2 := strings.Cut(span, "-")
	first, ok3 := parseCount(from)
	last, ok4 := parseCount(to)
	if !ok1 || !ok2 || !ok3 || !ok4 || last < first {
		return 0, 0, false
	}
	if size == "*" {
		return first, -1, true
	}
	total, ok = parseCount(size)
	return first, total, ok && last < total
}

// parseCount reads digits only, unlike strconv, which takes signs.
func parseCount(s string) (n int64, ok bool) {
	if s == "" || len(s) > 18 {
		return 0, false
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		n = n*10 + int64(s[i]-'0')
	}
	return n, true
}

func (b *blob) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for b.at < b.end {
		if b.body == nil {
			if err := b.open(); err != nil {
				return 0, err
			}
		}
		n, err := b.fill(p)
		if n > 0 {
			return n, nil // an error comes back with the next read
		}
		if err == nil {
			continue
		}
		if err := b.reconnect(err); err != nil {
			return 0, err
		}
	}
	return 0, io.EOF
}

// fill reads from the body once.
func (b *blob) fill(p []byte) (int, error) {
	if b.skip > 0 {
		n, err := b.body.Read(p[:min(int64(len(p)), b.skip)])
		b.skip -= int64(n)
		if n > 0 {
			err = nil
		}
		return 0, err
	}
	n, err := b.body.Read(p[:min(int64(len(p)), b.end-b.at)])
	b.at += int64(n)
	return n, err
}

// reconnect gives up the connection that failed with err, and pauses.
func (b *blob) reconnect(err error) error {
	_ = b.body.Close()
	b.body = nil
	err = broken(b.ctx, b.from, err)
	var t *transient
	if !errors.As(err, &t) {
		return err
	}
	if b.at-b.mark >= progress {
		b.fails, b.mark = 0, b.at
	}
	if b.fails++; b.fails >= maxTries {
		return t.error
	}
	return b.c.pause(b.ctx, b.fails, t)
}

func (b *blob) Close() error {
	if b.body == nil {
		return nil
	}
	err := b.body.Close()
	b.body = nil
	return err
}
