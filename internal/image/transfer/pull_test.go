package transfer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"berth/internal/errdef"
	"berth/internal/image"
	"berth/internal/image/reference"
)

var amd64 = image.Platform{OS: "linux", Architecture: "amd64"}

func TestPullFetchesEverythingOnceAndNamesIt(t *testing.T) {
	s := newServer(t)
	layers := [][]byte{noise(1, 300_000), noise(2, 10), noise(3, 500_000), noise(2, 10)} // one twice
	host := image.HostPlatform()
	desc, m := s.image("", host, layers, nil)
	other, _ := s.image("", image.Platform{OS: "linux", Architecture: "s390x"}, [][]byte{noise(9, 10)}, nil)
	index := s.document("tag", image.MediaTypeIndex, image.Index{SchemaVersion: 2, MediaType: image.MediaTypeIndex, Manifests: []image.Descriptor{other, desc}})
	p := newPlace(t, t.TempDir())

	result, err := Pull(context.Background(), s.ref("tag"), p.Options)
	if err != nil {
		t.Fatal(err)
	}
	if result != (Result{Digest: index.Digest, ID: m.Config.Digest, Newer: true}) {
		t.Errorf("%+v", result)
	}
	if p.names.names[s.ref("tag").String()] != index.Digest || len(p.layers.chains) != 4 {
		t.Errorf("names %v, %d layers", p.names.names, len(p.layers.chains))
	}
	for _, d := range append([]image.Descriptor{m.Config, desc, index}, m.Layers...) {
		if !p.Content.Has(d.Digest) {
			t.Errorf("%s is missing", d.MediaType)
		}
	}
	if p.Content.Has(other.Digest) {
		t.Error("another platform's manifest was fetched")
	}
	if n := s.requests("GET", "/blobs/"); n != 4 { // config and three layers
		t.Errorf("%d blobs fetched", n)
	}
	last := map[image.Digest]State{}
	for _, e := range p.events {
		if e.Layer != "" && e.State < last[e.Layer] {
			t.Errorf("%+v after %v", e, last[e.Layer])
		}
		last[e.Layer] = e.State
	}
	for _, l := range m.Layers {
		if last[l.Digest] != Done {
			t.Errorf("the last word on %s is %v", l.Digest, last[l.Digest])
		}
	}

	// Again: nothing but a question whether it is still the same.
	s.forget()
	if result, err = Pull(context.Background(), s.ref("tag"), p.Options); err != nil || result.Newer {
		t.Errorf("%+v, %v", result, err)
	}
	if s.requests("GET", "/some/") != 0 || s.requests("HEAD") != 1 {
		t.Errorf("%q", s.log)
	}

	// By digest: what is here is not asked for at all.
	s.forget()
	ref := s.ref("tag")
	ref.Tag, ref.Digest = "", desc.Digest
	if result, err = Pull(context.Background(), ref, p.Options); err != nil || result.Digest != desc.Digest || s.requests("/some/") != 0 {
		t.Errorf("%+v, %v, %q", result, err, s.log)
	}
}

func TestPullChoosesThePlatform(t *testing.T) {
	s := newServer(t)
	arm := image.Platform{OS: "linux", Architecture: "arm64"}
	a, _ := s.image("amd64", amd64, [][]byte{noise(1, 10)}, nil)
	b, mb := s.image("arm64", arm, [][]byte{noise(2, 10)}, nil)
	inner := s.document("", image.MediaTypeDockerList, image.Index{SchemaVersion: 2, MediaType: image.MediaTypeDockerList, Manifests: []image.Descriptor{a, b}})
	nested := s.document("nested", image.MediaTypeIndex, image.Index{SchemaVersion: 2, Manifests: []image.Descriptor{inner}})
	p := newPlace(t, t.TempDir())
	p.Platform = &arm
	for _, tag := range []string{"nested", "arm64"} {
		result, err := Pull(context.Background(), s.ref(tag), p.Options)
		if err != nil || result.ID != mb.Config.Digest {
			t.Errorf("%s: %+v, %v", tag, result, err)
		}
	}
	if _, err := Pull(context.Background(), s.ref("amd64"), p.Options); !errdef.Is(err, errdef.NotFound) || errdef.HintOf(err) != "there is one for linux/amd64" {
		t.Errorf("%v (%s)", err, errdef.HintOf(err))
	}
	p.Platform = &image.Platform{OS: "linux", Architecture: "riscv64"}
	if _, err := Pull(context.Background(), s.ref("nested"), p.Options); !errdef.Is(err, errdef.NotFound) {
		t.Error(err)
	}
	_ = nested
}

