package registry

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"berth/internal/errdef"
)

// exchange is one request, which redirects may carry on to other hosts.
type exchange struct {
	method        string
	url           *url.URL
	header        http.Header
	authorization string // sent for as long as we have not left the origin of url
	form          url.Values
	// body opens what is sent, of length bytes, as often as it is to be sent.
	body   func() (io.ReadCloser, error)
	length int64
}

// answer is a response and where it came from.
type answer struct {
	*http.Response
	home bool // by the host that was asked: no redirect has led away from it
}

const maxRedirects = 10

// send carries x out and follows redirects by the rules of the package comment. An error is final or *transient.
// The body of the answer must be closed; reading it fails when the server stalls.
func (c *Client) send(ctx context.Context, h *host, x exchange) (answer, error) {
	home := true
	at := x.url
	for range maxRedirects {
		resp, err := c.hop(ctx, h, x, at, home)
		if err != nil {
			return answer{}, err
		}
		if !isRedirect(resp.StatusCode) {
			return answer{resp, home}, nil
		}
		_ = resp.Body.Close()
		if x.form != nil { // its secret would go along
			return answer{}, errdef.New(errdef.Denied, "%s redirects a request that carries a secret", at.Host)
		}
		// Only these keep the method and the body (RFC 9110, section 15.4).
		if s := resp.StatusCode; x.writes() && s != http.StatusTemporaryRedirect && s != http.StatusPermanentRedirect {
			return answer{}, errdef.New(errdef.Corrupt, "%s answers %d (%s) to an upload", at.Host, s, http.StatusText(s))
		}
		next, err := h.forbids().next(at, resp.Header.Get("Location"))
		if err != nil {
			return answer{}, err
		}
		// Once away, never home again: whoever we were sent to must not choose what is asked with our credentials.
		home = home && sameOrigin(x.url, next)
		at = next
	}
	return answer{}, errdef.New(errdef.Corrupt, "%s redirects more than %d times", x.url.Host, maxRedirects)
}

func (x exchange) writes() bool { return x.method != http.MethodGet && x.method != http.MethodHead }

func isRedirect(status int) bool {
	switch status {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return true
	}
	return false
}

func sameOrigin(a, b *url.URL) bool {
	return a.Scheme == b.Scheme && strings.EqualFold(hostPort(a), hostPort(b))
}

// hop is one request to one host.
func (c *Client) hop(ctx context.Context, h *host, x exchange, at *url.URL, home bool) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	transport := h.transport
	if !h.is(at) {
		transport = c.outside
		if h.forbids() == forbidLinkLocal {
			transport = c.elsewhere
		}
	} else {
		if x.body != nil {
			transport = h.uploads
		}
		ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { h.reached(i.Conn.RemoteAddr()) }})
	}
	var body io.Reader
	switch {
	case x.form != nil:
		body = strings.NewReader(x.form.Encode())
	case x.body != nil:
		sent, err := x.body()
		if err != nil {
			cancel(nil)
			return nil, err
		}
		body = newFed(sent, c.opt.StallTimeout, cancel)
	}
	req, err := http.NewRequestWithContext(ctx, x.method, at.String(), body)
	if err != nil {
		cancel(nil)
		return nil, errdef.New(errdef.Invalid, "%s: %w", at.Host, err)
	}
	if x.body != nil {
		req.ContentLength = x.length
		if x.length == 0 {
			req.Body = http.NoBody
		}
	}
	for name, values := range x.header {
		req.Header[name] = values
	}
	if home && h.is(at) {
		for name, values := range h.header {
			req.Header[name] = values
		}
	}
	req.Header.Set("User-Agent", "berth/"+c.opt.Version)
	if x.form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if home && x.authorization != "" {
		req.Header.Set("Authorization", x.authorization)
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		err = h.classify(ctx, at, err) // before the cancellation, which would look like the caller's
		cancel(nil)
		return nil, err
	}
	if h.is(at) {
		h.mu.Lock()
		h.answered = true
		h.mu.Unlock()
	}
	resp.Body = newWatched(resp.Body, c.opt.StallTimeout, cancel)
	return resp, nil
}

// speaks is http or https, or "" of an insecure registry that has not answered yet.
func (h *host) speaks() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.scheme
}

// is reports whether u leads to the registry itself.
func (h *host) is(u *url.URL) bool {
	scheme := h.speaks()
	return scheme == u.Scheme && strings.EqualFold(hostPort(u), hostPort(&url.URL{Scheme: scheme, Host: h.address}))
}

