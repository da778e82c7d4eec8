package unpack

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"berth/internal/errdef"
	"berth/internal/image/merged"
	"berth/internal/tree"
)

// PackOptions of Pack and PackMerged.
type PackOptions struct {
	Owner  tree.Owner // whose an entry is; nil leaves it as it is
	Latest time.Time  // as in DiffOptions
}

// Pack writes the tar of name in the directory in, as it is: with what is below it, if it is a directory. The entry is called as. A
// container may be changing the tree meanwhile; a file that becomes shorter is filled up with zeros.
func Pack(ctx context.Context, in *os.File, name, as string, w io.Writer, opt PackOptions) error {
	d := newPacker(ctx, w, opt)
	if err := d.entry(int(in.Fd()), name, as, 0, nil); err != nil {
		return fmt.Errorf("cannot write the archive: %w", err)
	}
	return d.tar.Close()
}

// PackMerged writes the tar of what a stack of layers shows together: a root file system, without what is mounted in it.
func PackMerged(ctx context.Context, layers []string, w io.Writer, opt PackOptions) error {
	d := newPacker(ctx, w, opt)
	root, err := merged.OpenDir(layers, "/")
	if err != nil {
		return err
	}
	defer root.Close()
	if err := d.merged(root, "", 0); err != nil {
		return fmt.Errorf("cannot write the archive: %w", err)
	}
	return d.tar.Close()
}

// AddMerged adds the files of layers to a tar that goes on afterwards, below the directory dir, or, if that is "", at its root.
func AddMerged(ctx context.Context, layers []string, dir string, t *tar.Writer, opt PackOptions) error {
	d := newPacker(ctx, io.Discard, opt)
	d.tar = t
	root, err := merged.OpenDir(layers, "/")
	if err != nil {
		return err
	}
	defer root.Close()
	prefix := ""
	if dir != "" {
		prefix = dir + "/"
	}
	if err := d.merged(root, prefix, 0); err != nil {
		return fmt.Errorf("cannot write the archive: %w", err)
	}
	return nil
}

func newPacker(ctx context.Context, w io.Writer, opt PackOptions) *differ {
	return &differ{ctx: ctx, tar: tar.NewWriter(w), links: map[inode]string{}, prefix: "trusted.overlay.", whole: true, owner: opt.Owner, opt: DiffOptions{Latest: opt.Latest}}
}

// merged writes what is in a directory; path is its name with a "/", or "".
func (d *differ) merged(dir *merged.Dir, path string, depth int) error {
	if depth > maxDepth {
		return errdef.New(errdef.Unsupported, "%.60q... is more than %d directories deep", path, maxDepth)
	}
	if path != "" {
		if err := d.describeDirectory(dir.FD(), path); err != nil {
			return err
		}
	}
	return dir.Entries(func(e merged.Entry) error {
		if err := d.ctx.Err(); err != nil {
			return errdef.As(errdef.Cancelled, context.Cause(d.ctx))
		}
		if e.Dir != nil {
			return d.merged(e.Dir, path+e.Name+"/", depth+1)
		}
		return d.entry(e.In, e.Name, path+e.Name, depth, nil)
	})
}

// nothing is a reader of zeros without an end.
type nothing struct{}

func (nothing) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}
