package unpack

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"berth/internal/errdef"
	"berth/internal/image"
	"berth/internal/image/content"
	"berth/internal/image/layer"

	"golang.org/x/sys/unix"
)

// awkwardTree has what a layer can have.
func awkwardTree(t *testing.T, dir string) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	long := strings.Repeat("long", 50)
	must(os.MkdirAll(filepath.Join(dir, "a", long), 0o755))
	for name, size := range map[string]int{"a/empty": 0, "a/one": 1, "a/block": 512, "a/" + long + "/" + long: 513, "z": 3 << 20, "a/more": 300 << 10} {
		must(os.WriteFile(filepath.Join(dir, name), bytes.Repeat([]byte{byte(size), 0, 7}, size/3+1)[:size], 0o640))
		when := time.Unix(1_600_000_000+int64(size), 123456789)
		must(os.Chtimes(filepath.Join(dir, name), when, when))
	}
	must(os.Link(filepath.Join(dir, "a/one"), filepath.Join(dir, "hard")))
	must(os.Symlink("a/one", filepath.Join(dir, "soft")))
	must(unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
	if err := unix.Setxattr(filepath.Join(dir, "z"), "user.x", make([]byte, 3000), 0); err != nil && err != unix.ENOTSUP {
		t.Fatal(err)
	}
}

// commitTree makes a layer of an awkward tree, and says what its tar is.
func commitTree(t *testing.T) (layers *layer.Store, blobs *content.Store, d image.Descriptor, tar []byte) {
	t.Helper()
	root := t.TempDir()
	dir := filepath.Join(root, "step/upper")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	awkwardTree(t, dir)
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var should bytes.Buffer
	if err := Diff(t.Context(), f, &should, DiffOptions{}); err != nil {
		t.Fatal(err)
	}
	if blobs, err = content.Open(root + "/content"); err != nil {
		t.Fatal(err)
	}
	layers = layer.Open(root + "/layers")
	blobs.Made = layers.Blob
	if d, err = Commit(t.Context(), blobs, layers, "", dir, DiffOptions{}); err != nil {
		t.Fatal(err)
	}
	return layers, blobs, d, should.Bytes()
}

func TestBlobIsMadeAgainOfTheTree(t *testing.T) {
	layers, blobs, d, should := commitTree(t)
	if d.Digest != image.DigestOf(should) || d.Size != int64(len(should)) {
		t.Errorf("the descriptor is %s, %d bytes; the tar has %s, %d", d.Digest, d.Size, image.DigestOf(should), len(should))
	}
	if blobs.Has(d.Digest) || !layers.Makes(d.Digest) {
		t.Errorf("kept: %v, can be made: %v", blobs.Has(d.Digest), layers.Makes(d.Digest))
	}
	for _, offset := range []int64{0, 1, 511, 512 << 10, int64(len(should))} {
		r, err := blobs.OpenAt(d.Digest, offset)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(iotestHalf{r})
		if err != nil || !bytes.Equal(got, should[offset:]) {
			t.Errorf("from %d on: %d bytes, %v; they should be %d", offset, len(got), err, int64(len(should))-offset)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
	st, err := os.Stat(filepath.Dir(layers.Path(d.Digest)) + "/recipe")
	if err != nil || st.Size() > 6000 {
		t.Errorf("the recipe has %d bytes, %v", st.Size(), err)
	}
	if _, err := blobs.OpenAt(image.DigestOf(nil), 0); !errdef.Is(err, errdef.NotFound) {
		t.Errorf("a blob that nobody has: %v", err)
	}
}

// iotestHalf reads in pieces of odd sizes.
type iotestHalf struct{ r io.Reader }

func (h iotestHalf) Read(p []byte) (int, error) { return h.r.Read(p[:len(p)/2+1]) }

func TestChangedTreeOrRecipeIsNoticed(t *testing.T) {
	for name, damage := range map[string]func(tree, recipe string) error{
		"one byte of a file": func(tree, _ string) error { return os.WriteFile(tree+"/a/one", []byte("?"), 0o600) },
		"a shorter file":     func(tree, _ string) error { return os.Truncate(tree+"/z", 5) },
		"a missing file":     func(tree, _ string) error { return os.Remove(tree + "/z") },
		"a link":             func(tree, _ string) error { return errors.Join(os.Remove(tree+"/z"), os.Symlink("a/more", tree+"/z")) },
		"a link to a directory": func(tree, _ string) error {
			return errors.Join(os.Rename(tree+"/a", tree+"/b"), os.Symlink("b", tree+"/a"))
		},
		"no recipe's end": func(_, recipe string) error { st, _ := os.Stat(recipe); return os.Truncate(recipe, st.Size()-1) },
		"half a recipe":   func(_, recipe string) error { st, _ := os.Stat(recipe); return os.Truncate(recipe, st.Size()/2) },
		"an empty recipe": func(_, recipe string) error { return os.Truncate(recipe, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			layers, blobs, d, _ := commitTree(t)
			tree := layers.Path(d.Digest)
			if err := damage(tree, filepath.Dir(tree)+"/recipe"); err != nil {
				t.Fatal(err)
			}
			r, err := blobs.OpenAt(d.Digest, 0)
			if err == nil {
				_, err = io.Copy(io.Discard, r)
				_ = r.Close()
			}
			if !errdef.Is(err, errdef.Corrupt) {
				t.Errorf("%v", err)
			}
		})
	}
}
