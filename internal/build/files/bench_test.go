package files

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"berth/internal/image/content"
	"berth/internal/image/layer"
	"berth/internal/image/unpack"
)

// BenchmarkCopySmallFiles is a COPY of many small files into a layer, with the layer's digest.
func BenchmarkCopySmallFiles(b *testing.B) {
	const files = 3000
	root := b.TempDir()
	from := filepath.Join(root, "context")
	data := bytes.Repeat([]byte("0123456789"), 100)
	for i := range files {
		dir := fmt.Sprintf("%s/%d", from, i/100)
		if i%100 == 0 {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				b.Fatal(err)
			}
		}
		if err := os.WriteFile(fmt.Sprintf("%s/%d", dir, i), data, 0o600); err != nil {
			b.Fatal(err)
		}
	}
	blobs, err := content.Open(root + "/content")
	if err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	for n := range b.N {
		b.StopTimer()
		step := fmt.Sprintf("%s/step%d", root, n)
		if err := os.MkdirAll(step+"/upper", 0o755); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		l, err := Open(step+"/upper", nil, time.Now())
		if err != nil {
			b.Fatal(err)
		}
		item, err := Tree{Layers: []string{from}}.Find(".")
		if err != nil {
			b.Fatal(err)
		}
		if err := l.Copy(b.Context(), item, "/app", Options{Anonymous: true}); err != nil {
			b.Fatal(err)
		}
		item.Close()
		if err := l.Close(); err != nil {
			b.Fatal(err)
		}
		if _, err := unpack.Commit(b.Context(), blobs, layer.Open(step+"/layers"), "", step+"/upper", unpack.DiffOptions{}); err != nil {
			b.Fatal(err)
		}
	}
}