func TestHostileImagesAreRefused(t *testing.T) {
	lie := image.DigestOf([]byte("lie"))
	layer := [][]byte{noise(1, 5000)}
	for _, tt := range []struct {
		summary string
		make    func(s *server)
		want    errdef.Kind
	}{
		{"a layer of another diff ID", func(s *server) {
			s.image("tag", amd64, layer, func(_ *image.Manifest, c *image.Image) { c.RootFS.DiffIDs[0] = lie })
		}, errdef.Corrupt},
		{"more diff IDs than layers", func(s *server) {
			s.image("tag", amd64, layer, func(_ *image.Manifest, c *image.Image) { c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, lie) })
		}, errdef.Invalid},
		{"a layer that is larger than announced", func(s *server) {
			s.image("tag", amd64, layer, func(m *image.Manifest, _ *image.Image) { m.Layers[0].Size-- })
		}, errdef.Corrupt},
		{"a layer that is smaller than announced", func(s *server) {
			s.image("tag", amd64, layer, func(m *image.Manifest, _ *image.Image) { m.Layers[0].Size++ })
		}, errdef.Corrupt},
		{"a config of a gigabyte", func(s *server) {
			s.image("tag", amd64, layer, func(m *image.Manifest, _ *image.Image) {
				m.Config = image.Descriptor{MediaType: image.MediaTypeConfig, Digest: lie, Size: 1 << 30}
			})
		}, errdef.Invalid},
		{"one blob with two sizes", func(s *server) {
			s.image("tag", amd64, [][]byte{layer[0], layer[0]}, func(m *image.Manifest, _ *image.Image) { m.Layers[1].Size++ })
		}, errdef.Invalid},
		{"other bytes under a layer's digest", func(s *server) {
			_, m := s.image("tag", amd64, layer, nil)
			s.intercept(func(w http.ResponseWriter, r *http.Request) bool {
				if strings.Contains(r.URL.Path, m.Layers[0].Digest.Hex()) {
					_, _ = w.Write(make([]byte, m.Layers[0].Size))
					return true
				}
				return false
			})
		}, errdef.Corrupt},
		{"an index in an index in an index, and so on", func(s *server) {
			desc, _ := s.image("", image.HostPlatform(), layer, nil)
			platform := image.HostPlatform()
			for range image.MaxIndexDepth + 1 {
				desc.Platform = &platform
				desc = s.document("tag", image.MediaTypeIndex, image.Index{SchemaVersion: 2, Manifests: []image.Descriptor{desc}})
			}
		}, errdef.Invalid},
		{"an index that names itself, by lying about its digest", func(s *server) {
			platform := image.HostPlatform()
			self := image.Descriptor{MediaType: image.MediaTypeIndex, Digest: lie, Size: 1000, Platform: &platform}
			raw := fmt.Appendf(nil, `{"schemaVersion":2,"manifests":[{"mediaType":%q,"digest":%q,"size":1000,"platform":{"os":"linux","architecture":%q}}]}`, self.MediaType, lie, platform.Architecture)
			raw = append(raw, bytes.Repeat([]byte(" "), 1000-len(raw))...)
			s.intercept(func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.Contains(r.URL.Path, "/manifests/") {
					return false
				}
				w.Header().Set("Content-Type", image.MediaTypeIndex)
				_, _ = w.Write(raw)
				return true
			})
		}, errdef.Corrupt},
		{"a chart", func(s *server) {
			s.image("tag", amd64, layer, func(m *image.Manifest, _ *image.Image) {
				m.Config = s.blob("application/vnd.cncf.helm.config.v1+json", []byte("{}"))
			})
		}, errdef.Unsupported},
		{"nothing of that name", func(*server) {}, errdef.NotFound},
	} {
		t.Run(tt.summary, func(t *testing.T) {
			s := newServer(t)
			tt.make(s)
			p := newPlace(t, t.TempDir())
			_, err := Pull(context.Background(), s.ref("tag"), p.Options)
			if !errdef.Is(err, tt.want) || !strings.HasPrefix(err.Error(), "cannot pull "+s.ref("tag").Familiar()+": ") || strings.Contains(err.Error(), "\n") {
				t.Errorf("%v (%v), want %v", err, errdef.KindOf(err), tt.want)
			}
			if len(p.names.names) != 0 || len(p.layers.chains) != 0 {
				t.Errorf("left behind: names %v, %d layers", p.names.names, len(p.layers.chains))
			}
			if p.Content.Has(lie) {
				t.Error("a lie was stored")
			}
		})
	}
}

