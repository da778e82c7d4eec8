// Package unpack turns the tar of an image's layer into a tree in overlayfs's form, and back.
//
// Everything in the tar is hostile. No path from it is ever used on the host: directories are opened by
// openat2 beneath the root of the tree and everything else happens relative to their descriptors. What
// overlayfs itself would understand (its attributes, character device 0/0) is never taken from an image.
//
// The words: a *whiteout* is an entry ".wh.NAME" that hides NAME of the layers below, in overlayfs a character
// device 0/0; an *opaque* directory hides everything below; an *implied* directory is one that the tar uses
// without having an entry for it.
//
// The work is spread over goroutines: one decompresses, one hashes, one reads the tar and makes everything
// but small files, and a few make these:
//
//	source -> decompress -+-> sha256 of every byte
//	                      +-> read tar -> small files
//
// The package keeps no layers and knows no store's layout beyond image/layer's; nothing here fetches.
package unpack

import (
	"context"
	"errors"
	"io"
	"os"

	"berth/internal/errdef"
	"berth/internal/image"
)

// Options of Apply. The zero value is for root with trusted attributes and the default limits.
type Options struct {
	// UserXattr marks opaque directories by user.overlay.opaque instead of trusted.overlay.opaque: overlayfs
	// inside a user namespace reads these (mount option userxattr, Linux 5.11).
	UserXattr bool
	// SkipDevices leaves out device nodes, which a user namespace may not make.
	SkipDevices bool
	// OwnersIgnored gives every file to the caller: for a user namespace that maps a single ID.
	OwnersIgnored bool
	Limits        Limits
}

// Limits of one layer; a zero field means the default.
type Limits struct {
	Entries    int   // entries of the tar
	Bytes      int64 // bytes of the uncompressed stream, and bytes of all files with their holes filled
	PathLength int   // bytes of one path
}

// The defaults are far above what images have and far below what hurts: the largest layers in use are models
// of some 100 GB, the most populous some 500,000 files.
const (
	defaultEntries    = 4_000_000
	defaultBytes      = 512 << 30
	defaultPathLength = 4095 // PATH_MAX without its NUL
)

func (l Limits) withDefaults() Limits {
	if l.Entries == 0 {
		l.Entries = defaultEntries
	}
	if l.Bytes == 0 {
		l.Bytes = defaultBytes
	}
	if l.PathLength == 0 || l.PathLength > defaultPathLength {
		l.PathLength = defaultPathLength
	}
	return l
}

// Result says what Apply found.
type Result struct {
	DiffID     image.Digest // of the uncompressed stream, every byte of it
	StreamSize int64        // bytes of the uncompressed stream
	Size       int64        // bytes of all regular files, docker's size of a layer
	Entries    int
	Skipped    int      // device nodes left out
	OpaqueRoot bool     // the layer hides everything below it; overlayfs cannot say that of a root
	Implied    []string // directories without an entry, parents first; "." may be one
}

// Apply unpacks the layer that r gives, compressed or not, into the empty directory root. After an error the
// directory holds something half made, which the caller removes.
func Apply(ctx context.Context, root *os.File, r io.Reader, opt Options) (Result, error) {
	opt.Limits = opt.Limits.withDefaults()
	plain, _, err := Decompress(r)
	if err != nil {
		return Result{}, err
	}
	stream := startStream(ctx, plain, opt.Limits.Bytes, image.SHA256)

	type outcome struct {
		result Result
		err    error
	}
	done := make(chan outcome, 1)
	go func() {
		x := newExtractor(ctx, root, opt)
		err := x.run(stream)
		done <- outcome{x.result, err}
	}()
	got := <-done
	if got.err == nil {
		// Behind the end of the archive there may be padding, which belongs to the layer's digest.
		_, got.err = io.Copy(io.Discard, stream)
	}
	digest, size, streamErr := stream.finish()
	plain.Close()
	if streamErr != nil && !errors.Is(got.err, streamErr) {
		// The stream broke: what its consumer made of that is not the reason.
		got.err = streamErr
	}
	if ctx.Err() != nil {
		got.err = errdef.As(errdef.Cancelled, context.Cause(ctx))
	}
	got.result.DiffID, got.result.StreamSize = digest, size
	return got.result, got.err
}
