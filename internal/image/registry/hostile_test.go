package registry

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"berth/internal/image"
	"berth/internal/image/reference"
)

// hostile is a registry that does what a test tells it to.
type hostile struct {
	*httptest.Server
	handle http.HandlerFunc

	mu  sync.Mutex
	log []*http.Request
}

func newHostile(t *testing.T, handle http.HandlerFunc) *hostile {
	t.Helper()
	h := &hostile{handle: handle}
	h.Server = httptest.NewServer(http.HandlerFunc(h.serve))
	h.Config.ErrorLog = nil
	t.Cleanup(func() {
		h.CloseClientConnections()
		h.Close()
	})
	return h
}

func (h *hostile) serve(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	h.log = append(h.log, r)
	h.mu.Unlock()
	h.handle(w, r)
}

// requests are those whose path contains part.
func (h *hostile) requests(part string) []*http.Request {
	h.mu.Lock()
	defer h.mu.Unlock()
	var found []*http.Request
	for _, r := range h.log {
		if strings.Contains(r.URL.Path, part) {
			found = append(found, r)
		}
	}
	return found
}

// authorized is the Authorization header of each request.
func (h *hostile) authorized() []string {
	var all []string
	for _, r := range h.requests("") {
		if a := r.Header.Get("Authorization"); a != "" {
			all = append(all, a)
		}
	}
	return all
}

func (h *hostile) host() string { return h.Listener.Addr().String() }

func (h *hostile) ref(t *testing.T) reference.Reference {
	t.Helper()
	ref, err := reference.Parse(h.host() + "/some/image:tag")
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

// testClient is a client that asks nobody outside, whose notices go to the log.
func testClient(t *testing.T, change func(*Options)) *Client {
	t.Helper()
	opt := Options{
		Version:      "test",
		StallTimeout: 5 * time.Second,
		Proxy:        func(*http.Request) (*url.URL, error) { return nil, nil },
		Notice:       func(line string) { t.Log("notice:", line) },
	}
	if change != nil {
		change(&opt)
	}
	c := New(opt)
	c.firstPause = 20 * time.Millisecond
	t.Cleanup(c.Close)
	return c
}

func login(user, password string) func(context.Context, reference.Reference) (Credentials, error) {
	return func(context.Context, reference.Reference) (Credentials, error) {
		return Credentials{Username: user, Password: password}, nil
	}
}

func giveManifest(w http.ResponseWriter, raw string) {
	w.Header().Set("Content-Type", image.MediaTypeManifest)
	w.Header().Set("Docker-Content-Digest", string(image.DigestOf([]byte(raw))))
	_, _ = io.WriteString(w, raw)
}

const someManifest = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",` +
	`"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0},"layers":[]}`

func blobOf(data []byte) image.Descriptor {
	return image.Descriptor{MediaType: image.MediaTypeLayer, Digest: image.DigestOf(data), Size: int64(len(data))}
}

func readBlob(c *Client, ref reference.Reference, desc image.Descriptor, offset int64) ([]byte, error) {
	r, err := c.Blob(context.Background(), ref, desc, offset)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// pattern is n bytes in which every place can be told from every other near it.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i ^ i>>8 ^ i>>16)
	}
	return b
}

// truncated sends data[from:upto] and then breaks the connection.
func truncated(w http.ResponseWriter, data []byte, from, upto int) {
	if from > 0 {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(data)-1, len(data)))
	}
	w.Header().Set("Content-Length", fmt.Sprint(len(data)-from))
	if from > 0 {
		w.WriteHeader(http.StatusPartialContent)
	}
	_, _ = w.Write(data[from:upto])
	if upto < len(data) {
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
}

func rangeStart(r *http.Request) int {
	var n int
	_, _ = fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &n)
	return n
}
