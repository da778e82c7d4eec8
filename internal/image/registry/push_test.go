package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"berth/internal/errdef"
	"berth/internal/image"
	"berth/internal/image/reference"
)

// taker is a registry that takes blobs, as the distribution specification has it, and can be told to fail.
type taker struct {
	mu      sync.Mutex
	got     []byte
	whole   []byte         // what was put under a digest
	fail    map[string]int // how often a method is answered 500; of PATCH, after half of it was taken
	noParts bool
	sent    int64 // bytes of all bodies
}

func (k *taker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	k.mu.Lock()
	defer k.mu.Unlock()
	here := "/v2/some/image/blobs/uploads/1?state=x%2Fy"
	failing := k.fail[r.Method] > 0
	if failing {
		k.fail[r.Method]--
	}
	body, _ := io.ReadAll(r.Body)
	k.sent += int64(len(body))
	switch {
	case r.Method == http.MethodHead:
		w.WriteHeader(http.StatusNotFound)
	case r.Method == http.MethodPost:
		k.got = nil
		w.Header().Set("Location", here)
		w.WriteHeader(http.StatusAccepted)
	case r.URL.Query().Get("state") != "x/y" || !strings.Contains(r.URL.RawQuery, "state=x%2Fy"):
		w.WriteHeader(http.StatusForbidden)
	case r.Method == http.MethodPatch && k.noParts:
		w.WriteHeader(http.StatusMethodNotAllowed)
	case r.Method == http.MethodPatch:
		if want := fmt.Sprintf("%d-%d", len(k.got), len(k.got)+len(body)-1); r.Header.Get("Content-Range") != want {
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			return
		}
		if failing {
			body = body[:len(body)/2]
		}
		k.got = append(k.got, body...)
		k.progress(w, here)
		if failing {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		w.WriteHeader(http.StatusAccepted)
	case r.Method == http.MethodGet:
		k.progress(w, here)
		w.WriteHeader(http.StatusNoContent)
	case r.Method == http.MethodPut && failing:
		w.WriteHeader(http.StatusBadGateway)
	case r.Method == http.MethodPut:
		k.whole = append(k.got, body...)
		if d := r.URL.Query().Get("digest"); d != string(image.DigestOf(k.whole)) {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		w.WriteHeader(http.StatusCreated)
	}
}

func (k *taker) progress(w http.ResponseWriter, here string) {
	w.Header().Set("Location", here)
	w.Header().Set("Range", fmt.Sprintf("0-%d", max(len(k.got)-1, 0)))
}

func sourceOf(data []byte) Source {
	return Source{Open: func(offset int64) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data[offset:])), nil }}
}

func TestPutBlob(t *testing.T) {
	small, large := pattern(1000), pattern(2*chunkBytes+wholeBytes/2)
	for _, tt := range []struct {
		summary string
		data    []byte
		taker   *taker
		most    int64 // bytes that may be sent
	}{
		{"a small one", small, &taker{}, 1000},
		{"an empty one", nil, &taker{}, 0},
		{"a small one whose PUT fails", small, &taker{fail: map[string]int{http.MethodPut: 2}}, 3000},
		{"a large one", large, &taker{}, int64(len(large))},
		{"a large one whose chunk breaks twice goes on where it stopped", large, &taker{fail: map[string]int{http.MethodPatch: 2}}, int64(len(large)) + chunkBytes},
		{"a large one whose end fails", large, &taker{fail: map[string]int{http.MethodPut: 1}}, int64(len(large))},
		{"a large one for a registry that takes no parts", large, &taker{noParts: true}, int64(len(large)) + chunkBytes},
	} {
		t.Run(tt.summary, func(t *testing.T) {
			h := newHostile(t, tt.taker.ServeHTTP)
			c := testClient(t, nil)
			stored, err := c.PutBlob(context.Background(), h.ref(t), blobOf(tt.data), sourceOf(tt.data))
			if err != nil || stored != (Stored{}) {
				t.Fatalf("%+v, %v", stored, err)
			}
			if !bytes.Equal(tt.taker.whole, tt.data) || tt.taker.sent > tt.most {
				t.Errorf("the registry has %d bytes of %d, and was sent %d", len(tt.taker.whole), len(tt.data), tt.taker.sent)
			}
		})
	}
}

