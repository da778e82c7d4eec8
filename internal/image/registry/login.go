package registry

import (
	"context"
	"net/http"
	"strings"

	"berth/internal/errdef"
	"berth/internal/image/reference"
)

// Domain is the registry that the argument of login names: a host, or as older versions of docker have it a URL. "" is Docker Hub.
func Domain(server string) (string, error) {
	host := strings.TrimPrefix(strings.TrimPrefix(server, "https://"), "http://")
	host, _, _ = strings.Cut(host, "/")
	switch host {
	case "", reference.DefaultDomain, "index.docker.io", "registry-1.docker.io":
		return reference.DefaultDomain, nil
	}
	full := host
	if !strings.Contains(host, ":") { // a word alone is a path to reference.Parse, and a host here
		full += ":443"
	}
	if _, err := reference.Parse(full + "/x"); err != nil {
		return "", errdef.New(errdef.Invalid, "%.200q is not the name of a registry", server)
	}
	return host, nil
}

// ServerName is the name under which docker keeps the credentials for a registry.
func ServerName(domain string) string {
	if domain == reference.DefaultDomain {
		return hubServer
	}
	return domain
}

// Login asks a registry whether it lets the owner of credentials in. A registry that lets everybody in is content with any.
func (c *Client) Login(ctx context.Context, domain string, given Credentials) error {
	k := c.known(domain)
	if k.err != nil {
		return k.err
	}
	h := c.host(domain)
	s := &session{ref: reference.Reference{Domain: domain}, credentials: &given}
	err := c.retry(ctx, func() error {
		ctx, cancel := context.WithTimeoutCause(ctx, c.smallDeadline(), errSlow)
		defer cancel()
		base, err := c.base(ctx, h)
		if err != nil {
			return err
		}
		resp, err := c.admitted(ctx, h, s, exchange{method: http.MethodGet, url: base}, "its API", nil)
		if err != nil {
			return err
		}
		return resp.Body.Close()
	})
	if errdef.Is(err, errdef.Denied) && errdef.HintOf(err) == "berth login "+domain {
		return errdef.New(errdef.Denied, "unauthorized: incorrect username or password")
	}
	return err
}
