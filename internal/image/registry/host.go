package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"berth/internal/errdef"
	"berth/internal/image/reference"
)

// Host is how one registry, or a mirror of it, is spoken to. The zero value is the usual way.
type Host struct {
	// URL is where the API is, "https://mirror.example.com/v2/"; nil is /v2/ of the registry's own name. Without a scheme an insecure
	// server is tried with TLS and without.
	URL *url.URL
	// Insecure: a certificate is not verified and, where no URL says otherwise, a server without TLS is accepted.
	Insecure bool
	// RootCAs verify the server instead of the system's when not nil.
	RootCAs *x509.CertPool
	// Certificates are shown to a server that asks for one.
	Certificates []tls.Certificate
	// Header is sent with what the server is asked, and with nothing that it redirects to.
	Header http.Header
	// DialTimeout is how long a connection is tried for; 0 means as usual.
	DialTimeout time.Duration
	// Mirrors are asked before the registry, in this order. A mirror has none.
	Mirrors []Mirror
}

// Mirror is a server that has what a registry has, or a part of it.
type Mirror struct {
	Host // with a URL
	Can  Ability
	// Repository is the name on the mirror of a repository of the registry, and whether the mirror is asked for it; nil is the same
	// name, for all.
	Repository func(path string) (string, bool)
	// Instead: what the mirror is asked for, the registry is not.
	Instead bool
	// Refused is why nobody is asked for what the mirror would be; "" if it is.
	Refused string
	// Namespace: the mirror serves several registries, and is told which one is meant, as containerd does by the parameter "ns".
	Namespace bool
}

// Ability is what a mirror is asked for.
type Ability uint8

// What there is to be asked for.
const (
	CanPull    Ability = 1 << iota // blobs and manifests by their digests
	CanResolve                     // what a tag means
	CanPush
)

// hubAddress is where Docker Hub is: docker.io itself is a web site.
const hubAddress = "registry-1.docker.io"

// known is a registry that somebody named, with its mirrors.
type known struct {
	servers []*host // the registry itself is the last
	err     error   // why it is not spoken to
}

// host is a server: a registry that somebody named, or a mirror.
type host struct {
	name      string // as in the reference: docker.io, localhost:5000; of a mirror its own
	address   string // where it is: registry-1.docker.io
	path      string // of its API
	insecure  bool
	header    http.Header
	transport *http.Transport
	uploads   *http.Transport // for what is sent: when it has all of a blob, a registry may be long about storing it

	mirror    *Mirror // nil: the registry itself
	namespace string  // the registry whose mirror it is, if it wants to be told

	mu       sync.Mutex
	scheme   string // "" until an insecure registry has answered
	answered bool   // it has answered at least once
	down     bool   // a mirror that does not answer
	loopback bool   // it answered from a loopback address
	sessions map[string]*session
}

// known finds a registry and its mirrors.
func (c *Client) known(name string) *known {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k := c.hosts[name]; k != nil {
		return k
	}
	opt, err := c.opt.Host(name)
	k := &known{err: err}
	for _, m := range opt.Mirrors {
		own := m.URL.Host
		if own == hubAddress {
			own = reference.DefaultDomain
		}
		h := c.newHost(own, m.Host)
		h.mirror = &m
		if m.Namespace {
			h.namespace = name
		}
		k.servers = append(k.servers, h)
	}
	k.servers = append(k.servers, c.newHost(name, opt))
	c.hosts[name] = k
	return k
}

// host is the registry itself.
func (c *Client) host(name string) *host {
	all := c.known(name).servers
	return all[len(all)-1]
}

func (c *Client) newHost(name string, opt Host) *host {
	loopback := isLoopbackHost(hostname(name))
	h := &host{
		name: name, address: name, path: "/v2/", scheme: "https", header: opt.Header, sessions: map[string]*session{},
		insecure: opt.Insecure || loopback,
	}
	if name == reference.DefaultDomain {
		h.address = hubAddress
	}
	switch {
	case opt.URL != nil:
		h.scheme, h.address, h.path = opt.URL.Scheme, opt.URL.Host, opt.URL.Path
	case h.insecure:
		h.scheme = ""
	}
	config := &tls.Config{
		RootCAs: opt.RootCAs, Certificates: opt.Certificates,
		InsecureSkipVerify: h.insecure && opt.RootCAs == nil, //nolint:gosec // that is what insecure means
	}
	dial := c.dialer(forbidNothing, opt.DialTimeout)
	h.transport = c.transport(config, dial)
	h.uploads = c.transport(config.Clone(), dial)
	h.uploads.ResponseHeaderTimeout = storePatience * c.opt.StallTimeout
	return h
}

