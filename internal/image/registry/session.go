package registry

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"berth/internal/errdef"
	"berth/internal/image/reference"
)

// session is what lets us into one repository of one registry, to do what its scopes say (distribution's token
// specification, "Token Scope Documentation").
type session struct {
	ref    reference.Reference
	scopes []string
	writes bool

	mu            sync.Mutex // held while a token is fetched, so that it is fetched once
	credentials   *Credentials
	challenge     *challenge // the Bearer challenge that authorization answers
	authorization string
	expires       time.Time // zero: never
}

// access is what a request needs to be allowed to do.
type access struct {
	push bool
	from string // another repository of this registry, to mount a blob from
	// remove is to delete, for which token servers have an action of its own.
	remove bool
}

func (a access) scopes(path string) []string {
	if !a.push {
		return []string{"repository:" + path + ":pull"}
	}
	scopes := []string{"repository:" + path + ":pull,push"}
	if a.remove {
		scopes[0] += ",delete"
	}
	if a.from != "" {
		scopes = append(scopes, "repository:"+a.from+":pull")
	}
	return scopes
}

func (h *host) session(ref reference.Reference, a access) *session {
	h.mu.Lock()
	defer h.mu.Unlock()
	scopes := a.scopes(ref.Path)
	key := strings.Join(scopes, " ")
	s := h.sessions[key]
	if s == nil {
		s = &session{ref: ref, scopes: scopes, writes: a.push}
		h.sessions[key] = s
	}
	return s
}

// wanted are the scopes to ask for: what the registry says that it needs. Before the first write it may say that reading is
// enough, and a mount needs a second repository: then what we know is asked for with it.
func (s *session) wanted(challenged string) []string {
	switch {
	case challenged == "":
		return s.scopes
	case !s.writes || slices.Contains(s.scopes, challenged):
		if s.writes {
			return s.scopes
		}
		return []string{challenged}
	}
	return append(slices.Clone(s.scopes), challenged)
}

// current is the Authorization header to begin with, renewed if it is about to expire.
func (s *session) current(ctx context.Context, c *Client, h *host) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.challenge != nil && !s.expires.IsZero() && time.Now().After(s.expires) {
		if err := s.fetchToken(ctx, c, h, *s.challenge); err != nil {
			return "", err
		}
	}
	return s.authorization, nil
}

// answer finds an Authorization header other than tried for the challenges of a 401. "" means that there is none.
func (s *session) answer(ctx context.Context, c *Client, h *host, challenges []challenge, tried string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.authorization != tried { // somebody else has been quicker
		return s.authorization, nil
	}
	if s.credentials == nil {
		found := Credentials{}
		if c.opt.Credentials != nil {
			var err error
			if found, err = c.opt.Credentials(ctx, s.ref); err != nil {
				return "", err
			}
		}
		s.credentials = &found
	}
	for _, ch := range challenges {
		if ch.scheme != "bearer" {
			continue
		}
		if token := s.credentials.RegistryToken; token != "" {
			s.challenge, s.authorization = nil, "Bearer "+token
			return s.authorization, nil
		}
		if err := s.fetchToken(ctx, c, h, ch); err != nil {
			return "", err
		}
		return s.authorization, nil
	}
	for _, ch := range challenges {
		if ch.scheme == "basic" && s.credentials.Username != "" {
			s.challenge, s.authorization = nil, basic(*s.credentials)
			return s.authorization, nil
		}
	}
	return "", nil
}

func basic(c Credentials) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(c.Username+":"+c.Password))
}

// fetchToken asks the token server of ch for a token (distribution's token specification, and its OAuth 2 variant for
// identity tokens).
func (s *session) fetchToken(ctx context.Context, c *Client, h *host, ch challenge) error {
	realm, err := c.realm(h, ch.params["realm"])
	if err != nil {
		return err
	}
	scopes := s.wanted(ch.params["scope"])
	x := exchange{method: http.MethodGet, url: realm}
	if refresh := s.credentials.IdentityToken; refresh != "" {
		x.method = http.MethodPost
		x.form = url.Values{
			"grant_type": {"refresh_token"}, "refresh_token": {refresh},
			"service": {ch.params["service"]}, "scope": {strings.Join(scopes, " ")}, "client_id": {"berth"},
		}
	} else {
		q := realm.Query()
		if service := ch.params["service"]; service != "" {
			q.Set("service", service)
		}
		if q.Del("scope"); len(scopes) > 0 {
			q["scope"] = scopes
		}
		if s.credentials.Username != "" {
			q.Set("account", s.credentials.Username)
			x.authorization = basic(*s.credentials)
		}
		realm.RawQuery = q.Encode()
	}
	asked := time.Now()
	var token token
	err = c.retry(ctx, func() error {
		ctx, cancel := context.WithTimeoutCause(ctx, c.smallDeadline(), errSlow)
		defer cancel()
		resp, err := c.send(ctx, h, x)
		if err != nil {
			return err
		}
		if resp.StatusCode != http.StatusOK {
			return failure(h, resp, "a token for "+strings.TrimSuffix(s.ref.Repository(), "/"))
		}
		defer resp.Body.Close()
		token, err = readToken(ctx, realm.Host, resp.Body)
		return err
	})
	if err != nil {
		return err
	}
	s.challenge, s.authorization = &ch, "Bearer "+token.value
	s.expires = asked.Add(token.lifetime)
	return nil
}

type token struct {
	value    string
	lifetime time.Duration
}

func readToken(ctx context.Context, host string, r io.Reader) (token, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxToken+1))
	if err != nil {
		return token{}, broken(ctx, host, err)
	}
	var said struct {
		Token       string  `json:"token"`
		AccessToken string  `json:"access_token"`
		ExpiresIn   float64 `json:"expires_in"`
	}
	if len(data) > maxToken {
		return token{}, errdef.New(errdef.Corrupt, "the token server %s answers with more than %d bytes", host, maxToken)
	}
	if err := json.Unmarshal(data, &said); err != nil {
		return token{}, errdef.New(errdef.Corrupt, "the answer of the token server %s cannot be read: %w", host, err)
	}
	value := said.Token
	if value == "" {
		value = said.AccessToken
	}
	if value == "" || strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return token{}, errdef.New(errdef.Corrupt, "the token server %s gives no usable token", host)
	}
	// The specification's default and least is a minute. A margin covers clocks and the way.
	const least, most, margin = 60, 24 * 3600, 10
	seconds := min(max(said.ExpiresIn, least), most) - margin
	return token{value, time.Duration(seconds) * time.Second}, nil
}
