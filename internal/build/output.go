package build

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"berth/internal/build/files"
	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/image/archive"
	"berth/internal/image/reference"
	"berth/internal/image/store"
	"berth/internal/image/transfer"
	"berth/internal/image/unpack"
)

// Types of outputs.
const (
	OutputImage  = "image"
	OutputDocker = "docker"
	OutputOCI    = "oci"
	OutputLocal  = "local"
	OutputTar    = "tar"
	OutputCache  = "cacheonly"
)

// Output is where the result goes.
type Output struct {
	Type    string
	Dest    string // a path, "-" for standard output, or "" for the store
	Name    string // names of an image, with commas between them
	Rewrite bool   // with SOURCE_DATE_EPOCH, no file of a new layer is younger
	Push    bool   // to the registries of its names
	// Directory says that an archive of images is to be unpacked.
	Directory bool
	// Compression is how layers are packed, "" as they are; Force packs those of the base, too.
	Compression string
	Force       bool
}

// isImage reports whether the output has an image, and not only its files.
func (o Output) isImage() bool {
	return o.Type == OutputImage || o.Type == OutputDocker || o.Type == OutputOCI
}

// outputs writes the image where else it is to go.
func (s *session) outputs(ctx context.Context, stored store.Record) error {
	for _, o := range s.Outputs {
		if !o.isImage() || o.Dest == "" {
			continue
		}
		v := s.Progress.Begin("exporting to %s", o.Dest)
		if err := s.outputArchive(ctx, o, stored); err != nil {
			v.Failed(err)
			return fmt.Errorf("cannot write the output %s: %w", o.Dest, err)
		}
		v.Done()
	}
	for _, o := range s.Outputs {
		if o.Push {
			return s.push(ctx, stored)
		}
	}
	return nil
}

// push sends the image to the registries of all its names.
func (s *session) push(ctx context.Context, stored store.Record) error {
	for _, name := range s.Tags {
		ref, err := reference.Parse(name)
		if err != nil {
			return err
		}
		v := s.Progress.Begin("pushing %s", name)
		pushed, err := transfer.Push(ctx, ref, stored.Target, stored.Manifest, transfer.PushOptions{Registry: s.Registry, Content: s.engine.Images.Content, Open: s.engine.Images.Blob})
		if err != nil {
			v.Failed(err)
			return err
		}
		s.engine.NoteImage("push", ref.Familiar(), ref.FamiliarName())
		v.Say("pushing manifest for %s@%s done", name, pushed.Digest)
		v.Done()
	}
	return nil
}

// outputArchive writes the image as an archive.
func (s *session) outputArchive(ctx context.Context, o Output, stored store.Record) error {
	ref := string(stored.ID)
	if len(s.Tags) > 0 {
		ref = s.Tags[0]
	}
	write := func(w io.Writer) error {
		if stored.Target.Digest != stored.Manifest.Digest && o.Type == OutputOCI {
			return archive.SaveAll(ctx, s.engine.Images, stored, s.Tags, w)
		}
		return archive.Save(ctx, s.engine.Images, []string{ref}, nil, w)
	}
	switch {
	case o.Directory:
		return s.unpackArchive(ctx, o.Dest, write)
	case o.Dest == "-":
		return write(s.Stdout)
	}
	return disk.Output(o.Dest, 0o644, write)
}

// unpackArchive makes a directory of what would be an archive.
func (s *session) unpackArchive(ctx context.Context, dest string, write func(io.Writer) error) error {
	if err := os.MkdirAll(dest, 0o755); err != nil {
		return err
	}
	dir, err := os.Open(dest)
	if err != nil {
		return err
	}
	defer dir.Close()
	if names, err := dir.Readdirnames(1); len(names) > 0 || err != nil && !errors.Is(err, io.EOF) {
		return errors.Join(errdef.New(errdef.Conflict, "the directory %s is not empty", dest), err)
	}
	in, out := io.Pipe()
	go func() { _ = out.CloseWithError(write(out)) }()
	_, err = unpack.Apply(ctx, dir, in, s.unpackOptions())
	_ = in.CloseWithError(err)
	return err
}

// outputFiles writes the files of the result. Where it is for several platforms, each is in a directory of its own.
func (s *session) outputFiles(ctx context.Context, all []*builder) error {
	for _, o := range s.Outputs {
		if o.Type != OutputLocal && o.Type != OutputTar {
			continue
		}
		v := s.Progress.Begin("exporting to %s", o.Dest)
		err := s.writeFiles(ctx, o, all)
		if err != nil {
			v.Failed(err)
			return fmt.Errorf("cannot write the output %s: %w", o.Dest, err)
		}
		v.Done()
	}
	return nil
}

func (s *session) writeFiles(ctx context.Context, o Output, all []*builder) error {
	if o.Type == OutputLocal {
		for _, b := range all {
			if err := b.outputLocal(ctx, filepath.Join(o.Dest, b.directory())); err != nil {
				return err
			}
		}
		return nil
	}
	write := func(w io.Writer) error {
		t := tar.NewWriter(w)
		for _, b := range all {
			if err := b.outputTar(ctx, t); err != nil {
				return err
			}
		}
		return t.Close()
	}
	if o.Dest == "-" {
		return write(s.Stdout)
	}
	return disk.Output(o.Dest, 0o644, write)
}

// directory is where the files of one of several platforms are, as BuildKit names it.
func (b *builder) directory() string {
	if !b.several() {
		return ""
	}
	return strings.ReplaceAll(b.platform.String(), "/", "_")
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

// outputTar adds the result's files to a tar.
func (b *builder) outputTar(ctx context.Context, t *tar.Writer) error {
	trees, err := b.trees(b.results[b.plan.Target()].layers)
	if err != nil || len(trees) == 0 {
		return err
	}
	return unpack.AddMerged(ctx, trees, b.directory(), t, unpack.PackOptions{Latest: b.latest()})
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
