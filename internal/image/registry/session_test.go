package registry

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"berth/internal/errdef"
	"berth/internal/image/reference"
)

func discardLog() *log.Logger { return log.New(io.Discard, "", 0) }

// tokenRegistry wants a token that its own token server gives to me:secret.
func tokenRegistry(t *testing.T, expires int) *hostile {
	var h *hostile
	var mu sync.Mutex
	serial := 0
	h = newHostile(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if r.URL.Path == "/token" {
			user, password, _ := r.BasicAuth()
			refresh := r.FormValue("refresh_token")
			if user+":"+password != "me:secret" && refresh != "identity" {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			if r.FormValue("scope") != "repository:some/image:pull" || r.FormValue("service") != "svc" {
				w.WriteHeader(http.StatusBadRequest)
				return
			}
			serial++
			_, _ = fmt.Fprintf(w, `{"access_token":"t%d","expires_in":%d}`, serial, expires)
			return
		}
		if r.Header.Get("Authorization") != fmt.Sprintf("Bearer t%d", serial) {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="svc",scope="repository:some/image:pull"`, h.URL))
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		giveManifest(w, someManifest)
	})
	return h
}

func TestBearerTokenIsFetchedOnceAndRenewed(t *testing.T) {
	h := tokenRegistry(t, 300)
	c := testClient(t, func(o *Options) { o.Credentials = login("me", "secret") })
	ref := h.ref(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, _, err := c.Resolve(context.Background(), ref); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := len(h.requests("/token")); n != 1 {
		t.Errorf("%d tokens for eight requests", n)
	}
	// It is renewed before it expires, without asking in vain first.
	s := c.host(ref.Domain).session(ref, access{})
	s.mu.Lock()
	if left := time.Until(s.expires); left < 280*time.Second || left > 291*time.Second {
		t.Errorf("expires in %v", left)
	}
	s.expires = time.Now().Add(-time.Second)
	s.mu.Unlock()
	before := len(h.requests("manifests"))
	if _, _, err := c.Resolve(context.Background(), ref); err != nil {
		t.Error(err)
	}
	if len(h.requests("/token")) != 2 || len(h.requests("manifests")) != before+1 {
		t.Errorf("%d tokens, %d requests", len(h.requests("/token")), len(h.requests("manifests"))-before)
	}
}

func TestIdentityTokenIsPosted(t *testing.T) {
	h := tokenRegistry(t, 0)
	c := testClient(t, func(o *Options) {
		o.Credentials = func(context.Context, reference.Reference) (Credentials, error) {
			return Credentials{IdentityToken: "identity"}, nil
		}
	})
	if _, _, err := c.Resolve(context.Background(), h.ref(t)); err != nil {
		t.Fatal(err)
	}
	if r := h.requests("/token")[0]; r.Method != http.MethodPost || r.URL.RawQuery != "" {
		t.Errorf("%s %s", r.Method, r.URL)
	}
}

func TestWrongPasswordIsDeniedWithAHint(t *testing.T) {
	h := tokenRegistry(t, 0)
	c := testClient(t, func(o *Options) { o.Credentials = login("me", "wrong") })
	_, _, err := c.Resolve(context.Background(), h.ref(t))
	if !errdef.Is(err, errdef.Denied) || errdef.HintOf(err) != "berth login "+h.host() {
		t.Errorf("%v, hint %q", err, errdef.HintOf(err))
	}
	if strings.Contains(err.Error(), "wrong") {
		t.Error("the password is in the message")
	}
}

func TestEndlessChallengesEnd(t *testing.T) {
	for _, challenge := range []string{`Basic realm="x"`, `Bearer realm="REALM/token"`, ``, `Negotiate`} {
		var h *hostile
		n := 0
		h = newHostile(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/token" {
				n++
				_, _ = fmt.Fprintf(w, `{"token":"t%d"}`, n)
				return
			}
			w.Header().Set("WWW-Authenticate", strings.Replace(challenge, "REALM", h.URL, 1))
			w.WriteHeader(http.StatusUnauthorized)
		})
		c := testClient(t, func(o *Options) { o.Credentials = login("me", "secret") })
		_, _, err := c.Resolve(context.Background(), h.ref(t))
		if !errdef.Is(err, errdef.Denied) || len(h.requests("manifests")) > 3 || n > 2 {
			t.Errorf("%s: %v after %d requests and %d tokens", challenge, err, len(h.requests("manifests")), n)
		}
	}
}

func TestTokenServersThatAreRefused(t *testing.T) {
	thief := newHostile(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"token":"x"}`) })
	port := thief.URL[strings.LastIndexByte(thief.URL, ':'):]
	for _, tt := range []struct {
		summary, registry, realm string
		ok                       bool
	}{
		{"another host over TLS, as Docker Hub's", "https://registry-1.docker.io", "https://auth.docker.io/token", true},
		{"another host without TLS", "https://registry.example", "http://auth.example/token", false},
		{"the same host without TLS", "https://registry.example", "http://registry.example/token", false},
		{"a plain registry's own name", "http://registry.example:5000", "http://registry.example:8080/token", true},
		{"a plain registry's other host", "http://registry.example:5000", "http://auth.example/token", false},
		{"a plain registry's other host over TLS", "http://registry.example:5000", "https://auth.example/token", true},
		{"loopback from outside", "https://registry.example", "https://localhost" + port + "/token", false},
		{"loopback from outside, by address", "https://registry.example", "https://127.0.0.1" + port + "/token", false},
		{"link-local", "https://registry.example", "https://169.254.169.254/token", false},
		{"link-local from loopback", "http://localhost:5000", "https://169.254.169.254/token", false},
		{"loopback from loopback", "http://localhost:5000", "http://127.0.0.1:5001/token", true},
		{"a file", "https://registry.example", "file:///etc/passwd", false},
		{"opaque", "https://registry.example", "https:auth.example", false},
		{"nothing", "https://registry.example", "", false},
	} {
		c := testClient(t, nil)
		u, _ := url.Parse(tt.registry)
		h := &host{name: u.Host, address: u.Host, scheme: u.Scheme}
		if _, err := c.realm(h, tt.realm); (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.summary, err)
		}
	}
}

