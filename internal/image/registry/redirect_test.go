package registry

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"berth/internal/errdef"
	"berth/internal/image"
)

func TestRedirectsGoNowhereBad(t *testing.T) {
	for _, location := range []string{
		"file:///etc/passwd", "ftp://example.com/x", "gopher://x/", "unix:/run/docker.sock", "", "http://", "https:///x", "://",
		"http://169.254.169.254/latest/meta-data/", "http://[fe80::1%25lo]/x", "http://[::ffff:169.254.169.254]/", "http://[fd00:ec2::254]/",
		"http://224.0.0.1/",
	} {
		h := newHostile(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Location"] = []string{location}
			w.WriteHeader(http.StatusTemporaryRedirect)
		})
		_, err := readBlob(testClient(t, nil), h.ref(t), blobOf([]byte("x")), 0)
		if !errdef.Is(err, errdef.Denied) && !errdef.Is(err, errdef.Corrupt) {
			t.Errorf("%q: %v", location, err)
		}
		if n := len(h.requests("blobs")); n != 1 {
			t.Errorf("%q: asked %d times", location, n)
		}
	}
}

func TestRedirectIsRefusedByItsURLAlone(t *testing.T) {
	at, _ := url.Parse("https://registry.example/v2/")
	if _, err := forbidLoopback.next(at, "http://registry.example/x"); !errdef.Is(err, errdef.Denied) {
		t.Error(err)
	}
	// A proxy dials for us: what the URL itself says must be checked without dialling.
	for _, location := range []string{"https://127.0.0.1/x", "https://localhost:5000/x", "https://[::1]/x", "https://169.254.169.254/x"} {
		if to, err := forbidLoopback.next(at, location); !errdef.Is(err, errdef.Denied) {
			t.Errorf("%s: %v, %v", location, to, err)
		}
	}
	to, err := forbidLoopback.next(at, "//user:password@cdn.example/x?y#z")
	if err != nil || to.String() != "https://cdn.example/x?y" {
		t.Errorf("%v, %v", to, err)
	}
}

func TestEndlessRedirectsEnd(t *testing.T) {
	h := newHostile(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, r.URL.Path+"x", http.StatusFound)
	})
	_, err := readBlob(testClient(t, nil), h.ref(t), blobOf([]byte("x")), 0)
	if !errdef.Is(err, errdef.Corrupt) || len(h.requests("blobs")) != maxRedirects {
		t.Errorf("%v after %d requests", err, len(h.requests("blobs")))
	}
}

// A proxy makes a registry one from outside, whatever is behind it.
func TestOutsideRegistryCannotSendUsToLoopback(t *testing.T) {
	victim := newHostile(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "secret") })
	for _, host := range []string{victim.host(), strings.Replace(victim.host(), "127.0.0.1", "localhost", 1), strings.Replace(victim.host(), "127.0.0.1", "[::ffff:127.0.0.1]", 1), strings.Replace(victim.host(), "127.0.0.1", "0.0.0.0", 1)} {
		outside := newHostile(t, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://"+host+"/secret", http.StatusFound)
		})
		ref := outside.ref(t)
		ref.Domain = "registry.example"
		c := testClient(t, func(o *Options) {
			o.Host = func(string) (Host, error) { return Host{Insecure: true}, nil }
			o.Proxy = func(r *http.Request) (*url.URL, error) {
				if r.URL.Hostname() == "registry.example" {
					return url.Parse(outside.URL)
				}
				return nil, nil
			}
		})
		_, err := readBlob(c, ref, blobOf([]byte("secret")), 0)
		if !errdef.Is(err, errdef.Denied) || len(victim.requests("")) != 0 {
			t.Errorf("%s: %v, %d requests", host, err, len(victim.requests("")))
		}
	}
}

// A name that resolves to a forbidden address is found when it is dialled.
func TestNamesAreCheckedWhenTheyAreDialled(t *testing.T) {
	victim := newHostile(t, func(http.ResponseWriter, *http.Request) {})
	c := testClient(t, nil)
	conn, err := c.dialer(forbidLoopback, 0)(context.Background(), "tcp", strings.Replace(victim.host(), "127.0.0.1", "localhost", 1))
	if err == nil {
		_ = conn.Close()
		t.Fatal("localhost was dialled")
	}
	if !errdef.Is(c.host("x").classify(context.Background(), &url.URL{Host: "x"}, err), errdef.Denied) {
		t.Error(err)
	}
	if conn, err = c.dialer(forbidLinkLocal, 0)(context.Background(), "tcp", victim.host()); err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
}

func TestForbiddenAddresses(t *testing.T) {
	for _, tt := range []struct {
		ip                 string
		elsewhere, outside bool // may be dialled
	}{
		{"1.1.1.1", true, true},
		{"10.0.0.1", true, true},
		{"192.168.1.1", true, true},
		{"fd12::1", true, true},
		{"127.0.0.1", true, false},
		{"127.8.9.10", true, false},
		{"::1", true, false},
		{"0.0.0.0", true, false},
		{"::", true, false},
		{"::ffff:127.0.0.1", true, false},
		{"169.254.169.254", false, false},
		{"::ffff:169.254.0.1", false, false},
		{"fe80::1", false, false},
		{"fe80::1%eth0", false, false},
		{"febf::1", false, false},
		{"fd00:ec2::254", false, false},
		{"ff02::1", false, false},
	} {
		ip := netip.MustParseAddr(tt.ip)
		if forbidNothing.check(ip) != nil || (forbidLinkLocal.check(ip) == nil) != tt.elsewhere || (forbidLoopback.check(ip) == nil) != tt.outside {
			t.Errorf("%s: %v, %v, %v", ip, forbidNothing.check(ip), forbidLinkLocal.check(ip), forbidLoopback.check(ip))
		}
	}
}