// The scopes that a push asks for: of one that mounts, both repositories (distribution's token specification).
func TestScopesOfAPush(t *testing.T) {
	var h *hostile
	var asked []string
	h = newHostile(t, func(w http.ResponseWriter, r *http.Request) {
		scopes := strings.Join(r.URL.Query()["scope"], " ")
		switch {
		case r.URL.Path == "/token":
			asked = append(asked, scopes)
			_, _ = fmt.Fprintf(w, `{"token":%q}`, strings.NewReplacer(" ", ";").Replace(scopes))
		case r.Header.Get("Authorization") == "":
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="x",scope="repository:some/image:pull"`, h.URL))
			w.WriteHeader(http.StatusUnauthorized)
		case r.Method == http.MethodHead:
			w.WriteHeader(http.StatusNotFound)
		case r.URL.Query().Get("from") == "other/image" && strings.Contains(r.Header.Get("Authorization"), "other/image"):
			w.WriteHeader(http.StatusCreated)
		default:
			w.WriteHeader(http.StatusForbidden)
		}
	})
	from := sourceOf(nil)
	from.From = []string{"other/image"}
	stored, err := testClient(t, nil).PutBlob(context.Background(), h.ref(t), blobOf([]byte("x")), from)
	if err != nil || stored.Mounted != "other/image" {
		t.Fatalf("%+v, %v", stored, err)
	}
	want := []string{
		"repository:some/image:pull,push repository:some/image:pull",
		"repository:some/image:pull,push repository:other/image:pull repository:some/image:pull",
	}
	if !slices.Equal(asked, want) {
		t.Errorf("asked for %q", asked)
	}
}

// CVE-2020-15157 for uploads: what a registry says about where the bytes go must not carry credentials to others, nor lead anywhere bad.
func TestUploadsGoNowhereBad(t *testing.T) {
	secret := func(o *Options) {
		o.Credentials = func(context.Context, reference.Reference) (Credentials, error) {
			return Credentials{Username: "me", Password: "secret"}, nil
		}
	}
	data := pattern(1000)
	thief := newHostile(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
	})
	for _, tt := range []struct {
		location string
		reaches  bool
	}{
		{thief.URL + "/upload", true}, // storage elsewhere is common, and gets the bytes alone
		{"file:///etc/passwd", false},
		{"http://169.254.169.254/latest/meta-data/", false},
		{"", false},
		{"unix:/run/docker.sock", false},
	} {
		h := newHostile(t, func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.Header.Get("Authorization") == "":
				w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
				w.WriteHeader(http.StatusUnauthorized)
			case r.Method == http.MethodHead:
				w.WriteHeader(http.StatusNotFound)
			default:
				w.Header()["Location"] = []string{tt.location}
				w.WriteHeader(http.StatusAccepted)
			}
		})
		_, err := testClient(t, secret).PutBlob(context.Background(), h.ref(t), blobOf(data), sourceOf(data))
		if err == nil || len(h.authorized()) == 0 {
			t.Errorf("%q: %v", tt.location, err)
		}
		if got := len(thief.requests("upload")) > 0; got != tt.reaches {
			t.Errorf("%q: reached %v", tt.location, got)
		}
		if a := thief.authorized(); len(a) > 0 {
			t.Errorf("%q: credentials went elsewhere: %q", tt.location, a)
		}
		thief.mu.Lock()
		thief.log = nil
		thief.mu.Unlock()
	}
}

// Where a redirect has led to, nobody chooses what is asked at home with our credentials.
func TestAnUploadThatIsRedirectedDoesNotComeHomeWithCredentials(t *testing.T) {
	var home, away *hostile
	away = newHostile(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", home.URL+"/v2/victim/blobs/uploads/1")
		w.WriteHeader(http.StatusAccepted)
	})
	home = newHostile(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		switch {
		case strings.Contains(r.URL.Path, "victim"):
			if r.Header.Get("Authorization") != "" {
				t.Error("credentials for what another host has chosen")
			}
			w.WriteHeader(http.StatusUnauthorized)
		case r.Header.Get("Authorization") == "":
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
		case r.Method == http.MethodHead:
			w.WriteHeader(http.StatusNotFound)
		default:
			w.Header().Set("Location", away.URL)
			w.WriteHeader(http.StatusTemporaryRedirect)
		}
	})
	c := testClient(t, func(o *Options) {
		o.Credentials = func(context.Context, reference.Reference) (Credentials, error) {
			return Credentials{Username: "me", Password: "secret"}, nil
		}
	})
	_, err := c.PutBlob(context.Background(), home.ref(t), blobOf([]byte("x")), sourceOf([]byte("x")))
	if !errdef.Is(err, errdef.Denied) || len(home.requests("victim")) == 0 {
		t.Errorf("%v", err)
	}
}

func TestARegistryThatLiesAboutAnUploadIsNotBelieved(t *testing.T) {
	large := pattern(wholeBytes + 1)
	for _, span := range []string{"0-99999999999", "5-10", "x", "0-", "-1"} {
		k := &taker{}
		h := newHostile(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodPatch {
				k.ServeHTTP(w, r)
				return
			}
			_, _ = io.Copy(io.Discard, r.Body)
			w.Header().Set("Range", span)
			w.WriteHeader(http.StatusAccepted)
		})
		_, err := testClient(t, nil).PutBlob(context.Background(), h.ref(t), blobOf(large), sourceOf(large))
		if !errdef.Is(err, errdef.Corrupt) {
			t.Errorf("%q: %v", span, err)
		}
	}
	// One that never has more than it had.
	k := &taker{}
	h := newHostile(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPatch {
			k.ServeHTTP(w, r)
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Range", "0-0")
		w.WriteHeader(http.StatusAccepted)
	})
	if _, err := testClient(t, nil).PutBlob(context.Background(), h.ref(t), blobOf(large), sourceOf(large)); !errdef.Is(err, errdef.Corrupt) {
		t.Error(err)
	}
	// Another digest than what was sent.
	h = newHostile(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Docker-Content-Digest", string(image.DigestOf([]byte("other"))))
		w.WriteHeader(http.StatusCreated)
	})
	raw := []byte(`{}`)
	if err := testClient(t, nil).PutManifest(context.Background(), h.ref(t), "tag", blobOf(raw), raw); !errdef.Is(err, errdef.Corrupt) {
		t.Error(err)
	}
}

func TestAReaderThatFailsEndsAPush(t *testing.T) {
	k := &taker{}
	h := newHostile(t, k.ServeHTTP)
	broken := errdef.As(errdef.Corrupt, errors.New("the disk is broken"))
	_, err := testClient(t, nil).PutBlob(context.Background(), h.ref(t), blobOf(pattern(10)), Source{Open: func(int64) (io.ReadCloser, error) { return nil, broken }})
	if !errdef.Is(err, errdef.Corrupt) {
		t.Error(err)
	}
}

func TestListsAreBounded(t *testing.T) {
	pages := 0
	h := newHostile(t, func(w http.ResponseWriter, r *http.Request) {
		pages++
		if r.URL.Host != "" || !strings.HasSuffix(r.URL.Path, "/some/image/tags/list") {
			t.Errorf("asked for %s", r.URL)
		}
		if pages < 4 {
			w.Header().Set("Link", fmt.Sprintf(`<http://169.254.169.254/v2/x?n=2&last=%d>; rel="next"`, pages))
		}
		_, _ = fmt.Fprintf(w, `{"name":"x","tags":["t%d"]}`, pages)
	})
	tags, err := testClient(t, nil).Tags(context.Background(), h.ref(t))
	if err != nil || !slices.Equal(tags, []string{"t1", "t2", "t3", "t4"}) {
		t.Errorf("%q, %v", tags, err)
	}
	n := 0
	h = newHostile(t, func(w http.ResponseWriter, r *http.Request) {
		n++
		w.Header().Set("Link", fmt.Sprintf(`</x?last=%d>; rel="next"`, n))
		_, _ = io.WriteString(w, `{"tags":["x"]}`)
	})
	if _, err := testClient(t, nil).Tags(context.Background(), h.ref(t)); !errdef.Is(err, errdef.Corrupt) || n > maxPages {
		t.Errorf("%v after %d pages", err, n)
	}
}
