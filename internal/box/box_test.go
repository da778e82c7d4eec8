package box

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"berth/internal/box/applets"
	"berth/internal/image/store"
	"berth/internal/image/unpack"
)

func TestNamesAreSortedAndDifferent(t *testing.T) {
	names := applets.Names()
	if !slices.IsSorted(names) {
		t.Error("the names are not sorted")
	}
	if len(slices.Compact(names)) != len(applets.Names()) {
		t.Error("a name is there twice")
	}
}

func TestLayerHasTheProgramAndALinkForEachName(t *testing.T) {
	program := []byte("a program")
	b, err := Build(program, "arm64")
	if err != nil {
		t.Fatal(err)
	}
	if b.Image.Architecture != "arm64" {
		t.Errorf("the architecture is %q", b.Image.Architecture)
	}
	found := map[string]*tar.Header{}
	r := tar.NewReader(bytes.NewReader(b.Layer))
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.ModTime.Unix() != 0 {
			t.Errorf("%s has the time %v", h.Name, h.ModTime)
		}
		found[h.Name] = h
		if h.Name == "bin/box" {
			if data, err := io.ReadAll(r); err != nil || !bytes.Equal(data, program) {
				t.Errorf("bin/box is %q, %v", data, err)
			}
		}
	}
	for _, name := range applets.Names() {
		if h := found["bin/"+name]; h == nil || h.Typeflag != tar.TypeSymlink || h.Linkname != "box" {
			t.Errorf("bin/%s is %+v, not a link to box", name, h)
		}
	}
	for name, mode := range map[string]int64{"tmp/": 0o1777, "root/": 0o700, "proc/": 0o755, "var/tmp/": 0o1777, "etc/passwd": 0o644, "bin/box": 0o755} {
		if h := found[name]; h == nil || h.Mode != mode {
			t.Errorf("%s is %+v, not of mode %o", name, h, mode)
		}
	}
	if h := found["home/box/"]; h == nil || h.Uid != 1000 {
		t.Errorf("home/box is %+v, not the user box's", h)
	}
}

func TestBuildIsAFunctionOfTheProgram(t *testing.T) {
	digest := func(program string) string {
		b, err := Build([]byte(program), "amd64")
		if err != nil {
			t.Fatal(err)
		}
		return string(b.ManifestDescriptor.Digest)
	}
	if first, second := digest("one"), digest("one"); first != second {
		t.Error("the same program made two images")
	}
	if digest("one") == digest("two") {
		t.Error("two programs made the same image")
	}
}

func TestInstallTwiceGivesTheSameImage(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("unpacking files of other users needs root")
	}
	s, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	first, err := Install(t.Context(), s, []byte("a program"), unpack.Options{})
	if err != nil {
		t.Fatal(err)
	}
	second, err := Install(t.Context(), s, []byte("a program"), unpack.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if first.ID != second.ID || first.Manifest.Digest != second.Manifest.Digest || !first.Updated.Equal(second.Updated) {
		t.Errorf("the second time gave another record:\n%+v\n%+v", first, second)
	}
	img, err := s.Resolve("box")
	if err != nil {
		t.Fatal(err)
	}
	trees, err := s.Layers.Stack(img.Chain)
	if err != nil {
		t.Fatal(err)
	}
	if target, err := os.Readlink(filepath.Join(trees[0], "bin/sh")); err != nil || target != "box" {
		t.Errorf("bin/sh leads to %q, %v", target, err)
	}
	if data, err := os.ReadFile(filepath.Join(trees[0], "bin/box")); err != nil || string(data) != "a program" {
		t.Errorf("bin/box is %q, %v", data, err)
	}
	if list, err := s.List(); err != nil || len(list) != 1 {
		t.Errorf("the store has %d images, %v", len(list), err)
	}
	// A new version of the program takes the name.
	third, err := Install(t.Context(), s, []byte("another program"), unpack.Options{})
	if err != nil || third.ID == first.ID {
		t.Errorf("a new program did not make a new image: %v, %v", third.ID, err)
	}
}
