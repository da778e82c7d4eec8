package unpack

import (
	"bufio"
	"bytes"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"berth/internal/errdef"
)

// Compression is how a stream is compressed, as seen from its first bytes.
type Compression string

const (
	None Compression = "none"
	Gzip Compression = "gzip"
	Zstd Compression = "zstd"
)

// A zstd frame says how much memory its reader needs. RFC 8878, 3.1.1.1.2 asks for 8 MiB at least; what `zstd
// --ultra -22` writes needs 128 MiB.
const maxZstdWindow = 128 << 20

// Decompress returns the uncompressed stream of r and what it was. Several gzip members or zstd frames one
// behind the other are one stream. Everything happens in this process: no program is started.
func Decompress(r io.Reader) (io.ReadCloser, Compression, error) {
	buffered := bufio.NewReaderSize(r, 128<<10)
	magic, err := buffered.Peek(6)
	if err != nil && err != io.EOF {
		return nil, "", err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(buffered)
		if err != nil {
			return nil, "", errdef.New(errdef.Corrupt, "cannot decompress gzip: %w", err)
		}
		return broken{z, Gzip}, Gzip, nil
	case isZstd(magic):
		z, err := zstd.NewReader(buffered, zstd.WithDecoderMaxWindow(maxZstdWindow), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, "", errdef.New(errdef.Corrupt, "cannot decompress zstd: %w", err)
		}
		return broken{z.IOReadCloser(), Zstd}, Zstd, nil
	case bytes.HasPrefix(magic, []byte("\xfd7zXZ\x00")):
		return nil, "", errdef.New(errdef.Unsupported, "cannot decompress xz: only gzip and zstd are understood")
	case bytes.HasPrefix(magic, []byte("BZh")):
		return nil, "", errdef.New(errdef.Unsupported, "cannot decompress bzip2: only gzip and zstd are understood")
	}
	return io.NopCloser(buffered), None, nil
}

// isZstd knows the magic numbers of a frame and of a skippable frame (RFC 8878, 3.1).
func isZstd(b []byte) bool {
	return bytes.HasPrefix(b, []byte{0x28, 0xb5, 0x2f, 0xfd}) ||
		len(b) >= 4 && b[0]&0xf0 == 0x50 && b[1] == 0x2a && b[2] == 0x4d && b[3] == 0x18
}

// broken gives the errors of a decompressor their kind.
type broken struct {
	io.ReadCloser
	kind Compression
}

func (b broken) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		err = errdef.New(errdef.Corrupt, "cannot decompress %s: %w", b.kind, err)
	}
	return n, err
}
