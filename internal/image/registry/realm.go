package registry

import (
	"net/url"

	"berth/internal/errdef"
)

// realm is the token server of a challenge, if we talk to it.
//
// It is the registry that says where its token server is, often on another host (docker.io: auth.docker.io), and what
// it is given there is what was entered for this registry. A registry that wants to steal that can simply ask for
// Basic; so the other host is no danger as long as the challenge really is the registry's own word (its TLS says so,
// and we answer no challenge of hosts it redirects to) and the secret travels over TLS. Without TLS to the registry
// anybody may have written the challenge, but then Basic would give as much away: http is allowed to the registry's
// own name, where it is used anyway, and https to any.
func (c *Client) realm(h *host, value string) (*url.URL, error) {
	u, err := url.Parse(value)
	switch {
	case err != nil || u.Hostname() == "" || u.Opaque != "":
		return nil, errdef.New(errdef.Corrupt, "%s names a token server that is no URL: %.200q", h.address, value)
	case u.Scheme == "https":
	case u.Scheme != "http":
		return nil, errdef.New(errdef.Denied, "%s names a token server that is neither http nor https: %.200q", h.address, u.Redacted())
	case !h.plain() || u.Hostname() != hostname(h.address) && !(h.forbids() == forbidLinkLocal && isLoopbackHost(u.Hostname())):
		return nil, errdef.New(errdef.Denied, "%s names a token server without TLS: %s", h.address, u.Host)
	}
	if !h.is(u) {
		if err := h.forbids().checkHost(u.Hostname()); err != nil {
			return nil, errdef.As(errdef.Denied, err)
		}
	}
	u.User, u.Fragment, u.RawFragment = nil, "", ""
	return u, nil
}

// plain reports whether the registry is spoken to without TLS.
func (h *host) plain() bool { return h.speaks() == "http" }
