package fullcli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"berth/internal/cli"
	"berth/internal/engine"
	"berth/internal/errdef"
	"berth/internal/image/unpack"

	"github.com/docker/go-units"
	"golang.org/x/term"
)

// splitContainer splits an argument of cp into a container and a path. There is no container in what begins with "/" or ".".
func splitContainer(arg string) (of, p string) {
	if filepath.IsAbs(arg) {
		return "", arg
	}
	of, p, found := strings.Cut(arg, ":")
	if !found || strings.HasPrefix(of, ".") {
		return "", arg
	}
	return of, p
}

func copyFiles(c cli.Call) error {
	fromContainer, from := splitContainer(c.Args[0])
	toContainer, to := splitContainer(c.Args[1])
	switch {
	case from == "" || to == "":
		return errdef.New(errdef.Invalid, "source and destination can not be empty: a path follows CONTAINER:")
	case fromContainer == "" && toContainer == "":
		return errdef.Hint(errdef.New(errdef.Invalid, "must specify at least one container source"), "berth cp CONTAINER:PATH PATH, or berth cp PATH CONTAINER:PATH")
	case fromContainer != "" && toContainer != "":
		return errdef.Hint(errdef.New(errdef.Invalid, "copying between containers is not supported"), "berth cp %s - | berth cp - %s", c.Args[0], c.Args[1])
	}
	p := &copyProgress{to: c.Err, quiet: option(c, "quiet") == "true", live: terminalSize(c.Err) != nil}
	o := engine.CopyOptions{
		Archive: option(c, "archive") == "true", Follow: option(c, "follow-link") == "true", Count: p.count,
		Notice: func(text string) { p.clear(); fmt.Fprintf(c.Err, "berth: %s\n", cli.Visible(text)) },
	}
	of, err := c.Engine.Containers.Resolve(fromContainer + toContainer)
	if err != nil {
		return err
	}
	switch {
	case from == "-":
		d, err := c.Engine.OpenDestination(of, to)
		if err != nil {
			return err
		}
		owner, err := d.OwnersOfCopies(of, o.Archive)
		if err == nil {
			err = unpack.Place(c.Context, d.File, d.Path, c.In, unpack.PlaceOptions{Owner: owner, Notice: o.Notice})
		}
		if err == nil {
			c.Engine.Containers.Note(of, "extract-to-dir")
		}
		return errors.Join(err, d.Close())
	case to == "-":
		if f, ok := c.Out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
			return errdef.New(errdef.Invalid, "cowardly refusing to copy to a terminal")
		}
		s, err := c.Engine.OpenSource(of, from, o.Follow)
		if err != nil {
			return err
		}
		c.Engine.Containers.Note(of, "archive-path")
		err = unpack.Pack(c.Context, s.Dir(), s.Name(), s.As, c.Out, unpack.PackOptions{Owner: engine.OwnersOut(of)})
		return errors.Join(err, s.Close())
	case toContainer != "":
		p.what = "Copying to container"
		err = c.Engine.CopyIn(c.Context, of, from, to, o)
		to = toContainer + ":" + to
	default:
		p.what = "Copying from container"
		err = c.Engine.CopyOut(c.Context, of, from, to, o)
		if abs, e := filepath.Abs(to); e == nil {
			to = abs
		}
	}
	p.clear()
	if err != nil || p.quiet {
		return err
	}
	_, err = fmt.Fprintf(c.Err, "Successfully copied %s to %s\n", p.size(), cli.Visible(to))
	return err
}

// copyProgress counts what cp copies as docker does: in bytes of the tar that it would be.
type copyProgress struct {
	to          io.Writer
	what        string
	quiet, live bool
	bytes       int64
	shown       time.Time
}

// tarEnd is what a tar ends with.
const tarEnd = 2 * 512

func (p *copyProgress) size() string {
	return units.HumanSizeWithPrecision(float64(p.bytes+tarEnd), 3)
}

func (p *copyProgress) count(bytes int64) {
	p.bytes += bytes
	if now := time.Now(); p.live && !p.quiet && now.Sub(p.shown) >= showEvery {
		p.shown = now
		fmt.Fprintf(p.to, "\r\x1b[K%s - %s", p.what, p.size())
	}
}

// clear takes the line away.
func (p *copyProgress) clear() {
	if !p.shown.IsZero() {
		fmt.Fprint(p.to, "\r\x1b[K")
	}
}
