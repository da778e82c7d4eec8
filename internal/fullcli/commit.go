package fullcli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"berth/internal/cli"
	"berth/internal/disk"
	"berth/internal/engine"
	"berth/internal/errdef"
	"berth/internal/image/archive"
	"berth/internal/image/unpack"
	"berth/internal/state"
	"berth/internal/storage"

	"golang.org/x/term"
)

// export writes what a container consists of, without what is mounted in it.
func export(c cli.Call) error {
	of, err := c.Engine.Containers.Resolve(c.Args[0])
	if err != nil {
		return err
	}
	layers, err := c.Engine.Stack(of)
	if err != nil {
		return err
	}
	c.Engine.Containers.Note(of, "export")
	write := func(w io.Writer) error {
		return unpack.PackMerged(c.Context, layers, w, unpack.PackOptions{Owner: engine.OwnersOut(of)})
	}
	if path := option(c, "output"); path != "" {
		return disk.Output(path, 0o600, write)
	}
	if f, ok := c.Out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return errdef.Hint(errdef.New(errdef.Invalid, "cowardly refusing to save to a terminal"), "use the -o flag or redirect")
	}
	return write(c.Out)
}

// commit makes an image of what a container has changed.
func commit(c cli.Call) (err error) {
	e := c.Engine
	of, err := e.Containers.Resolve(c.Args[0])
	if err != nil {
		return err
	}
	base, err := e.Base(of)
	if err != nil {
		return err
	}
	opt := archive.CommitOptions{
		ImportOptions: archive.ImportOptions{Options: archive.Options{Unpack: unpackOptions()}, Changes: c.Options["change"], Message: option(c, "message")},
		Author:        option(c, "author"), CreatedBy: strings.Join(of.Config.Args(), " "), Config: engine.ConfigOf(of.Config, base.Config.Config),
	}
	if len(c.Args) > 1 {
		opt.Name = c.Args[1]
	}
	thaw, err := e.Freeze(of, option(c, "pause") != "false" && option(c, "no-pause") != "true")
	if err != nil {
		return err
	}
	write := func(w io.Writer) error { return writeLayer(c, of, w) }
	r, err := archive.Commit(c.Context, e.Images, base, write, opt)
	if err = errors.Join(err, thaw()); err != nil {
		return err
	}
	e.NoteTag(r)
	e.Containers.Note(of, "commit", "comment", opt.Message, "imageID", string(r.ID), "imageRef", opt.Name)
	_, err = fmt.Fprintln(c.Out, r.ID)
	return err
}

// writeLayer writes the layer of what a container has changed.
func writeLayer(c cli.Call, of *state.Container, w io.Writer) error {
	dir := c.Engine.Containers.Upper(of.ID)
	if !storage.Whole(of.Driver) {
		upper, err := os.Open(dir)
		if err != nil {
			return err
		}
		defer upper.Close()
		return unpack.Diff(c.Context, upper, w, unpack.DiffOptions{UserXattr: unpackOptions().UserXattr})
	}
	changes, err := c.Engine.Changes(of)
	if err != nil {
		return err
	}
	tree, err := os.Open(c.Engine.Containers.Tree(of))
	if errors.Is(err, os.ErrNotExist) {
		changes, tree, err = nil, nil, nil // it has never run
	}
	if err != nil {
		return err
	}
	defer tree.Close()
	return unpack.DiffCopy(c.Context, tree, changes, w, engine.OwnersOut(of), unpack.DiffOptions{})
}