// The layer is unpacked before the last byte of its blob was sent.
func TestUnpackingOverlapsFetching(t *testing.T) {
	s := newServer(t)
	data := noise(1, 1<<20)
	_, m := s.image("tag", amd64, [][]byte{data}, nil)
	blob := compress(data)
	p := newPlace(t, t.TempDir())
	s.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, m.Layers[0].Digest.Hex()) {
			return false
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(blob)))
		_, _ = w.Write(blob[:len(blob)/2])
		w.(http.Flusher).Flush()
		for end := time.Now().Add(time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
			p.layers.mu.Lock()
			working := p.layers.working
			p.layers.mu.Unlock()
			if working == 1 {
				_, _ = w.Write(blob[len(blob)/2:])
				return true
			}
		}
		t.Error("nobody unpacks while the rest of the layer is still to come")
		return true
	})
	if _, err := Pull(context.Background(), s.ref("tag"), p.Options); err != nil {
		t.Fatal(err)
	}
}

func TestLayersAreFetchedSeveralAtATime(t *testing.T) {
	s := newServer(t)
	var layers [][]byte
	for i := range 12 {
		layers = append(layers, noise(uint64(i), 1000))
	}
	_, m := s.image("tag", amd64, layers, nil)
	var mu sync.Mutex
	now, most := 0, 0
	s.intercept(func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/blobs/") && !strings.Contains(r.URL.Path, m.Config.Digest.Hex()) {
			mu.Lock()
			now++
			most = max(most, now)
			mu.Unlock()
			time.Sleep(20 * time.Millisecond)
			mu.Lock()
			now--
			mu.Unlock()
		}
		return false
	})
	p := newPlace(t, t.TempDir())
	p.Parallel = 4
	if _, err := Pull(context.Background(), s.ref("tag"), p.Options); err != nil {
		t.Fatal(err)
	}
	if most != 4 {
		t.Errorf("%d at a time", most)
	}
}

func TestOneFailureStopsAllLayers(t *testing.T) {
	s := newServer(t)
	_, m := s.image("tag", amd64, [][]byte{noise(1, 1000), noise(2, 1000), noise(3, 1000)}, nil)
	s.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		switch {
		case strings.Contains(r.URL.Path, m.Layers[1].Digest.Hex()):
			w.WriteHeader(http.StatusNotFound)
			return true
		case strings.Contains(r.URL.Path, m.Layers[0].Digest.Hex()):
			<-r.Context().Done()
		}
		return false
	})
	for range 20 {
		began := time.Now()
		_, err := Pull(context.Background(), s.ref("tag"), newPlace(t, t.TempDir()).Options)
		if !errdef.Is(err, errdef.NotFound) || time.Since(began) > time.Second {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		if strings.Contains(err.Error(), "unpack") {
			t.Errorf("what followed from the failure is told for the failure: %v", err)
		}
	}
}

func TestPullCanBeGivenUp(t *testing.T) {
	s := newServer(t)
	_, m := s.image("tag", amd64, [][]byte{noise(1, 1000)}, nil)
	ctx, cancel := context.WithCancelCause(context.Background())
	why := errors.New("enough")
	s.intercept(func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, m.Layers[0].Digest.Hex()) {
			cancel(why)
			<-r.Context().Done()
		}
		return false
	})
	p := newPlace(t, t.TempDir())
	_, err := Pull(ctx, s.ref("tag"), p.Options)
	if !errdef.Is(err, errdef.Cancelled) || !errors.Is(err, why) || len(p.names.names) != 0 {
		t.Error(err)
	}
}

