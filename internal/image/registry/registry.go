// Package registry speaks the distribution specification 1.1 to a registry, which it takes
// to be hostile: every answer is bounded, what can be verified is, and a redirect is followed only as far as
// it can do no harm.
//
// What goes where:
//
//   - The registry is the host that the reference names. Docker Hub's is registry-1.docker.io. Mirrors, which the caller's Host
//     names, are asked before it for what they can; one that fails is passed over, and what it gives is verified like all else.
//   - Loopback registries and those the caller calls insecure are tried with TLS and no verification, then
//     without TLS. All others are spoken to over verified TLS and nothing else, or as the URL says that the caller has for them.
//   - Credentials are looked up for the registry and answer only a challenge by the registry itself, never one
//     by a host that it redirected to (CVE-2020-15157). They go to the registry (Basic) or to the token server
//     it names (Bearer), which must be reached over https unless the registry itself is not; see realm.go. A mirror gets those
//     that are kept under its own name.
//   - A redirect drops the Authorization header for good when it leaves the registry's scheme, host and port,
//     never leads from https to http or to another scheme, never to link-local addresses, and to loopback only
//     from a loopback registry; names are checked when they are dialled, so that DNS cannot go around it.
//   - An upload goes on where the registry says, by the rules for redirects; credentials go along only to the registry itself. Of
//     redirects only those are followed that keep method and body.
//   - A layer's "urls" are not followed, as docker on Linux does not.
//
// The package stores nothing but credentials that are entered, and knows nothing of platforms. We wrote it over net/http
// because containerd's resolver or authorizer alone adds 3.1 MB, 113 packages and a millisecond to every start,
// follows "urls", and leaves most of the list above to its caller.
package registry

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"time"

	"berth/internal/image/reference"
)

// Limits on what a registry can make us hold in memory, beside image.MaxManifest.
const (
	maxHeader = 64 << 10
	maxToken  = 1 << 20 // a token's JSON
	maxReason = 8 << 10 // what is read of an error's body
)

// storePatience is how many times longer than otherwise a registry may send nothing when it stores what it was sent.
const storePatience = 10

// Options are what a Client is made of. The zero value is usable and anonymous.
type Options struct {
	// Version of berth, for the user agent.
	Version string
	// Host says how a registry, "localhost:5000", is spoken to; nil and the zero Host mean as usual. An error is why it is not.
	Host func(host string) (Host, error)
	// Credentials finds what to log in with; nil means nobody. See FromFiles.
	Credentials func(ctx context.Context, ref reference.Reference) (Credentials, error)
	// Proxy is as in http.Transport; nil means http.ProxyFromEnvironment.
	Proxy func(*http.Request) (*url.URL, error)
	// Notice gets one line when something takes longer for a reason worth saying; nil means nobody is told. It may
	// be called by several goroutines at a time.
	Notice func(string)
	// StallTimeout is how long a server may send nothing; 0 means 30 s.
	StallTimeout time.Duration
	// Patience is the longest pause that a server may ask for; 0 means one minute.
	Patience time.Duration
}

// A Client keeps connections, tokens and what it learnt about registries. It is for concurrent use.
type Client struct {
	*shared
	notice func(string)
}

// shared is what the copies of a Client that Notify makes have in common.
type shared struct {
	opt        Options
	ranges     ranges
	firstPause time.Duration   // before the second try; each further one is twice as long
	elsewhere  *http.Transport // to hosts that a registry sent us to: no link-local addresses
	outside    *http.Transport // likewise, and no loopback

	mu      sync.Mutex
	hosts   map[string]*known
	proxies map[string]bool // "host:port" of proxies, to which the rules about addresses do not apply
}

// New returns a client; Close gives its idle connections back.
func New(opt Options) *Client {
	if opt.StallTimeout == 0 {
		opt.StallTimeout = 30 * time.Second
	}
	if opt.Patience == 0 {
		opt.Patience = time.Minute
	}
	if opt.Proxy == nil {
		opt.Proxy = http.ProxyFromEnvironment
	}
	if opt.Host == nil {
		opt.Host = func(string) (Host, error) { return Host{}, nil }
	}
	if opt.Version == "" {
		opt.Version = "unknown"
	}
	s := &shared{opt: opt, ranges: defaultRanges, firstPause: 250 * time.Millisecond, hosts: map[string]*known{}, proxies: map[string]bool{}}
	s.elsewhere = s.transport(&tls.Config{}, s.dialer(forbidLinkLocal, 0))
	s.outside = s.transport(&tls.Config{}, s.dialer(forbidLoopback, 0))
	return &Client{shared: s, notice: opt.Notice}
}

// Notify returns a client that shares all but whom it tells: one pull among many.
func (c *Client) Notify(notice func(string)) *Client { return &Client{c.shared, notice} }

// Close gives idle connections back.
func (c *Client) Close() {
	c.elsewhere.CloseIdleConnections()
	c.outside.CloseIdleConnections()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range c.hosts {
		for _, h := range k.servers {
			h.transport.CloseIdleConnections()
			h.uploads.CloseIdleConnections()
		}
	}
}

func (c *Client) say(line string) {
	if c.notice != nil {
		c.notice(line)
	}
}

// transport is HTTP/1.1 only: several connections carry more than one with streams, and the protocol has less that
// a hostile server can play with. Compression of the transfer is off, as it would hide lengths.
func (s *shared) transport(config *tls.Config, dial func(context.Context, string, string) (net.Conn, error)) *http.Transport {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	return &http.Transport{
		Proxy:                  s.proxy,
		DialContext:            dial,
		TLSClientConfig:        config,
		TLSHandshakeTimeout:    s.opt.StallTimeout,
		ResponseHeaderTimeout:  s.opt.StallTimeout,
		MaxResponseHeaderBytes: maxHeader,
		DisableCompression:     true,
		Protocols:              &protocols,
		MaxIdleConnsPerHost:    16,
		IdleConnTimeout:        30 * time.Second,
		ReadBufferSize:         32 << 10,
	}
}

// proxy remembers which addresses are proxies.
func (s *shared) proxy(req *http.Request) (*url.URL, error) {
	u, err := s.opt.Proxy(req)
	if err != nil || u == nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.proxies[hostPort(u)] = true
	return u, nil
}

func (s *shared) isProxy(address string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.proxies[address]
}

// hostname is a host without its port and brackets.
func hostname(host string) string { return (&url.URL{Host: host}).Hostname() }

// hostPort is where a URL leads, in the form in which a transport dials it.
func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		switch u.Scheme {
		case "https":
			port = "443"
		case "socks5", "socks5h":
			port = "1080"
		default:
			port = "80"
		}
	}
	return net.JoinHostPort(u.Hostname(), port)
}

func isLoopbackHost(name string) bool {
	if name == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(name)
	return err == nil && ip.Unmap().IsLoopback()
}

// wait pauses, or returns early with the reason why ctx ended.
func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ended(ctx)
	}
}