// CVE-2020-15157, CVE-2024-3727: the host that a registry redirects to asks for credentials.
func TestCredentialsNeverLeaveTheRegistry(t *testing.T) {
	data := pattern(1000)
	for _, challenge := range []string{"", `Basic realm="x"`, `Bearer realm="REALM/token",service="x"`} {
		var registry, thief *hostile
		thief = newHostile(t, func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.URL.Path == "/token":
				_, _ = io.WriteString(w, `{"token":"abc"}`)
			case r.URL.Path == "/back": // sends us home to see whether we are logged in there
				http.Redirect(w, r, registry.URL+"/v2/some/image/blobs/home", http.StatusFound)
			case challenge != "":
				w.Header().Set("WWW-Authenticate", strings.Replace(challenge, "REALM", thief.URL, 1))
				w.WriteHeader(http.StatusUnauthorized)
			default:
				http.Redirect(w, r, "/back", http.StatusFound)
			}
		})
		registry = newHostile(t, func(w http.ResponseWriter, r *http.Request) {
			switch {
			case strings.HasSuffix(r.URL.Path, "/home"):
				_, _ = w.Write(data)
			case r.Header.Get("Authorization") == "":
				w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
				w.WriteHeader(http.StatusUnauthorized)
			default:
				http.Redirect(w, r, thief.URL+"/blob", http.StatusFound)
			}
		})
		c := testClient(t, func(o *Options) { o.Credentials = login("me", "secret") })
		got, err := readBlob(c, registry.ref(t), blobOf(data), 0)
		if challenge == "" && (err != nil || !bytes.Equal(got, data)) {
			t.Error(err)
		}
		if challenge != "" && !errdef.Is(err, errdef.Denied) {
			t.Errorf("%s: %v", challenge, err)
		}
		if a := thief.authorized(); len(a) != 0 {
			t.Errorf("%s: the thief was given %q", challenge, a)
		}
		if n := len(thief.requests("/token")); n != 0 {
			t.Errorf("%s: the thief's token server was asked", challenge)
		}
		for _, r := range registry.requests("/home") {
			if a := r.Header.Get("Authorization"); a != "" {
				t.Errorf("back from the thief with %q", a)
			}
		}
		if a := registry.authorized(); len(a) != 1 {
			t.Errorf("the registry was given %q", a)
		}
	}
}

func TestRedirectWithinTheRegistryStaysLoggedIn(t *testing.T) {
	data := pattern(100)
	h := newHostile(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get("Authorization") == "":
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
		case r.URL.Path == "/there":
			_, _ = w.Write(data)
		default:
			http.Redirect(w, r, "/there", http.StatusFound)
		}
	})
	c := testClient(t, func(o *Options) { o.Credentials = login("me", "secret") })
	if got, err := readBlob(c, h.ref(t), blobOf(data), 0); err != nil || !bytes.Equal(got, data) {
		t.Error(err)
	}
}

func TestLayersThatAreElsewhereAreNotFetched(t *testing.T) {
	elsewhere := newHostile(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("x")) })
	h := newHostile(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) })
	desc := blobOf([]byte("x"))
	desc.URLs = []string{elsewhere.URL}
	_, err := readBlob(testClient(t, nil), h.ref(t), desc, 0)
	if !errdef.Is(err, errdef.NotFound) || !strings.Contains(err.Error(), "another place") || len(elsewhere.requests("")) != 0 {
		t.Error(err)
	}
}

func TestTLSIsVerifiedUnlessCalledInsecure(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { giveManifest(w, someManifest) }))
	server.Config.ErrorLog = discardLog()
	server.StartTLS()
	defer server.Close()
	h := &hostile{Server: server}
	ref := h.ref(t)
	ref.Domain = "registry.example"
	resolve := func(host Host) error {
		c := testClient(t, func(o *Options) { o.Host = func(string) (Host, error) { return host, nil } })
		c.host(ref.Domain).address = strings.TrimPrefix(server.URL, "https://")
		_, desc, err := c.Resolve(context.Background(), ref)
		if err == nil && image.DigestOf(desc) != image.DigestOf([]byte(someManifest)) {
			t.Error("something else")
		}
		return err
	}
	if err := resolve(Host{}); !errdef.Is(err, errdef.Denied) || errdef.HintOf(err) == "" {
		t.Errorf("an unknown authority: %v", err)
	}
	if err := resolve(Host{Insecure: true}); err != nil {
		t.Error(err)
	}
	roots := server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	if err := resolve(Host{RootCAs: roots}); err != nil {
		t.Error(err)
	}
}

func TestPlainServerIsNotTakenForASecureOne(t *testing.T) {
	h := newHostile(t, func(w http.ResponseWriter, _ *http.Request) { giveManifest(w, someManifest) })
	ref := h.ref(t)
	ref.Domain = "registry.example"
	c := testClient(t, func(o *Options) { o.Credentials = login("me", "secret") })
	c.host(ref.Domain).address = h.host()
	_, _, err := c.Resolve(context.Background(), ref)
	if !errdef.Is(err, errdef.Unavailable) || !strings.Contains(err.Error(), "does not speak TLS") {
		t.Error(err)
	}
}
