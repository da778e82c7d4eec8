package build

import (
	"archive/tar"
	"bytes"
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"berth/internal/image/unpack"
)

// No .dockerignore panics, and --show-context says of every path what COPY does.
func FuzzIgnore(f *testing.F) {
	for _, seed := range []string{"*\n!a", "# x\n**/b\n", "a/\n!a/b\n", "[", "\ufeffx", "!", "/a\n\\\n"} {
		f.Add([]byte(seed), "a/b")
	}
	f.Fuzz(func(t *testing.T, text []byte, name string) {
		if name == "" || !fs.ValidPath(name) {
			return
		}
		m, err := ignoring(text)
		if err != nil {
			return
		}
		rules, err := ignoreRules(text)
		if err != nil {
			t.Fatalf("as a whole it is understood, and line by line it is not: %v", err)
		}
		want := true
		if m != nil {
			want, _ = except(m)(name, false)
		}
		if kept, because := why(rules, name); kept != want {
			t.Fatalf("%q: kept %v, and --show-context says %v%s", name, want, kept, because)
		}
	})
}

// No archive writes anything outside of the directory of the context.
func FuzzContext(f *testing.F) {
	seed := func(headers ...tar.Header) {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range headers {
			_ = w.WriteHeader(&h)
		}
		_ = w.Close()
		f.Add(b.Bytes())
	}
	seed(tar.Header{Name: "a", Typeflag: tar.TypeSymlink, Linkname: ".."}, tar.Header{Name: "a/outside", Typeflag: tar.TypeReg})
	seed(tar.Header{Name: "../outside", Typeflag: tar.TypeReg}, tar.Header{Name: "/outside", Typeflag: tar.TypeDir})
	seed(tar.Header{Name: "d", Typeflag: tar.TypeDir}, tar.Header{Name: "d/l", Typeflag: tar.TypeLink, Linkname: "../../outside"})
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<16 {
			return
		}
		around := t.TempDir()
		inside := filepath.Join(around, "context")
		if err := os.Mkdir(inside, 0o755); err != nil {
			t.Fatal(err)
		}
		dir, err := os.Open(inside)
		if err != nil {
			t.Fatal(err)
		}
		defer dir.Close()
		plain, err := decompress(bytes.NewReader(data))
		if err != nil {
			return
		}
		_, _ = unpack.Apply(context.Background(), dir, plain, unpack.Options{SkipDevices: true})
		entries, err := os.ReadDir(around)
		if err != nil || len(entries) != 1 {
			t.Fatalf("something is outside: %v %v", entries, err)
		}
	})
}

// No document of a cache panics, or leads outside of the blobs that it came with.
func FuzzCacheDocument(f *testing.F) {
	f.Add([]byte(`{"records":[{"key":"x","diffID":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","layer":0}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		records, err := readCacheDocument(data, nil)
		if err == nil && len(records) > 0 {
			t.Fatal("a record without a blob")
		}
	})
}