func TestTokenServerCannotRedirectASecretAway(t *testing.T) {
	thief := newHostile(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"token":"x"}`) })
	for _, credentials := range []Credentials{{Username: "me", Password: "secret"}, {IdentityToken: "identity"}} {
		var h *hostile
		h = newHostile(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/token" {
				http.Redirect(w, r, thief.URL+"/token", http.StatusTemporaryRedirect)
				return
			}
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+h.URL+`/token"`)
			w.WriteHeader(http.StatusUnauthorized)
		})
		c := testClient(t, func(o *Options) {
			o.Credentials = func(context.Context, reference.Reference) (Credentials, error) { return credentials, nil }
		})
		_, _, err := c.Resolve(context.Background(), h.ref(t))
		if !errdef.Is(err, errdef.Denied) {
			t.Error(err)
		}
		if a := thief.authorized(); len(a) != 0 {
			t.Errorf("the thief was given %q", a)
		}
		for _, r := range thief.requests("") {
			if r.Method != http.MethodGet || r.ContentLength > 0 {
				t.Errorf("the thief was sent %s with %d bytes", r.Method, r.ContentLength)
			}
		}
	}
}

func TestTokensThatAreRefused(t *testing.T) {
	for _, body := range []string{``, `{}`, `{"token":""}`, `{"token":"a\r\nX-Evil: 1"}`, `{"token":"ä"}`, `[]`, strings.Repeat(" ", 2<<20)} {
		if _, err := readToken(context.Background(), "x", strings.NewReader(body)); !errdef.Is(err, errdef.Corrupt) {
			t.Errorf("%.40q: %v", body, err)
		}
	}
	for body, want := range map[string]time.Duration{
		`{"token":"a"}`:                    50 * time.Second,
		`{"token":"a","expires_in":300}`:   290 * time.Second,
		`{"token":"a","expires_in":1e300}`: (24*3600 - 10) * time.Second,
		`{"token":"a","expires_in":-5}`:    50 * time.Second,
	} {
		if got, err := readToken(context.Background(), "x", strings.NewReader(body)); err != nil || got.lifetime != want {
			t.Errorf("%s: %v, %v", body, got.lifetime, err)
		}
	}
}