// ref is what a reference is called on this server.
func (h *host) ref(ref reference.Reference) reference.Reference {
	if h.mirror == nil {
		return ref
	}
	ref.Domain = h.name
	if h.mirror.Repository != nil {
		ref.Path, _ = h.mirror.Repository(ref.Path)
	}
	return ref
}

// may reports whether a mirror is asked for something of a repository.
func (h *host) may(path string, need Ability) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.down || h.mirror.Can&need == 0 {
		return false
	}
	if h.mirror.Repository == nil {
		return true
	}
	_, ok := h.mirror.Repository(path)
	return ok
}

// needs is what a server must be able to do for r.
func (r request) needs() Ability {
	switch {
	case r.access.push:
		return CanPush
	case strings.HasPrefix(r.path, "blobs/"), strings.HasPrefix(r.path, "manifests/") && strings.Contains(r.path, ":"), strings.HasPrefix(r.path, "referrers/"):
		return CanPull
	}
	return CanResolve
}

// servers are those to be asked in this order, at least one. What is pushed goes to one alone.
func (c *Client) servers(r request) ([]*host, error) {
	k := c.known(r.ref.Domain)
	if k.err != nil {
		return nil, k.err
	}
	own := len(k.servers) - 1
	need := r.needs()
	var all []*host
	for _, h := range k.servers[:own] {
		if r.ref.Path == "" || !h.may(r.ref.Path, need) {
			continue
		}
		if h.mirror.Refused != "" {
			return nil, errdef.New(errdef.Denied, "%s", h.mirror.Refused)
		}
		all = append(all, h)
		if need == CanPush || h.mirror.Instead {
			return all, nil
		}
	}
	return append(all, k.servers[own]), nil
}

// once carries out r, logging in if need be, at the first server that can. An error is final or *transient. The answer has a status that
// r expects.
func (c *Client) once(ctx context.Context, r request) (answer, *host, error) {
	servers, err := c.servers(r)
	if err != nil {
		return answer{}, nil, err
	}
	last := servers[len(servers)-1]
	for _, h := range servers[:len(servers)-1] {
		resp, err := c.onceAt(ctx, h, r)
		if err == nil {
			return resp, h, nil
		}
		if ctx.Err() != nil {
			return answer{}, h, err
		}
		if errdef.Is(err, errdef.Unavailable) && c.fails(h) {
			c.say("the mirror " + h.name + " is passed over: " + err.Error())
		}
	}
	resp, err := c.onceAt(ctx, last, r)
	return resp, last, err
}

// fails notes that a mirror does not do what it is for; from then on it is not asked. It says whether that is news.
func (c *Client) fails(h *host) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	first := !h.down
	h.down = true
	return first
}

// onceAt is once at one server.
func (c *Client) onceAt(ctx context.Context, h *host, r request) (answer, error) {
	base, err := c.base(ctx, h)
	if err != nil {
		return answer{}, err
	}
	ref, access := h.ref(r.ref), r.access
	x := exchange{method: r.method, url: base.JoinPath(ref.Path, r.path), header: r.header}
	query := url.Values{}
	for name, values := range r.query {
		query[name] = slices.Clone(values)
	}
	if h.namespace != "" {
		query.Set("ns", h.namespace)
	}
	if access.from != "" {
		access.from = h.ref(reference.Reference{Path: access.from}).Path
		query.Set("from", access.from)
	}
	x.url.RawQuery = query.Encode()
	if r.body != nil {
		x.length = int64(len(r.body))
		x.body = bytesBody(r.body)
	}
	return c.admitted(ctx, h, h.session(ref, access), x, r.what, r.expect)
}
