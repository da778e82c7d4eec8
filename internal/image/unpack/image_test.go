package unpack

import (
	"archive/tar"
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"berth/internal/errdef"
	"berth/internal/image"
	"berth/internal/image/content"
	"berth/internal/image/layer"
)

type fixture struct {
	blobs    *content.Store
	layers   *layer.Store
	manifest image.Manifest
	config   image.Image
}

func newFixture(t *testing.T, tars ...[]byte) *fixture {
	t.Helper()
	dir := t.TempDir()
	blobs, err := content.Open(filepath.Join(dir, "content"))
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{blobs: blobs, layers: layer.Open(filepath.Join(dir, "layers"))}
	f.manifest.Config.MediaType = image.MediaTypeConfig
	for _, data := range tars {
		d, err := blobs.PutReader(bytes.NewReader(data), image.MediaTypeLayer)
		if err != nil {
			t.Fatal(err)
		}
		f.manifest.Layers = append(f.manifest.Layers, d)
		f.config.RootFS.DiffIDs = append(f.config.RootFS.DiffIDs, d.Digest)
	}
	return f
}

func (f *fixture) unpack(t *testing.T) error {
	return Image(t.Context(), FromBlobs(f.blobs, f.manifest), f.layers, f.manifest, f.config, Options{OwnersIgnored: true, SkipDevices: true, UserXattr: true})
}

func (f *fixture) path(n int, name string) string {
	return filepath.Join(f.layers.Path(image.ChainIDs(f.config.RootFS.DiffIDs)[n]), name)
}

func TestImage(t *testing.T) {
	sticky := func(h *tar.Header) { h.Mode = 0o1777 }
	f := newFixture(t,
		makeTar(t, dir("./").with(func(h *tar.Header) { h.Mode = 0o700 }), dir("tmp").with(sticky), dir("a").with(sticky)),
		makeTar(t, file("tmp/x", "x"), file("a/b/c", "x")),
		makeTar(t, file("tmp/x", "x"), file("a/b/c", "x"))) // the same layer twice
	for range 2 { // the second time there is nothing to do
		if err := f.unpack(t); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{"tmp": "dir 1777", "a": "dir 1777", "a/b": "dir 755", ".": "dir 700", "tmp/x": `file 644 "x"`} {
		for _, n := range []int{1, 2} {
			if got := describe(t, f.path(n, name)); got != want {
				t.Errorf("layer %d: %s is %s, want %s", n, name, got, want)
			}
		}
	}
	entries, err := os.ReadDir(filepath.Dir(filepath.Dir(f.path(0, ""))))
	if err != nil || len(entries) != 3 {
		t.Errorf("%v, %v", entries, err)
	}
}

// The line that makes it pass: the comparison of DiffID in applyTo, before any Publish.
func TestImageWithALyingDiffIDLeavesNothing(t *testing.T) {
	f := newFixture(t, makeTar(t, file("a", "good")), makeTar(t, file("a", "x")))
	f.config.RootFS.DiffIDs[1] = image.DigestOf([]byte("something else"))
	if err := f.unpack(t); !errdef.Is(err, errdef.Corrupt) {
		t.Errorf("got %v", err)
	}
	if entries, err := os.ReadDir(filepath.Dir(filepath.Dir(f.path(0, "")))); err != nil || len(entries) != 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

func TestLayer(t *testing.T) {
	layers := layer.Open(t.TempDir())
	opt := Options{OwnersIgnored: true}
	low, high := makeTar(t, dir("tmp").with(func(h *tar.Header) { h.Mode = 0o1777 })), makeTar(t, file("tmp/x", "x"))
	chain, err := Layer(t.Context(), layers, "", image.DigestOf(low), bytes.NewReader(low), opt)
	if err != nil || chain != image.DigestOf(low) {
		t.Fatal(chain, err)
	}
	if _, err := Layer(t.Context(), layers, chain, image.DigestOf(low), bytes.NewReader(high), opt); !errdef.Is(err, errdef.Corrupt) {
		t.Errorf("other bytes: %v", err)
	}
	top, err := Layer(t.Context(), layers, chain, image.DigestOf(high), bytes.NewReader(high), opt)
	if err != nil {
		t.Fatal(err)
	}
	if got := describe(t, layers.Path(top)+"/tmp"); got != "dir 1777" {
		t.Errorf("tmp is %s", got)
	}
	if list, err := layers.List(); err != nil || len(list) != 2 {
		t.Errorf("%v, %v", list, err)
	}
}

// The kernel is the judge of what overlayfs's form is.
func TestOverlayfsUnderstandsTheTrees(t *testing.T) {
	needRoot(t)
	for _, test := range []struct {
		summary string
		opt     Options
		mount   string
	}{
		{"with trusted attributes", Options{OwnersIgnored: true}, ""},
		{"with user attributes", Options{OwnersIgnored: true, UserXattr: true}, ",userxattr"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			f := newFixture(t,
				makeTar(t, file("gone", "x"), file("d/low", "x"), file("e/low", "x"), file("kept", "low"), file("f/low", "x")),
				makeTar(t, file(".wh.gone", ""), file("d/.wh..wh..opq", ""), file("d/high", "x"), file(".wh.e", ""), file("e/high", "x"), file(".wh.f", "")))
			err := Image(t.Context(), FromBlobs(f.blobs, f.manifest), f.layers, f.manifest, f.config, test.opt)
			if !test.opt.UserXattr && errors.Is(err, unix.EPERM) {
				t.Skip("a user namespace may not set trusted attributes")
			}
			if err != nil {
				t.Fatal(err)
			}
			target := t.TempDir()
			err = unix.Mount("overlay", target, "overlay", unix.MS_RDONLY, "lowerdir="+f.path(1, "")+":"+f.path(0, "")+test.mount)
			if err != nil {
				t.Skipf("overlayfs cannot be mounted here: %v", err)
			}
			defer unix.Unmount(target, unix.MNT_DETACH)
			const missing = "no such file or directory"
			for name, want := range map[string]string{
				"gone": missing, "d/low": missing, "d/high": `file 644 "x"`, "e/low": missing, "e/high": `file 644 "x"`, "kept": `file 644 "low"`, "f": missing,
			} {
				if got := describe(t, filepath.Join(target, name)); got != want {
					t.Errorf("%s is %s, want %s", name, got, want)
				}
			}
		})
	}
}
