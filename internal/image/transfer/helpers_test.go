package transfer

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	memory "github.com/google/go-containerregistry/pkg/registry"

	"berth/internal/errdef"
	"berth/internal/image"
	"berth/internal/image/content"
	"berth/internal/image/reference"
	"berth/internal/image/registry"
	"berth/internal/image/unpack"
)

// server is a registry in memory that counts, and does what a test wants before it answers.
type server struct {
	*httptest.Server
	t      *testing.T
	before func(w http.ResponseWriter, r *http.Request) bool // true: answered

	mu   sync.Mutex
	log  []string // METHOD PATH RANGE
	sent int64    // bytes of blobs
}

func newServer(t *testing.T) *server {
	t.Helper()
	s := &server{t: t}
	handler := memory.New(memory.Logger(log.New(io.Discard, "", 0)))
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet || r.Method == http.MethodHead {
			s.mu.Lock()
			s.log = append(s.log, strings.TrimSpace(r.Method+" "+r.URL.Path+" "+r.Header.Get("Range")))
			s.mu.Unlock()
			s.mu.Lock()
			before := s.before
			s.mu.Unlock()
			if before != nil && before(w, r) {
				return
			}
			if strings.Contains(r.URL.Path, "/blobs/") {
				w = &counter{w, s}
			}
		}
		handler.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

type counter struct {
	http.ResponseWriter
	s *server
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.s.mu.Lock()
	c.s.sent += int64(n)
	c.s.mu.Unlock()
	return n, err
}

// intercept lets f answer first.
func (s *server) intercept(f func(w http.ResponseWriter, r *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before = f
}

// requests counts the requests that contain all parts.
func (s *server) requests(parts ...string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
next:
	for _, line := range s.log {
		for _, part := range parts {
			if !strings.Contains(line, part) {
				continue next
			}
		}
		n++
	}
	return n
}

func (s *server) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log, s.sent = nil, 0
}

func (s *server) ref(tag string) reference.Reference {
	ref, err := reference.Parse(s.Listener.Addr().String() + "/some/image:" + tag)
	if err != nil {
		s.t.Fatal(err)
	}
	return ref
}

func (s *server) put(path, mediaType string, data []byte) {
	s.t.Helper()
	req, _ := http.NewRequest(http.MethodPut, s.URL+path, bytes.NewReader(data))
	req.Header.Set("Content-Type", mediaType)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		text, _ := io.ReadAll(resp.Body)
		s.t.Fatalf("PUT %s: %s %s", path, resp.Status, text)
	}
}

func (s *server) blob(mediaType string, data []byte) image.Descriptor {
	s.t.Helper()
	resp, err := http.Post(s.URL+"/v2/some/image/blobs/uploads/", "", nil)
	if err != nil {
		s.t.Fatal(err)
	}
	resp.Body.Close()
	desc := image.Descriptor{MediaType: mediaType, Digest: image.DigestOf(data), Size: int64(len(data))}
	s.put(resp.Header.Get("Location")+"?digest="+string(desc.Digest), "application/octet-stream", data)
	return desc
}

func (s *server) document(tag, mediaType string, doc any) image.Descriptor {
	s.t.Helper()
	raw, err := json.Marshal(doc)
	if err != nil {
		s.t.Fatal(err)
	}
	desc := image.Descriptor{MediaType: mediaType, Digest: image.DigestOf(raw), Size: int64(len(raw))}
	if tag == "" {
		tag = string(desc.Digest)
	}
	s.put("/v2/some/image/manifests/"+tag, mediaType, raw)
	return desc
}

// image makes an image of the given uncompressed layers. change may spoil the manifest.
func (s *server) image(tag string, platform image.Platform, layers [][]byte, change func(*image.Manifest, *image.Image)) (image.Descriptor, image.Manifest) {
	s.t.Helper()
	config := image.Image{Platform: platform, RootFS: image.RootFS{Type: "layers"}}
	m := image.Manifest{SchemaVersion: 2, MediaType: image.MediaTypeManifest}
	for _, layer := range layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, image.DigestOf(layer))
		m.Layers = append(m.Layers, s.blob(image.MediaTypeLayerGzip, compress(layer)))
	}
	if change != nil {
		change(&m, &config)
	}
	raw, err := json.Marshal(config)
	if err != nil {
		s.t.Fatal(err)
	}
	if m.Config.Digest == "" {
		m.Config = s.blob(image.MediaTypeConfig, raw)
	}
	desc := s.document(tag, image.MediaTypeManifest, m)
	desc.Platform = &platform
	return desc, m
}

