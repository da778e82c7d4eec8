package relay

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"berth/internal/errdef"
	"berth/internal/image"
)

// hostile is a layout whose parts a test may spoil.
type hostile struct {
	dir         string
	layer, desc image.Descriptor
	config      image.Descriptor
}

func makeHostile(t *testing.T) hostile {
	t.Helper()
	h := hostile{dir: t.TempDir()}
	put := func(mediaType string, data []byte) image.Descriptor {
		d := image.Descriptor{MediaType: mediaType, Digest: image.DigestOf(data), Size: int64(len(data))}
		h.write(t, d.Digest, data)
		return d
	}
	h.config = put(image.MediaTypeConfig, []byte(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}`))
	h.layer = put(image.MediaTypeLayer, bytes.Repeat([]byte("x"), 1000))
	raw, err := json.Marshal(image.Manifest{SchemaVersion: 2, MediaType: image.MediaTypeManifest, Config: h.config, Layers: []image.Descriptor{h.layer}})
	if err != nil {
		t.Fatal(err)
	}
	h.desc = put(image.MediaTypeManifest, raw)
	h.index(t, h.desc)
	return h
}

func (h hostile) path(d image.Digest) string { return filepath.Join(h.dir, blobPath(d)) }

func (h hostile) write(t *testing.T, d image.Digest, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(h.path(d)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(h.path(d), data, 0o644); err != nil {
		t.Fatal(err)
	}
}

func (h hostile) index(t *testing.T, entries ...image.Descriptor) {
	t.Helper()
	raw, err := json.Marshal(image.Index{SchemaVersion: 2, MediaType: image.MediaTypeIndex, Manifests: entries})
	if err == nil {
		err = os.WriteFile(filepath.Join(h.dir, "index.json"), raw, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// asTar is the same as an archive.
func (h hostile) asTar(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a.tar")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(f)
	if err := w.AddFS(os.DirFS(h.dir)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestHostileSourcesAreRefusedAndLeaveNothing(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte(strings.Repeat("x", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		summary string
		spoil   func(t *testing.T, h hostile)
		kind    errdef.Kind
		onlyDir bool // a tar cannot say it
	}{
		{"A blob of another digest", func(t *testing.T, h hostile) { h.write(t, h.layer.Digest, bytes.Repeat([]byte("y"), 1000)) }, errdef.Corrupt, false},
		{"A blob that is longer", func(t *testing.T, h hostile) { h.write(t, h.layer.Digest, bytes.Repeat([]byte("x"), 1001)) }, errdef.Corrupt, false},
		{"A blob that is shorter", func(t *testing.T, h hostile) { h.write(t, h.layer.Digest, bytes.Repeat([]byte("x"), 999)) }, errdef.Corrupt, false},
		{"A manifest of another digest", func(t *testing.T, h hostile) { h.write(t, h.desc.Digest, []byte(`{"schemaVersion":2}`)) }, errdef.Corrupt, false},
		{"No blob", func(t *testing.T, h hostile) { _ = os.Remove(h.path(h.layer.Digest)) }, errdef.NotFound, false},
		{"A blob that is a link to a file of the host", func(t *testing.T, h hostile) {
			_ = os.Remove(h.path(h.layer.Digest))
			if err := os.Symlink(secret, h.path(h.layer.Digest)); err != nil {
				t.Fatal(err)
			}
		}, errdef.Unknown, true},
		{"A digest that is a path", func(t *testing.T, h hostile) {
			h.index(t, image.Descriptor{MediaType: image.MediaTypeManifest, Digest: "sha256:../../../../etc/passwd", Size: 10})
		}, errdef.Invalid, false},
		{"A manifest of 1 GB", func(t *testing.T, h hostile) { d := h.desc; d.Size = 1 << 30; h.index(t, d) }, errdef.Invalid, false},
		{"Two images and no name", func(t *testing.T, h hostile) { h.index(t, h.desc, h.config) }, errdef.Invalid, false},
		{"An index that names itself", func(t *testing.T, h hostile) {
			raw := []byte(`{"schemaVersion":2,"mediaType":"` + image.MediaTypeIndex + `","manifests":[{"mediaType":"` + image.MediaTypeIndex + `","digest":"` + string(h.desc.Digest) + `","size":10}]}`)
			h.write(t, h.desc.Digest, raw)
		}, errdef.Corrupt, false},
	} {
		for _, kind := range []string{"oci:", "oci-archive:"} {
			if kind != "oci:" && tt.onlyDir {
				continue
			}
			h := makeHostile(t)
			tt.spoil(t, h)
			from := "oci:" + h.dir
			if kind != "oci:" {
				from = kind + h.asTar(t)
			}
			to := t.TempDir()
			for _, dest := range []string{"oci-archive:" + to + "/x.tar", "oci:" + to + "/layout", "dir:" + to + "/dir"} {
				_, err := Copy(t.Context(), from, dest, Options{All: true})
				if err == nil || tt.kind != errdef.Unknown && !errdef.Is(err, tt.kind) {
					t.Errorf("%s, %s to %s: %v", tt.summary, kind, dest, err)
				}
			}
			for _, left := range []string{"x.tar", "layout/index.json", "dir/manifest.json"} {
				if _, err := os.Lstat(filepath.Join(to, left)); err == nil {
					t.Errorf("%s, %s: %s has been made", tt.summary, kind, left)
				}
			}
			found, _ := filepath.Glob(filepath.Join(to, ".tmp-*"))
			more, _ := filepath.Glob(filepath.Join(to, "*", "*", "*", ".tmp-*"))
			if len(found)+len(more) > 0 {
				t.Errorf("%s, %s: left: %q", tt.summary, kind, append(found, more...))
			}
		}
	}
}
