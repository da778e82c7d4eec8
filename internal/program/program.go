// Package program unpacks the programs that berth carries inside itself: one file is what users install, and nobody pays at
// start for what he does not use (docs/decisions/0002-programs.md).
//
// A program is written beside the data, once for each version, under the digest of its bytes. The package runs nothing,
// and finds no programs of the host.
package program

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"berth/internal/disk"
	"berth/internal/errdef"

	"golang.org/x/sys/unix"
)

//go:embed embedded
var embedded embed.FS

// unpackers are the forms in which programs are carried: gzip is quick, xz small.
var unpackers = []struct {
	suffix string
	unpack func([]byte) ([]byte, error)
}{{".gz", gunzip}, {".xz", unxz}}

func gunzip(b []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

// Open reads a program that this one carries.
func Open(name string) ([]byte, error) {
	for _, u := range unpackers {
		packed, err := embedded.ReadFile("embedded/" + name + u.suffix)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		data, err := u.unpack(packed)
		if err != nil {
			return nil, errdef.New(errdef.Corrupt, "cannot unpack the program %s: %w", name, err)
		}
		return data, nil
	}
	return nil, errdef.Hint(errdef.New(errdef.Unsupported, "this build of berth does not carry the program %s", name), "build it with `make build`, not with `go build`")
}

// Path returns where the program name is below dataRoot, and writes it there if it is not. Programs of other versions are
// left: something may be running them.
func Path(dataRoot, name string) (string, error) {
	end, err := trailer(name)
	if err != nil {
		if beside, ok := besideUs(name); ok {
			return beside, nil
		}
		_, err := Open(name)
		return "", err
	}
	// The trailer of gzip holds the CRC and the length, that of xz the CRC and both lengths: it tells versions apart without
	// hashing megabytes at every start. What is written is named by all of it and was whole before it had the name.
	sum := sha256.Sum256(append([]byte(name), end...))
	dir := filepath.Join(dataRoot, "programs", hex.EncodeToString(sum[:16]))
	path := filepath.Join(dir, name)
	if unix.Access(path, unix.X_OK) == nil {
		return path, nil
	}
	data, err := Open(name)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	if err := disk.Replace(path, data, 0o755, disk.Durable); err != nil {
		return "", err
	}
	return path, nil
}

// trailer is the end of a packed program. Only that is touched: reading all of it takes 10 ms.
func trailer(name string) ([]byte, error) {
	f, err := openPacked(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	end := make([]byte, min(st.Size(), 4096))
	_, err = f.(io.ReaderAt).ReadAt(end, st.Size()-int64(len(end)))
	return end, err
}

// openPacked opens a program in whichever form it is carried.
func openPacked(name string) (f fs.File, err error) {
	for _, u := range unpackers {
		if f, err = embedded.Open("embedded/" + name + u.suffix); err == nil {
			return f, nil
		}
	}
	return nil, err
}

// besideUs finds a program next to this one: what a developer has built.
func besideUs(name string) (string, bool) {
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return "", false
	}
	path := filepath.Join(filepath.Dir(self), name)
	return path, unix.Access(path, unix.X_OK) == nil
}
