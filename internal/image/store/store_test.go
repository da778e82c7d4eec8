package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"berth/internal/errdef"
	"berth/internal/image"
	"berth/internal/image/layer"
)

func open(t testing.TB) *Store {
	t.Helper()
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func put(t testing.TB, s *Store, mediaType string, data []byte) image.Descriptor {
	t.Helper()
	d := image.Descriptor{MediaType: mediaType, Digest: image.DigestOf(data), Size: int64(len(data))}
	if err := s.Content.Put(d, data); err != nil {
		t.Fatal(err)
	}
	return d
}

func toJSON(t testing.TB, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// add stores an image of the given layers (their contents) and names it.
func add(t testing.TB, s *Store, name, label string, layers ...string) Record {
	t.Helper()
	config := image.Image{Platform: image.HostPlatform(), RootFS: image.RootFS{Type: "layers"}}
	config.Config.Labels = map[string]string{"l": label}
	m := image.Manifest{SchemaVersion: 2, MediaType: image.MediaTypeManifest}
	parent := image.Digest("")
	for _, l := range layers {
		d := put(t, s, image.MediaTypeLayer, []byte(l))
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, d.Digest)
		m.Layers = append(m.Layers, d)
		st, err := s.Layers.Begin(t.Context(), parent, d.Digest)
		if err != nil {
			t.Fatal(err)
		}
		if st != nil {
			if err := s.Layers.Publish(layer.Finished{Staging: st}); err != nil {
				t.Fatal(err)
			}
		}
		parent = image.ChainID(parent, d.Digest)
	}
	m.Config = put(t, s, image.MediaTypeConfig, toJSON(t, config))
	d := put(t, s, image.MediaTypeManifest, toJSON(t, m))
	r, err := s.Put(name, d, d)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func names(t testing.TB, s *Store) string {
	t.Helper()
	all, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	var b []string
	for _, r := range all {
		if ref, ok := r.Reference(); ok {
			b = append(b, ref.Familiar())
		} else {
			b = append(b, "<none>")
		}
	}
	return strings.Join(b, " ")
}

func TestResolve(t *testing.T) {
	s := open(t)
	a := add(t, s, "alpine", "a", "one", "two")
	add(t, s, "localhost:5000/b:1", "b", "one")
	for _, ask := range []string{
		"alpine", "alpine:latest", "docker.io/library/alpine", "alpine@" + string(a.Target.Digest), "alpine:other@" + string(a.Target.Digest),
		string(a.ID), a.ID.Hex(), a.ID.Short(), "sha256:" + a.ID.Short(), string(a.Manifest.Digest),
	} {
		img, err := s.Resolve(ask)
		if err != nil {
			t.Errorf("Resolve(%q): %v", ask, err)
			continue
		}
		if img.ID != a.ID || len(img.Chain) != 2 || img.Config.Config.Labels["l"] != "a" {
			t.Errorf("Resolve(%q) = %+v", ask, img)
		}
		if trees, err := s.Layers.Stack(img.Chain); err != nil || len(trees) != 2 || trees[0] != s.Layers.Path(img.Chain[1]) {
			t.Errorf("Stack = %v, %v", trees, err)
		}
	}
	for _, ask := range []string{"missing", "missing@" + string(a.Target.Digest), "sha256:" + strings.Repeat("0", 64), "alpine:2"} {
		if _, err := s.Resolve(ask); !errdef.Is(err, errdef.NotFound) || errdef.HintOf(err) == "" {
			t.Errorf("Resolve(%q): %v", ask, err)
		}
	}
	if _, err := s.Resolve("Alpine"); !errdef.Is(err, errdef.Invalid) {
		t.Errorf("upper case: %v", err)
	}
	if _, err := s.Resolve(""); !errdef.Is(err, errdef.Invalid) {
		t.Errorf("nothing: %v", err)
	}
}

func TestAmbiguousID(t *testing.T) {
	all := []Record{{ID: "sha256:aa11"}, {ID: "sha256:aa22"}, {ID: "sha256:aa22", Name: "second"}}
	if _, err := byPrefix(all, "aa", "aa"); !errdef.Is(err, errdef.Invalid) {
		t.Errorf("two images: %v", err)
	}
	if r, err := byPrefix(all, "aa2", "aa2"); err != nil || r.ID != "sha256:aa22" {
		t.Errorf("one image of two names: %v, %v", r, err)
	}
}

func TestANameThatMovesLeavesNone(t *testing.T) {
	s := open(t)
	old := add(t, s, "a", "1", "one")
	add(t, s, "a", "2", "one")
	if got := names(t, s); got != "<none> a:latest" {
		t.Errorf("names: %s", got)
	}
	if img, err := s.Resolve(old.ID.Short()); err != nil || img.ID != old.ID {
		t.Errorf("the old image by its ID: %v", err)
	}
	// The same image again leaves nothing, and a tag takes it out of <none>.
	add(t, s, "a", "2", "one")
	if _, err := s.Tag(string(old.ID), "b:x"); err != nil {
		t.Fatal(err)
	}
	if got := names(t, s); got != "a:latest b:x" {
		t.Errorf("names: %s", got)
	}
}

func TestPutRefusesWhatIsNotThere(t *testing.T) {
	s := open(t)
	d := image.Descriptor{MediaType: image.MediaTypeManifest, Digest: image.DigestOf([]byte("x")), Size: 1}
	if _, err := s.Put("a", d, d); !errdef.Is(err, errdef.NotFound) {
		t.Errorf("a manifest that is not there: %v", err)
	}
	if got := names(t, s); got != "" {
		t.Errorf("names: %s", got)
	}
}

func TestIndexIsForOtherTools(t *testing.T) {
	s := open(t)
	r := add(t, s, "a:1", "", "one")
	data, err := os.ReadFile(filepath.Join(s.Content.Dir(), "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	index, err := image.ParseIndex(data, "")
	if err != nil || len(index.Manifests) != 1 || index.Manifests[0].Digest != r.Target.Digest ||
		index.Manifests[0].Annotations["org.opencontainers.image.ref.name"] != "1" ||
		index.Manifests[0].Annotations["io.containerd.image.name"] != "docker.io/library/a:1" {
		t.Errorf("%s, %v", data, err)
	}
}

func TestRemove(t *testing.T) {
	for _, test := range []struct {
		summary  string
		tags     []string // besides "a"
		remove   string   // "ID" for the image's ID
		force    bool
		use      string // "running" or "stopped"
		kind     errdef.Kind
		untagged int
		deleted  int
		left     string
	}{
		{summary: "the last name takes the image along", remove: "a", untagged: 2, deleted: 2, left: "other:latest"},
		{summary: "one name of two", tags: []string{"b"}, remove: "a", untagged: 1, left: "b:latest other:latest"},
		{summary: "an ID with one name", remove: "ID", untagged: 2, deleted: 2, left: "other:latest"},
		{summary: "an ID with two names", tags: []string{"b"}, remove: "ID", kind: errdef.Conflict, left: "a:latest b:latest other:latest"},
		{summary: "an ID with two names, forced", tags: []string{"b"}, remove: "ID", force: true, untagged: 4, deleted: 2, left: "other:latest"},
		{summary: "used by a stopped container", remove: "a", use: "stopped", kind: errdef.Conflict, left: "a:latest other:latest"},
		{summary: "used by a stopped container, forced", remove: "a", use: "stopped", force: true, untagged: 2, deleted: 1, left: "other:latest"},
		{summary: "used by a running container", remove: "a", use: "running", kind: errdef.Conflict, left: "a:latest other:latest"},
		{summary: "the name from a running container's, forced", remove: "a", use: "running", force: true, untagged: 1, left: "<none> other:latest"},
		{summary: "the ID of a running container's, forced", remove: "ID", use: "running", force: true, kind: errdef.Conflict, left: "a:latest other:latest"},
		{summary: "one name of two of a running container's", tags: []string{"b"}, remove: "a", use: "running", untagged: 1, left: "b:latest other:latest"},
		{summary: "no such image", remove: "nope", kind: errdef.NotFound, left: "a:latest other:latest"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			s := open(t)
			add(t, s, "other", "o", "shared")
			a := add(t, s, "a", "a", "shared", "own")
			for _, tag := range test.tags {
				if _, err := s.Tag("a", tag); err != nil {
					t.Fatal(err)
				}
			}
			img, err := s.Resolve("a")
			if err != nil {
				t.Fatal(err)
			}
			var uses []Use
			if test.use != "" {
				uses = []Use{{Container: strings.Repeat("c", 64), Image: a.ID, Chain: img.Chain, Running: test.use == "running"}}
			}
			ask := test.remove
			if ask == "ID" {
				ask = a.ID.Short()
			}
			removed, err := s.Remove(t.Context(), ask, test.force, uses, Roots{})
			if errdef.KindOf(err) != test.kind || len(removed.Untagged) != test.untagged || len(removed.Deleted) != test.deleted {
				t.Errorf("got %+v, %v", removed, err)
			}
			if got := names(t, s); got != test.left {
				t.Errorf("left: %s, want %s", got, test.left)
			}
			if !s.Layers.Has(img.Chain[0]) || !s.Content.Has(img.Manifest.Layers[0].Digest) {
				t.Error("the layer of the other image is gone")
			}
			if own := s.Layers.Has(img.Chain[1]); own != (test.deleted < 2) {
				t.Errorf("its own layer is there: %v", own)
			}
			if _, err := s.Resolve("other"); err != nil {
				t.Errorf("the other image: %v", err)
			}
		})
	}
}

func TestSweep(t *testing.T) {
	s := open(t)
	kept := add(t, s, "kept", "", "one")
	gone := add(t, s, "gone", "", "one", "two", "three")
	img, err := s.Load(gone)
	if err != nil {
		t.Fatal(err)
	}
	orphan := put(t, s, image.MediaTypeLayer, []byte("orphan"))
	rooted := put(t, s, image.MediaTypeLayer, []byte("rooted"))
	if err := os.Remove(s.path(gone.Name)); err != nil {
		t.Fatal(err)
	}

	// Somebody is pulling: the sweep waits.
	release, err := s.Content.HoldAdditions(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := s.Sweep(ctx, Roots{}, 0); !errdef.Is(err, errdef.Cancelled) || !s.Content.Has(orphan.Digest) {
		t.Errorf("a sweep beside a pull: %v", err)
	}
	release()

	// A container uses the second layer, and with it the first.
	swept, err := s.Sweep(t.Context(), Roots{Chains: img.Chain[1:2], Blobs: []image.Digest{rooted.Digest}}, 0)
	if err != nil || len(swept.Layers) != 1 || swept.Layers[0] != img.Chain[2] {
		t.Errorf("%+v, %v", swept, err)
	}
	if s.Content.Has(orphan.Digest) || !s.Content.Has(rooted.Digest) || s.Content.Has(gone.ID) || !s.Layers.Has(img.Chain[1]) {
		t.Errorf("%+v", swept)
	}
	if _, err := s.Resolve(kept.Name); err != nil {
		t.Errorf("the image that has a name: %v", err)
	}
}

// The line that makes it pass: marks.followed is not marks.blobs.
func TestALayerThatIsAnothersManifestHidesNothing(t *testing.T) {
	s := open(t)
	victim := add(t, s, "victim", "v", "precious")
	manifest, err := s.Content.ReadAll(victim.Manifest.Digest, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	add(t, s, "attacker", "x", string(manifest)) // its name sorts first
	if _, err := s.Sweep(t.Context(), Roots{}, 0); err != nil {
		t.Fatal(err)
	}
	img, err := s.Resolve("victim")
	if err != nil || !s.Content.Has(img.Manifest.Layers[0].Digest) {
		t.Errorf("the victim's blobs are swept: %v", err)
	}
}

func TestLongNamesHaveFiles(t *testing.T) {
	s := open(t)
	long := strings.Repeat("x", 240)
	a := add(t, s, long+":a", "1", "one")
	b := add(t, s, long+":b", "2", "one")
	for name, want := range map[string]image.Digest{long + ":a": a.ID, long + ":b": b.ID} {
		if img, err := s.Resolve(name); err != nil || img.ID != want {
			t.Errorf("%v, %v", img.ID, err)
		}
	}
}

func TestOpenForReadingWritesNothing(t *testing.T) {
	s := open(t)
	add(t, s, "a", "", "one")
	root := filepath.Dir(s.dir)
	snapshot := func() (all string) {
		_ = filepath.Walk(root, func(p string, info os.FileInfo, err error) error {
			all += fmt.Sprintln(p, info.ModTime(), err)
			return nil
		})
		return all
	}
	before := snapshot()
	again, err := Open(root)
	if err != nil {
		t.Fatal(err)
	}
	_, err1 := again.Resolve("a")
	_, err2 := again.List()
	if err := errors.Join(err1, err2); err != nil || snapshot() != before {
		t.Errorf("reading changed something: %v", err)
	}
}

func BenchmarkResolve(b *testing.B) {
	s := open(b)
	var layers []string
	for i := range 10 {
		layers = append(layers, fmt.Sprint("layer", i))
	}
	add(b, s, "a", "", layers...)
	root := filepath.Dir(s.dir)
	for b.Loop() {
		s, err := Open(root)
		if err != nil {
			b.Fatal(err)
		}
		img, err := s.Resolve("a")
		if err != nil {
			b.Fatal(err)
		}
		if _, err := s.Layers.Stack(img.Chain); err != nil {
			b.Fatal(err)
		}
	}
}