// A power cut can leave a file with the right length and zeros in it.
func TestDamagedLeftoversAreFetchedAgain(t *testing.T) {
	s := newServer(t)
	_, m := s.image("tag", amd64, [][]byte{noise(1, 300_000)}, nil)
	dir := t.TempDir()
	p := newPlace(t, dir)
	for _, d := range append(m.Layers, m.Config) {
		if err := os.WriteFile(filepath.Join(dir, "ingest", "sha256-"+d.Digest.Hex()), make([]byte, d.Size/2), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Pull(context.Background(), s.ref("tag"), p.Options); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(p.notices(), "damaged") {
		t.Errorf("notices %s", p.notices())
	}
}

func TestTwoPullsFetchOnce(t *testing.T) {
	s := newServer(t)
	_, m := s.image("tag", amd64, [][]byte{noise(1, 1<<20), noise(2, 1<<20)}, nil)
	s.forget()
	dir := t.TempDir()
	var wg sync.WaitGroup
	for range 3 {
		p := newPlace(t, dir)
		wg.Go(func() {
			if _, err := Pull(context.Background(), s.ref("tag"), p.Options); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, d := range append(m.Layers, m.Config) {
		if n := s.requests("GET", d.Digest.Hex()); n != 1 {
			t.Errorf("%s was fetched %d times", d.MediaType, n)
		}
	}
}

// TestKilledPull is not a test but the process that TestPullContinuesAfterKills kills.
func TestKilledPull(t *testing.T) {
	name, dir := os.Getenv("BERTH_TEST_PULL"), os.Getenv("BERTH_TEST_DIR")
	if name == "" {
		t.Skip("only a part of TestPullContinuesAfterKills")
	}
	ref, err := reference.Parse(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Pull(context.Background(), ref, newPlace(t, dir).Options); err != nil {
		t.Fatal(err)
	}
}

func TestPullContinuesAfterKills(t *testing.T) {
	s := newServer(t)
	var size int64
	_, m := s.image("tag", amd64, [][]byte{noise(1, 6<<20), noise(2, 5<<20), noise(3, 5<<20)}, nil)
	for _, d := range m.Layers {
		size += d.Size
	}
	blobs := map[string][]byte{}
	for i, d := range m.Layers {
		blobs[string(d.Digest)] = compress(noise(uint64(i+1), []int{6 << 20, 5 << 20, 5 << 20}[i]))
	}
	s.forget()
	// A line of some 5 MB/s for each layer, so that what is on its way is little.
	s.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		data, ok := blobs[filepath.Base(r.URL.Path)]
		if !ok {
			return false
		}
		from := 0
		_, _ = fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from)
		if from > 0 {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(data)-1, len(data)))
			w.WriteHeader(http.StatusPartialContent)
		}
		for from < len(data) && r.Context().Err() == nil {
			n, err := w.Write(data[from:min(from+16<<10, len(data))])
			if err != nil {
				break
			}
			w.(http.Flusher).Flush()
			from += n
			s.mu.Lock()
			s.sent += int64(n)
			s.mu.Unlock()
			time.Sleep(3 * time.Millisecond)
		}
		return true
	})
	dir := t.TempDir()
	run := func() *exec.Cmd {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilledPull$", "-test.v")
		cmd.Env = append(os.Environ(), "BERTH_TEST_PULL="+s.ref("tag").String(), "BERTH_TEST_DIR="+dir)
		return cmd
	}
	const kills = 10
	for i := range kills {
		cmd := run()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(50+13*i) * time.Millisecond)
		_ = cmd.Process.Kill()
		if err := cmd.Wait(); err == nil {
			t.Fatalf("pull %d was complete before it was killed", i)
		}
	}
	if out, err := run().CombinedOutput(); err != nil || !strings.Contains(string(out), "PASS: TestKilledPull") {
		t.Fatalf("%v: %s", err, out)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// At each kill what is in the buffers of the connections is lost; on a busy machine they are full.
	if s.sent < size || s.sent > size+4<<20 {
		t.Errorf("%d bytes were sent for layers of %d, %d too many", s.sent, size, s.sent-size)
	}
	t.Logf("%d bytes sent twice", s.sent-size)
}

// The same layer, compressed otherwise: its diff ID is right, its digest is not, and nobody knows before the last byte.
func TestReadersMeetTheEndOnlyAfterVerification(t *testing.T) {
	for range 20 {
		s := newServer(t)
		data := noise(1, 200_000)
		_, m := s.image("tag", amd64, [][]byte{data}, nil)
		other := compress(data)
		other[9] = 7 // the operating system in gzip's header (RFC 1952)
		s.intercept(func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.Contains(r.URL.Path, m.Layers[0].Digest.Hex()) {
				return false
			}
			_, _ = w.Write(other)
			return true
		})
		p := newPlace(t, t.TempDir())
		_, err := Pull(context.Background(), s.ref("tag"), p.Options)
		if !errdef.Is(err, errdef.Corrupt) || strings.Contains(err.Error(), "unpack") {
			t.Fatal(err)
		}
		if len(p.layers.chains) != 0 || len(p.names.names) != 0 {
			t.Fatal("a layer from an unverified blob was kept")
		}
	}
}
