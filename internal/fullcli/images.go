// Package fullcli is the part of the command line that needs the whole of berth: what moves images in and out, and output
// by Go templates. internal/cli has the table of commands and calls these by name.
//
// It parses no flags and knows no containers.
package fullcli

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"berth/internal/box"
	"berth/internal/cli"
	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/host"
	"berth/internal/image"
	"berth/internal/image/archive"
	"berth/internal/image/hosts"
	"berth/internal/image/policy"
	"berth/internal/image/registry"
	"berth/internal/image/store"
	"berth/internal/image/unpack"
	"berth/internal/program"

	"golang.org/x/term"
)

// Commands are the commands of this package by the names of cli's table.
func Commands() map[string]func(cli.Call) error {
	return map[string]func(cli.Call) error{
		"login": login, "logout": logout,
		"image pull": pull, "image push": push, "image load": load, "image save": save, "image import": importTar, "image verify": verifyImages, "image copy": copyImage, "image delete": deleteImage, "image referrers": listReferrers, "image tags": listTags,
		"box":               installBox,
		"manifest annotate": manifestAnnotate, "manifest create": manifestCreate, "manifest inspect": manifestInspect, "manifest push": manifestPush, "manifest rm": manifestRm,
		"search": search, "container cp": copyFiles, "container export": export, "container commit": commit,
		"log-send": sendLog, "log-compress": compressLog, "log-names": logNames,
		"volume export": exportVolume, "volume import": importVolume,
		"system import":  importSystem,
		"image build":    buildImage,
		"context export": exportContext, "context import": importContext,
	}
}

func option(c cli.Call, name string) string {
	if v := c.Options[name]; len(v) > 0 {
		return v[len(v)-1]
	}
	return ""
}

func platform(c cli.Call) (*image.Platform, error) {
	s := option(c, "platform")
	if s == "" {
		return nil, nil
	}
	p, err := image.ParsePlatform(s)
	return &p, err
}

// unpackOptions are for whoever unpacks: root of the machine, or of a user namespace.
func unpackOptions() unpack.Options {
	h := host.Probe()
	if !h.InUserNS {
		return unpack.Options{}
	}
	return unpack.Options{UserXattr: true, SkipDevices: true, OwnersIgnored: h.SingleID}
}

// names is the store as a pull sees it.
type names struct{ *store.Store }

func (n names) Digest(name string) (image.Digest, error) {
	r, err := n.Find(name)
	return r.Target.Digest, err
}

func (n names) Put(_ context.Context, name string, target, manifest image.Descriptor) error {
	_, err := n.Store.Put(name, target, manifest)
	return err
}

// newClient speaks to registries as the user who is logged in there.
func newClient(c cli.Call) *registry.Client {
	notice := func(s string) { fmt.Fprintln(c.Err, "berth: "+cli.Visible(s)) }
	files := hosts.Usual(os.Getenv)
	files.Notice = notice
	insecure := option(c, "insecure") == "true"
	return registry.New(registry.Options{
		Version: cli.Version,
		Host: func(name string) (registry.Host, error) {
			h, err := files.Host(name)
			if insecure {
				h.Insecure, h.RootCAs = true, nil
			}
			return h, err
		},
		Credentials: registry.FromFiles(registry.AuthFiles(os.Getenv), notice),
		Notice:      notice,
	})
}

// terminalSize tells the size of the terminal behind w; nil says that there is none.
func terminalSize(w io.Writer) func() (columns, rows int) {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil
	}
	return func() (int, int) {
		columns, rows, err := term.GetSize(int(f.Fd()))
		if err != nil {
			return 80, 24
		}
		return columns, rows
	}
}

func load(c cli.Call) error {
	want, err := platform(c)
	if err != nil {
		return err
	}
	in := c.In
	if path := option(c, "input"); path != "" {
		f, err := os.Open(path)
		if err != nil {
			return errdef.New(errdef.NotFound, "cannot load: %w", err)
		}
		defer f.Close()
		in = f
	} else if term.IsTerminal(int(c.In.Fd())) {
		return errdef.Hint(errdef.New(errdef.Invalid, "requested load from stdin, but stdin is a terminal"), "name a file with --input")
	}
	allowed, err := policy.Read(policy.Files(os.Getenv))
	if err != nil {
		return err
	}
	opt := archive.Options{Unpack: unpackOptions(), Allow: func(transport string) error { return allowed.File(transport, option(c, "input"), "") }}
	if want != nil {
		opt.Platform = *want
	}
	source := io.Reader(in)
	if option(c, "quiet") != "true" && terminalSize(c.Out) != nil {
		p := &progress{from: in, to: c.Out}
		if st, err := in.Stat(); err == nil && st.Mode().IsRegular() {
			p.total = st.Size()
		}
		defer p.end()
		source = p
	}
	loaded, err := archive.Load(c.Context, c.Engine.Images, source, opt)
	if err != nil {
		return err
	}
	for _, l := range loaded {
		c.Engine.NoteImage("load", string(l.ID), string(l.ID))
		if l.Name != "" {
			fmt.Fprintf(c.Out, "Loaded image: %s\n", l.Name)
		} else {
			fmt.Fprintf(c.Out, "Loaded image ID: %s\n", l.ID)
		}
	}
	return nil
}

func save(c cli.Call) error {
	want, err := platform(c)
	if err != nil {
		return err
	}
	for _, name := range c.Args {
		if r, err := c.Engine.Images.Find(name); err == nil {
			c.Engine.NoteImage("save", string(r.ID), string(r.ID))
		}
	}
	client := newClient(c)
	defer client.Close()
	c.Engine.Images.Fetch = fetchFrom(c, client)
	path := option(c, "output")
	if path == "" {
		if f, ok := c.Out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
			return errdef.Hint(errdef.New(errdef.Invalid, "cowardly refusing to save to a terminal"), "use the -o flag or redirect")
		}
		return archive.Save(c.Context, c.Engine.Images, c.Args, want, c.Out)
	}
	return disk.Output(path, 0o600, func(w io.Writer) error { return archive.Save(c.Context, c.Engine.Images, c.Args, want, w) })
}

func importTar(c cli.Call) error {
	want, err := platform(c)
	if err != nil {
		return err
	}
	opt := archive.ImportOptions{
		Options: archive.Options{Unpack: unpackOptions()},
		Changes: c.Options["change"], Message: option(c, "message"),
	}
	if want != nil {
		opt.Platform = *want
	}
	if len(c.Args) > 1 {
		opt.Name = c.Args[1]
	}
	in, err := importSource(c)
	if err != nil {
		return err
	}
	defer in.Close()
	r, err := archive.Import(c.Context, c.Engine.Images, in, opt)
	if err != nil {
		return err
	}
	c.Engine.NoteTag(r)
	c.Engine.NoteImage("import", string(r.ID), string(r.ID))
	_, err = fmt.Fprintln(c.Out, r.ID)
	return err
}

func importSource(c cli.Call) (io.ReadCloser, error) {
	source := c.Args[0]
	switch {
	case source == "-":
		return io.NopCloser(c.In), nil
	case strings.HasPrefix(source, "http://"), strings.HasPrefix(source, "https://"):
		return download(c.Context, source)
	}
	f, err := os.Open(source)
	if err != nil {
		return nil, errdef.New(errdef.NotFound, "cannot import: %w", err)
	}
	return f, nil
}

// installBox makes the image that comes with berth.
func installBox(c cli.Call) error {
	data, err := program.Open("berth-box")
	if err != nil {
		return err
	}
	_, err = box.Install(c.Context, c.Engine.Images, data, unpackOptions())
	return err
}