// forbids is where the registry must not send us.
func (h *host) forbids() forbid {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.loopback || isLoopbackHost(hostname(h.address)) {
		return forbidLinkLocal
	}
	return forbidLoopback
}

// reached notes whether the registry is on this machine. The address is a proxy's if there is one, and then the
// registry counts as outside: a proxy on loopback says nothing of what is behind it.
func (h *host) reached(addr net.Addr) {
	proxied := false
	if h.transport.Proxy != nil {
		u, err := h.transport.Proxy(&http.Request{URL: &url.URL{Scheme: h.speaks(), Host: h.address}})
		proxied = err != nil || u != nil
	}
	ap, err := netip.ParseAddrPort(addr.String())
	h.mu.Lock()
	defer h.mu.Unlock()
	h.loopback = err == nil && !proxied && ap.Addr().Unmap().IsLoopback()
}

// base is the URL of the registry's API. It finds out once whether an insecure registry speaks TLS.
func (c *Client) base(ctx context.Context, h *host) (*url.URL, error) {
	scheme := h.speaks()
	if scheme == "" {
		var err error
		if scheme, err = c.probe(ctx, h); err != nil {
			return nil, err
		}
		h.mu.Lock()
		h.scheme = scheme
		h.mu.Unlock()
	}
	return &url.URL{Scheme: scheme, Host: h.address, Path: h.path}, nil
}

// probe asks an insecure registry for TLS. Whatever fails after the connection was made means that it has none.
func (c *Client) probe(ctx context.Context, h *host) (string, error) {
	u := &url.URL{Scheme: "https", Host: h.address, Path: h.path}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return "", errdef.New(errdef.Invalid, "%s: %w", h.address, err)
	}
	resp, err := h.transport.RoundTrip(req)
	if err == nil {
		_ = resp.Body.Close()
		return "https", nil
	}
	var dial *net.OpError
	if ctx.Err() != nil || errors.As(err, &dial) && dial.Op == "dial" {
		return "", h.classify(ctx, u, err)
	}
	return "http", nil
}

// errStalled is why a request was given up when its server sent nothing.
var errStalled = errors.New("it sends nothing any more")

// watched is a body that may be slow, but not infinitely so: in every period of the given length that a reader
// spends waiting, some bytes must come.
type watched struct {
	io.ReadCloser
	cancel context.CancelCauseFunc
	timer  *time.Timer
	period time.Duration
	left   time.Duration // of the period
	got    int           // in the period
}

// enoughBytes a period is 34 bytes a second: no line is that slow, only a server that wants to hold us.
const enoughBytes = 1 << 10

func newWatched(body io.ReadCloser, period time.Duration, cancel context.CancelCauseFunc) *watched {
	w := &watched{ReadCloser: body, cancel: cancel, period: period, left: period}
	w.timer = time.AfterFunc(period, func() { cancel(errStalled) })
	w.timer.Stop()
	return w
}

func (w *watched) Read(p []byte) (int, error) {
	began := time.Now()
	w.timer.Reset(w.left)
	n, err := w.ReadCloser.Read(p)
	fired := !w.timer.Stop()
	w.got += n
	w.left -= time.Since(began)
	if w.got >= enoughBytes {
		w.got, w.left = 0, w.period
	}
	if fired && err != nil && err != io.EOF {
		err = errStalled
	}
	return n, err
}

// fed is a body that is sent, to a server that may be slow in taking it: every so often it must take some.
type fed struct {
	io.ReadCloser
	timer  *time.Timer
	period time.Duration
}

func newFed(body io.ReadCloser, period time.Duration, cancel context.CancelCauseFunc) *fed {
	return &fed{body, time.AfterFunc(period, func() { cancel(errStalled) }), period}
}

func (f *fed) Read(p []byte) (int, error) {
	n, err := f.ReadCloser.Read(p)
	if err != nil { // the end; for the answer there is a limit of its own
		f.timer.Stop()
	} else {
		f.timer.Reset(f.period)
	}
	return n, err
}

func (f *fed) Close() error {
	f.timer.Stop()
	return f.ReadCloser.Close()
}

func (w *watched) Close() error {
	w.timer.Stop()
	err := w.ReadCloser.Close()
	w.cancel(nil)
	return err
}
