package fullcli

import (
	"errors"
	"io"
	"os"

	"berth/internal/cli"
	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/image/unpack"
	"berth/internal/tree"
	"berth/internal/volume"

	"golang.org/x/term"
)

// exportVolume writes the tar of what is in a volume.
func exportVolume(c cli.Call) error {
	e := c.Engine
	v, err := e.OpenVolume(c.Args[0])
	if err != nil {
		return err
	}
	dir, err := os.Open(e.Volumes.Path(v.Name))
	if err != nil {
		return err
	}
	defer dir.Close()
	write := func(w io.Writer) error { return unpack.Pack(c.Context, dir, ".", ".", w, unpack.PackOptions{}) }
	if path := option(c, "output"); path != "" {
		return disk.Output(path, 0o600, write)
	}
	if f, ok := c.Out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return errdef.Hint(errdef.New(errdef.Invalid, "cowardly refusing to save to a terminal"), "use the -o flag or redirect")
	}
	return write(c.Out)
}

// importVolume unpacks a tar into a volume; a new one has its name when all is there.
func importVolume(c cli.Call) error {
	e, name := c.Engine, c.Args[0]
	in := c.In
	if len(c.Args) > 1 && c.Args[1] != "-" {
		f, err := os.Open(c.Args[1])
		if err != nil {
			return errdef.New(errdef.NotFound, "cannot import: %w", err)
		}
		defer f.Close()
		in = f
	}
	opt := unpack.PlaceOptions{
		Owner:  tree.Owner(func(uid, gid uint32) (int, int, error) { return int(uid), int(gid), nil }),
		Notice: e.Notice,
	}
	place := func(dir *os.File) error { return unpack.Place(c.Context, dir, "/", in, opt) }
	v, err := e.OpenVolume(name)
	if errdef.Is(err, errdef.NotFound) {
		return e.FillVolume(volume.Volume{Name: name}, place)
	}
	if err != nil {
		return err
	}
	dir, err := os.Open(e.Volumes.Path(v.Name))
	if err != nil {
		return err
	}
	return errors.Join(place(dir), dir.Close())
}
