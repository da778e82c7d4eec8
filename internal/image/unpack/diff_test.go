package unpack

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"berth/internal/errdef"
)

// What Apply makes of a layer, Diff makes a layer of, and Apply makes the same of that.
func TestDiffIsTheInverseOfApply(t *testing.T) {
	needRoot(t)
	caps := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	when := time.Unix(1_000_000_000, 5)
	entries := []entry{
		dir("d").with(func(h *tar.Header) { h.Mode, h.Uid = 0o2750, 7 }), file("d/a", "hello").with(func(h *tar.Header) { h.Mode, h.Gid = 0o4755, 8 }),
		link("b", "d/a"), symlink("l", "../../x"), device("null", 1, 3), file("d/.wh.gone", ""), file("o/.wh..wh..opq", ""), file("o/a", strings.Repeat("x", 100_000)),
		file("cap", "x").with(func(h *tar.Header) {
			h.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": caps}
		}),
		{tar.Header{Name: "fifo", Typeflag: tar.TypeFifo, Mode: 0o600}, ""},
		file(strings.Repeat("long/", 40)+"name", "x"),
	}
	for i := range entries {
		entries[i].ModTime, entries[i].Format = when, tar.FormatPAX
	}
	first, _, err := apply(t, Options{}, entries...)
	if err != nil {
		t.Fatal(err)
	}
	diff := func(path string) []byte {
		var b bytes.Buffer
		if err := Diff(t.Context(), openDirectory(t, path), &b, DiffOptions{Latest: when}); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	one := diff(first)
	second := filepath.Join(t.TempDir(), "tree")
	if err := os.Mkdir(second, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Apply(t.Context(), openDirectory(t, second), bytes.NewReader(one), Options{}); err != nil {
		t.Fatal(err)
	}
	if two := diff(second); !bytes.Equal(one, two) {
		t.Error("the layer of the second tree differs")
	}
	for name, want := range map[string]string{"d": "dir 2750", "d/a": `file 4755 "hello"`, "b": `file 4755 "hello"`, "l": "link ../../x", "null": "char 1:3", "d/gone": "whiteout", "o": "dir 755 opaque", "fifo": "fifo"} {
		if got := describe(t, filepath.Join(second, name)); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	var b [64]byte
	if n, err := unix.Getxattr(filepath.Join(second, "cap"), "security.capability", b[:]); err != nil || string(b[:n]) != caps {
		t.Errorf("capabilities %x, %v", b[:max(0, n)], err)
	}
	for r := tar.NewReader(bytes.NewReader(one)); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		for key := range h.PAXRecords {
			if strings.Contains(key, "overlay") {
				t.Errorf("%s carries %s", h.Name, key)
			}
		}
	}
}

func TestDiffRefuses(t *testing.T) {
	needRoot(t)
	for summary, make := range map[string]func(dir string) error{
		"a name that means a whiteout": func(dir string) error { return os.WriteFile(dir+"/.wh.a", nil, 0o600) },
		"content that is in a lower layer": func(dir string) error {
			return errors.Join(os.WriteFile(dir+"/a", nil, 0o600), unix.Setxattr(dir+"/a", "trusted.overlay.metacopy", nil, 0))
		},
	} {
		root := t.TempDir()
		if err := make(root); err != nil {
			t.Fatal(err)
		}
		if err := Diff(t.Context(), openDirectory(t, root), io.Discard, DiffOptions{}); !errdef.Is(err, errdef.Unsupported) {
			t.Errorf("%s: %v", summary, err)
		}
	}
}
