package registry

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"berth/internal/errdef"
	"berth/internal/image"
)

func TestResolveRefusesWhatIsNotWhatItSays(t *testing.T) {
	index := `{"schemaVersion":2,"mediaType":"` + image.MediaTypeIndex + `","manifests":[]}`
	both := `{"schemaVersion":2,"config":{},"layers":[],"manifests":[]}`
	schema1 := `{"schemaVersion":1,"name":"x","tag":"y","fsLayers":[],"history":[],"signatures":[]}`
	lie := string(image.DigestOf([]byte("something else")))
	for _, tt := range []struct {
		summary           string
		contentType, body string
		digest            string
		want              errdef.Kind
	}{
		{"a manifest is taken", image.MediaTypeManifest, someManifest, "", errdef.Unknown},
		{"a content type that says nothing leaves the word to the document", "application/json", someManifest, "", errdef.Unknown},
		{"the announced digest is not that of the bytes", image.MediaTypeManifest, someManifest, lie, errdef.Corrupt},
		{"the announced digest is none", image.MediaTypeManifest, someManifest, "sha256:../../x", errdef.Corrupt},
		{"header and document contradict each other", image.MediaTypeIndex, someManifest, "", errdef.Invalid},
		{"an index is called a manifest", image.MediaTypeManifest, index, "", errdef.Invalid},
		{"a manifest that is also an index", image.MediaTypeManifest, both, "", errdef.Invalid},
		{"schema 1", "application/vnd.docker.distribution.manifest.v1+prettyjws", schema1, "", errdef.Unsupported},
		{"a web page", "text/html", "<html>", "", errdef.Invalid},
		{"something else in JSON", "application/json", `{"hello":1}`, "", errdef.Unsupported},
		{"5 MiB", image.MediaTypeManifest, someManifest + strings.Repeat(" ", 5<<20), "", errdef.Corrupt},
	} {
		t.Run(tt.summary, func(t *testing.T) {
			h := newHostile(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", tt.contentType)
				if tt.digest != "" {
					w.Header().Set("Docker-Content-Digest", tt.digest)
				}
				_, _ = io.WriteString(w, tt.body)
			})
			desc, raw, err := testClient(t, nil).Resolve(context.Background(), h.ref(t))
			if errdef.KindOf(err) != tt.want || (err == nil) != (tt.want == errdef.Unknown) {
				t.Fatalf("error %v of kind %v, want kind %v", err, errdef.KindOf(err), tt.want)
			}
			if err == nil && (string(raw) != tt.body || desc.Digest != image.DigestOf(raw) || desc.MediaType != image.MediaTypeManifest) {
				t.Errorf("got %+v", desc)
			}
		})
	}
}

func TestResolveByDigestVerifiesTheDigest(t *testing.T) {
	h := newHostile(t, func(w http.ResponseWriter, _ *http.Request) { giveManifest(w, someManifest) })
	ref := h.ref(t)
	c := testClient(t, nil)
	ref.Digest = image.DigestOf([]byte(someManifest))
	if desc, _, err := c.Resolve(context.Background(), ref); err != nil || desc.Digest != ref.Digest {
		t.Errorf("the right digest: %v, %v", desc.Digest, err)
	}
	ref.Digest = image.DigestOf([]byte("another"))
	if _, _, err := c.Resolve(context.Background(), ref); !errdef.Is(err, errdef.Corrupt) {
		t.Errorf("another manifest than was asked for: %v", err)
	}
}

func TestManifestVerifiesDigestSizeAndType(t *testing.T) {
	h := newHostile(t, func(w http.ResponseWriter, _ *http.Request) { giveManifest(w, someManifest) })
	c, ref := testClient(t, nil), h.ref(t)
	good := image.Descriptor{MediaType: image.MediaTypeManifest, Digest: image.DigestOf([]byte(someManifest)), Size: int64(len(someManifest))}
	if _, err := c.Manifest(context.Background(), ref, good); err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(*image.Descriptor){
		"digest":     func(d *image.Descriptor) { d.Digest = image.DigestOf(nil) },
		"less":       func(d *image.Descriptor) { d.Size-- },
		"more":       func(d *image.Descriptor) { d.Size++ },
		"huge":       func(d *image.Descriptor) { d.Size = 1 << 40 },
		"negative":   func(d *image.Descriptor) { d.Size = -1 },
		"media type": func(d *image.Descriptor) { d.MediaType = image.MediaTypeDockerManifest },
	} {
		desc := good
		change(&desc)
		if _, err := c.Manifest(context.Background(), ref, desc); err == nil {
			t.Errorf("wrong %s: no error", what)
		}
	}
}