func compress(data []byte) []byte {
	var b bytes.Buffer
	z, _ := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	_, _ = z.Write(data)
	_ = z.Close()
	return b.Bytes()
}

// noise is n bytes that cannot be compressed, others for another seed.
func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	x := seed*2862933555777941757 + 3037000493
	for i := range b {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		b[i] = byte(x >> 32)
	}
	return b
}

// layerSet is Layers without a file system: it reads a layer as the real one does, and remembers that.
type layerSet struct {
	mu      sync.Mutex
	chains  map[image.Digest]bool
	working int
	most    int // layers at work at the same time
}

func (l *layerSet) Has(chain image.Digest) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.chains[chain]
}

// unpackAll is an Unpack.
func (l *layerSet) unpackAll(ctx context.Context, _ image.Manifest, config image.Image, open func(context.Context, int) (io.ReadCloser, error)) error {
	crew := newCrew(ctx)
	chains := image.ChainIDs(config.RootFS.DiffIDs)
	for i, diffID := range config.RootFS.DiffIDs {
		if l.Has(chains[i]) {
			continue
		}
		crew.start(func(ctx context.Context) error {
			r, err := open(ctx, i)
			if err != nil {
				return fmt.Errorf("cannot unpack layer %d: %w", i, err)
			}
			parent := image.Digest("")
			if i > 0 {
				parent = chains[i-1]
			}
			if err := l.unpack(parent, diffID, r); err != nil {
				return fmt.Errorf("cannot unpack layer %d: %w", i, err)
			}
			return r.Close()
		})
	}
	return crew.wait()
}

func (l *layerSet) unpack(parent, diffID image.Digest, r io.Reader) error {
	l.mu.Lock()
	l.working++
	l.most = max(l.most, l.working)
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		l.working--
		l.mu.Unlock()
	}()
	plain, _, err := unpack.Decompress(r)
	if err != nil {
		return err
	}
	defer plain.Close()
	d := image.NewDigester(image.SHA256)
	if _, err := io.Copy(d, plain); err != nil {
		return err
	}
	if d.Digest() != diffID {
		return errdef.New(errdef.Corrupt, "layer %s has the diff ID %s", diffID, d.Digest())
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.chains[image.ChainID(parent, diffID)] = true
	return nil
}

// nameSet is Names in memory.
type nameSet struct {
	mu    sync.Mutex
	names map[string]image.Digest
}

func (n *nameSet) Digest(name string) (image.Digest, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if d := n.names[name]; d != "" {
		return d, nil
	}
	return "", errdef.New(errdef.NotFound, "no image %s", name)
}

func (n *nameSet) Put(_ context.Context, name string, desc, _ image.Descriptor) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.names[name] = desc.Digest
	return nil
}

// place is where a test pulls to.
type place struct {
	Options
	layers *layerSet
	names  *nameSet
	events []Event
}

func newPlace(t *testing.T, dir string) *place {
	t.Helper()
	store, err := content.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	client := registry.New(registry.Options{
		Version: "test", StallTimeout: 2 * time.Second,
		Proxy: func(*http.Request) (*url.URL, error) { return nil, nil },
	})
	t.Cleanup(client.Close)
	p := &place{layers: &layerSet{chains: map[image.Digest]bool{}}, names: &nameSet{names: map[string]image.Digest{}}}
	p.Options = Options{
		Registry: client, Content: store, Layers: p.layers, Unpack: p.layers.unpackAll, Names: p.names,
		Progress: func(e Event) { p.events = append(p.events, e) },
	}
	return p
}

// text is the events of one kind, for messages.
func (p *place) notices() string {
	var lines []string
	for _, e := range p.events {
		if e.State == Notice {
			lines = append(lines, e.Text)
		}
	}
	return fmt.Sprint(lines)
}
