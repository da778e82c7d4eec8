package build

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"berth/internal/build/files"
	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/image/archive"
	"berth/internal/image/reference"
	"berth/internal/image/store"
	"berth/internal/image/unpack"
)

// Types of outputs.
const (
	OutputImage  = "image"
	OutputDocker = "docker"
	OutputOCI    = "oci"
	OutputLocal  = "local"
	OutputTar    = "tar"
)

// Output is where the result goes.
type Output struct {
	Type    string
	Dest    string // a path, "-" for standard output, or "" for the store
	Name    string // names of an image, with commas between them
	Rewrite bool   // with SOURCE_DATE_EPOCH, no file of a new layer is younger
}

// outputs writes the result where else it is to go.
func (b *builder) outputs(ctx context.Context, stored store.Record) error {
	for _, o := range b.Outputs {
		if o.Type == OutputImage || o.Dest == "" {
			continue
		}
		v := b.Progress.Begin("exporting to %s", o.Dest)
		if err := b.output(ctx, o, stored); err != nil {
			v.Failed(err)
			return fmt.Errorf("cannot write the output %s: %w", o.Dest, err)
		}
		v.Done()
	}
	return nil
}

func (b *builder) output(ctx context.Context, o Output, stored store.Record) error {
	if o.Type == OutputLocal {
		return b.outputLocal(ctx, o.Dest)
	}
	write := func(w io.Writer) error {
		if o.Type == OutputTar {
			return b.outputTar(ctx, w)
		}
		ref := string(stored.ID)
		if len(b.Tags) > 0 {
			ref = b.Tags[0]
		}
		return archive.Save(ctx, b.engine.Images, []string{ref}, nil, w)
	}
	if o.Dest == "-" {
		return write(b.Stdout)
	}
	// The file has its name when it is whole.
	tmp := o.Dest + disk.TemporaryName()
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	err = write(f)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(tmp, o.Dest)
	}
	if err != nil {
		_ = os.Remove(tmp)
	}
	return err
}

// outputLocal copies the result's files into a directory. What is there already stays, unless it has the name of a file of the result.
func (b *builder) outputLocal(ctx context.Context, dest string) error {
	trees, err := b.trees(b.results[b.plan.Target()].layers)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dest, 0o755); err != nil {
		return err
	}
	item, err := files.Tree{Layers: trees}.Find(".")
	if err != nil || len(trees) == 0 {
		return err
	}
	defer item.Close()
	l, err := files.Open(dest, nil, b.now)
	if err != nil {
		return err
	}
	defer l.Close()
	// They belong to whoever asked for them, as docker has it.
	return l.Copy(ctx, item, "/", files.Options{Owner: &files.Owner{UID: os.Geteuid(), GID: os.Getegid()}, Devices: files.LeaveOut})
}

// outputTar writes the result's files as one tar.
func (b *builder) outputTar(ctx context.Context, w io.Writer) (err error) {
	trees, err := b.trees(b.results[b.plan.Target()].layers)
	if err != nil {
		return err
	}
	if len(trees) == 0 {
		return tar.NewWriter(w).Close()
	}
	work, err := b.cache.Begin()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, work.End(b.engine.RemoveTree)) }()
	item, err := files.Tree{Layers: trees}.Find(".")
	if err != nil {
		return err
	}
	defer item.Close()
	l, err := files.Open(work.Upper(), nil, b.now)
	if err != nil {
		return err
	}
	defer l.Close()
	if err := l.Copy(ctx, item, "/", files.Options{}); err != nil {
		return err
	}
	dir, err := os.Open(work.Upper())
	if err != nil {
		return err
	}
	defer dir.Close()
	return unpack.Diff(ctx, dir, w, unpack.DiffOptions{UserXattr: b.engine.Host().InUserNS, Latest: b.latest()})
}

// checkTags gives names their canonical form.
func checkTags(tags []string) ([]string, error) {
	var out []string
	for _, t := range tags {
		ref, err := reference.Parse(t)
		if err != nil {
			return nil, err
		}
		if ref.Digest != "" {
			return nil, errdef.New(errdef.Invalid, "invalid tag %q: a name with a digest cannot be given", t)
		}
		out = append(out, ref.String())
	}
	return out, nil
}
