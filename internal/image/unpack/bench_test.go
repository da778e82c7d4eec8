package unpack

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"golang.org/x/sys/unix"
)

// smallFiles is like a tree of node_modules: 30,000 files of 1 to 6 kB in 2,000 directories.
func smallFiles(b *testing.B) []byte {
	var entries []entry
	text := strings.Repeat("module.exports = require('./index.js');\n", 150)
	for d := range 2000 {
		name := fmt.Sprintf("usr/lib/node_modules/package-%04d", d)
		entries = append(entries, dir(name))
		for f := range 15 {
			entries = append(entries, file(fmt.Sprintf("%s/file-%02d.js", name, f), text[:1000+(d*15+f)%5000]))
		}
	}
	return makeTar(b, entries...)
}

// fresh makes every run start with no work left over from the last.
func fresh(b *testing.B, i int) string {
	b.StopTimer()
	path := filepath.Join(b.TempDir(), fmt.Sprint(i))
	if err := os.Mkdir(path, 0o755); err != nil {
		b.Fatal(err)
	}
	unix.Sync()
	b.StartTimer()
	return path
}

func BenchmarkApply(b *testing.B) {
	layer := smallFiles(b)
	var gz bytes.Buffer
	z := gzip.NewWriter(&gz)
	_, _ = z.Write(layer)
	_ = z.Close()
	for name, data := range map[string][]byte{"plain": layer, "gzip": gz.Bytes()} {
		b.Run(name, func(b *testing.B) {
			for i := range b.N {
				root := openDirectory(b, fresh(b, i))
				if _, err := Apply(b.Context(), root, bytes.NewReader(data), Options{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkTar is what there is to compare with: GNU tar on the same bytes, from memory through a pipe.
func BenchmarkTar(b *testing.B) {
	program, err := exec.LookPath("tar")
	if err != nil {
		b.Skip("there is no tar here")
	}
	layer := smallFiles(b)
	for i := range b.N {
		cmd := exec.Command(program, "-x", "--numeric-owner", "-p", "-C", fresh(b, i))
		cmd.Stdin = bytes.NewReader(layer)
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("%v: %s", err, out)
		}
	}
}

// BenchmarkNaive is what a layer's extraction looks like without any of our pains: paths, one file after the other.
func BenchmarkNaive(b *testing.B) {
	layer := smallFiles(b)
	for i := range b.N {
		root := fresh(b, i)
		hash := sha256.New()
		t := tar.NewReader(io.TeeReader(bytes.NewReader(layer), hash))
		for {
			h, err := t.Next()
			if err == io.EOF {
				break
			}
			path := filepath.Join(root, h.Name)
			if h.Typeflag == tar.TypeDir {
				err = os.MkdirAll(path, 0o755)
			} else if err = os.MkdirAll(filepath.Dir(path), 0o755); err == nil {
				var f *os.File
				if f, err = os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644); err == nil {
					_, err = io.Copy(f, t)
					err = errors.Join(err, f.Close())
				}
			}
			err = errors.Join(err, os.Lchown(path, h.Uid, h.Gid), os.Chmod(path, h.FileInfo().Mode()), os.Chtimes(path, h.ModTime, h.ModTime))
			if err != nil {
				b.Fatal(err)
			}
		}
	}
}