func TestErrorsHaveDockersMeaning(t *testing.T) {
	for _, tt := range []struct {
		status int
		body   string
		want   errdef.Kind
		text   string
	}{
		{404, `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}`, errdef.NotFound, "manifest unknown"},
		{404, `<html>`, errdef.NotFound, "has no manifest tag"},
		{401, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication\u001b[31m required\nreally"}]}`, errdef.Denied, "authentication [31m required really"},
		{403, ``, errdef.Denied, "may not exist, or need a login"},
		{418, ``, errdef.Unavailable, "418"},
		{400, `{"errors":[{"code":"X","message":"` + strings.Repeat("x", 5000) + `"}]}`, errdef.Unavailable, "…"},
	} {
		h := newHostile(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(tt.status)
			_, _ = io.WriteString(w, tt.body)
		})
		_, _, err := testClient(t, nil).Resolve(context.Background(), h.ref(t))
		if errdef.KindOf(err) != tt.want || !strings.Contains(err.Error(), tt.text) || strings.ContainsAny(err.Error(), "\n\x1b") || len(err.Error()) > 600 {
			t.Errorf("%d: %v (%v)", tt.status, err, errdef.KindOf(err))
		}
		if tt.want == errdef.Denied && errdef.HintOf(err) != "berth login "+h.host() {
			t.Errorf("%d: hint %q", tt.status, errdef.HintOf(err))
		}
	}
}

func TestRegistryThatIsNotThereIsSaidAtOnce(t *testing.T) {
	h := newHostile(t, nil)
	ref := h.ref(t)
	h.Close()
	began := time.Now()
	_, _, err := testClient(t, nil).Resolve(context.Background(), ref)
	if !errdef.Is(err, errdef.Unavailable) || time.Since(began) > 2*time.Second {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
}

func TestServerErrorsAreRetriedAndRetryAfterIsHonoured(t *testing.T) {
	n := 0
	h := newHostile(t, func(w http.ResponseWriter, _ *http.Request) {
		switch n++; n {
		case 1:
			w.WriteHeader(500)
		case 2:
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(429)
		default:
			giveManifest(w, someManifest)
		}
	})
	var notices []string
	c := testClient(t, nil).Notify(func(line string) { notices = append(notices, line) })
	began := time.Now()
	if _, _, err := c.Resolve(context.Background(), h.ref(t)); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < time.Second {
		t.Errorf("came back after %v", took)
	}
	if len(notices) != 2 || !strings.Contains(notices[1], "too many requests; trying again in 1s") {
		t.Errorf("notices %q", notices)
	}
}

func TestRetryAfterIsBounded(t *testing.T) {
	h := newHostile(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "21600")
		w.WriteHeader(429)
	})
	began := time.Now()
	_, _, err := testClient(t, nil).Resolve(context.Background(), h.ref(t))
	if !errdef.Is(err, errdef.Unavailable) || !strings.Contains(err.Error(), "6h0m0s") || time.Since(began) > 2*time.Second {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
}

func TestSlowManifestIsGivenUp(t *testing.T) {
	h := newHostile(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", image.MediaTypeManifest)
		for r.Context().Err() == nil { // a byte now and then, for ever
			_, _ = io.WriteString(w, " ")
			w.(http.Flusher).Flush()
			time.Sleep(20 * time.Millisecond)
		}
	})
	c := testClient(t, func(o *Options) { o.StallTimeout = 100 * time.Millisecond })
	began := time.Now()
	_, _, err := c.Resolve(context.Background(), h.ref(t))
	if !errdef.Is(err, errdef.Unavailable) || time.Since(began) > 20*time.Second {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
}

func TestCallerCanGiveUp(t *testing.T) {
	h := newHostile(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	why := errors.New("enough")
	ctx, cancel := context.WithTimeoutCause(context.Background(), 100*time.Millisecond, why)
	defer cancel()
	began := time.Now()
	_, _, err := testClient(t, nil).Resolve(ctx, h.ref(t))
	if !errdef.Is(err, errdef.Cancelled) || !errors.Is(err, why) || time.Since(began) > 2*time.Second {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
}

func TestHeadGivesTheDigest(t *testing.T) {
	h := newHostile(t, func(w http.ResponseWriter, _ *http.Request) { giveManifest(w, someManifest) })
	d, err := testClient(t, nil).Head(context.Background(), h.ref(t))
	if err != nil || d != image.DigestOf([]byte(someManifest)) {
		t.Errorf("%v, %v", d, err)
	}
	for _, r := range h.requests("manifests") {
		if r.Method != http.MethodHead {
			t.Errorf("%s %s", r.Method, r.URL)
		}
	}
}

func TestEveryRequestSaysWhoWeAre(t *testing.T) {
	h := newHostile(t, func(w http.ResponseWriter, _ *http.Request) { giveManifest(w, someManifest) })
	if _, _, err := testClient(t, nil).Resolve(context.Background(), h.ref(t)); err != nil {
		t.Fatal(err)
	}
	for _, r := range h.requests("manifests") {
		if r.UserAgent() != "berth/test" || len(r.Header.Values("Accept")) != 4 {
			t.Errorf("%v", r.Header)
		}
	}
}

func TestEndlessManifestIsNotRead(t *testing.T) {
	var sent atomic.Int64
	h := newHostile(t, skipProbe(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", image.MediaTypeManifest)
		for sent.Load() < 256<<20 {
			n, err := w.Write(make([]byte, 64<<10))
			if sent.Add(int64(n)); err != nil {
				return
			}
		}
	}))
	_, _, err := testClient(t, nil).Resolve(context.Background(), h.ref(t))
	if !errdef.Is(err, errdef.Corrupt) || sent.Load() > 64<<20 {
		t.Errorf("%v after %d bytes", err, sent.Load())
	}
}
