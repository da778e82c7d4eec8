package fullcli

import (
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"berth/internal/cli"
	"berth/internal/errdef"
	"berth/internal/foreign"
	"berth/internal/host"
	"berth/internal/image"
	"berth/internal/image/archive"
	"berth/internal/image/reference"
	"berth/internal/volume"
)

// importing is one call of "system import".
type importing struct {
	cli.Call
	from   *foreign.Store
	wanted importFilter
	dry    bool
	force  bool
	named  map[string]image.Digest // the names that images have here
	failed bool
	left   int // images and volumes without a name that were not asked for
}

// importFilter says what is brought over; the zero value means all that has a name.
type importFilter struct {
	all                bool
	images, volumes    bool // one kind alone
	references, called []string
}

// importSystem brings over the images and volumes of another engine.
func importSystem(c cli.Call) error {
	engine := option(c, "from")
	if engine != foreign.Docker && engine != foreign.Podman {
		return errdef.New(errdef.Invalid, "cannot import from %q: --from is docker or podman", engine)
	}
	wanted, err := parseImportFilter(c.Options["filter"])
	if err != nil {
		return err
	}
	wanted.all = option(c, "all") == "true"
	root := option(c, "root")
	if root == "" {
		root = foreign.Usual(engine, host.Probe().InUserNS, os.Getenv)
	}
	from, err := foreign.Open(engine, root)
	if err != nil {
		return err
	}
	defer from.Close()
	records, err := c.Engine.Images.List()
	if err != nil {
		return err
	}
	m := &importing{Call: c, from: from, wanted: wanted, dry: option(c, "dry-run") == "true", force: option(c, "force") == "true", named: map[string]image.Digest{}}
	for _, r := range records {
		m.named[r.Name] = r.ID
	}
	// What one kind has to say must not keep the other from coming.
	if !wanted.volumes {
		m.note(m.images())
	}
	if !wanted.images {
		m.note(m.volumes())
	}
	if m.left > 0 {
		fmt.Fprintf(c.Err, "berth: %d images and volumes without a name of their own were left out; --all brings them, too\n", m.left)
	}
	if m.failed {
		return errdef.New(errdef.Unavailable, "not all of %s could be brought over", root)
	}
	return nil
}

// parseImportFilter reads the filters: type=image|volume, reference=PATTERN of images, name=PATTERN of volumes.
func parseImportFilter(filters []string) (f importFilter, err error) {
	for _, text := range filters {
		key, value, _ := strings.Cut(text, "=")
		switch {
		case text == "type=image":
			f.images = true
		case text == "type=volume":
			f.volumes = true
		case key == "reference":
			f.references = append(f.references, value)
		case key == "name":
			f.called = append(f.called, value)
		default:
			return f, errdef.New(errdef.Invalid, "invalid filter '%s': there are type=image, type=volume, reference=PATTERN and name=PATTERN", text)
		}
		if _, err := path.Match(value, ""); err != nil {
			return f, errdef.New(errdef.Invalid, "invalid filter '%s': %w", text, err)
		}
	}
	if f.images && f.volumes {
		f.images, f.volumes = false, false
	}
	return f, nil
}

// matches reports whether a name, in one of its forms, is one of the patterns; no patterns match all.
func matches(patterns []string, forms ...string) bool {
	return len(patterns) == 0 || slices.ContainsFunc(patterns, func(p string) bool {
		return slices.ContainsFunc(forms, func(form string) bool {
			ok, _ := path.Match(p, form)
			return ok
		})
	})
}

// note reports what has failed, and goes on.
func (m *importing) note(err error) {
	if err == nil {
		return
	}
	m.failed = true
	fmt.Fprintf(m.Err, "berth: %s\n", cli.Visible(err.Error()))
	if hint := errdef.HintOf(err); hint != "" {
		fmt.Fprintf(m.Err, "hint: %s\n", cli.Visible(hint))
	}
}

// say prints one thing that has been done, or would be.
func (m *importing) say(done, would, what string) {
	if m.dry {
		done = would
	}
	fmt.Fprintf(m.Out, "%s %s\n", done, cli.Visible(what))
}

func (m *importing) images() error {
	all, err := m.from.Images()
	if err != nil {
		return err
	}
	for _, im := range all {
		if err := m.Context.Err(); err != nil {
			return errdef.As(errdef.Cancelled, err)
		}
		m.note(m.image(im))
	}
	return nil
}

// image brings an image over under those of its names that are asked for and that no other image here has.
func (m *importing) image(im foreign.Image) error {
	asked := len(m.wanted.references) == 0 && !im.Hidden && (len(im.Names) > 0 || im.Pinned || m.wanted.all)
	var names, shown []string
	for _, name := range im.Names {
		ref, err := reference.Parse(name)
		switch {
		case err != nil || ref.Digest != "":
			continue // a digest is a manifest's, and that they have not kept
		case !matches(m.wanted.references, name, ref.Familiar(), ref.FamiliarName(), ref.String(), ref.Repository()):
			continue
		}
		asked = true
		switch here, taken := m.named[ref.String()]; {
		case taken && here == im.ID:
			m.say("Image is here:", "Image is here:", ref.Familiar())
		case taken:
			m.note(errdef.Hint(errdef.New(errdef.Conflict, "cannot bring image %s over: the name is another image's here, %s", ref.Familiar(), here.Short()),
				"give that one another name: berth tag %s NEW_NAME && berth rmi %s", ref.Familiar(), ref.Familiar()))
		default:
			names, shown = append(names, ref.String()), append(shown, ref.Familiar())
		}
	}
	switch {
	case !asked && len(im.Names) == 0 && !im.Hidden && len(m.wanted.references) == 0:
		m.left++
		return nil
	case !asked, len(names) == 0 && (len(im.Names) > 0 || m.has(im.ID)):
		return nil
	case len(shown) == 0:
		shown = []string{string(im.ID)}
	}
	if im.Err != nil {
		return errdef.Hint(fmt.Errorf("cannot bring image %s over: %w", strings.Join(shown, ", "), im.Err), "%s", errdef.HintOf(im.Err))
	}
	if !m.dry {
		parts := archive.Parts{ID: im.ID, Config: im.Config, Parsed: im.Parsed, Manifest: im.Manifest, Tar: func(layer int, w io.Writer) error { return im.Layers[layer].Tar(w) }}
		record, err := archive.Adopt(m.Context, m.Engine.Images, parts, names, archive.Options{Unpack: unpackOptions()})
		if err != nil {
			return err
		}
		m.Engine.NoteImage("import", string(record.ID), shown[0])
	}
	for _, name := range shown {
		m.say("Imported image:", "Would import image:", name)
	}
	return nil
}

// has reports whether an image is here under any name, or none.
func (m *importing) has(id image.Digest) bool {
	for _, here := range m.named {
		if here == id {
			return true
		}
	}
	return false
}

func (m *importing) volumes() error {
	all, err := m.from.Volumes(m.Engine.Notice)
	if err != nil {
		return err
	}
	owner, err := m.from.Owner()
	if err != nil {
		return err
	}
	if owner != uint32(os.Geteuid()) && len(all) > 0 {
		return errdef.Hint(errdef.New(errdef.Denied, "cannot bring volumes over: their files belong to ids of user %d", owner), "run berth as that user")
	}
	for _, v := range all {
		if err := m.Context.Err(); err != nil {
			return errdef.As(errdef.Cancelled, err)
		}
		if !matches(m.wanted.called, v.Name) {
			continue
		}
		if v.Anonymous && !m.wanted.all && len(m.wanted.called) == 0 {
			m.left++
			continue
		}
		if err := m.volume(v); err != nil {
			m.note(errdef.Hint(fmt.Errorf("cannot bring volume %s over: %w", v.Name, err), "%s", errdef.HintOf(err)))
		}
	}
	return nil
}

// volume brings a volume over: its content, or what mounts it.
func (m *importing) volume(v foreign.Volume) error {
	if v.Err != nil {
		return v.Err
	}
	if _, err := m.Engine.Volumes.Load(v.Name); err == nil {
		m.say("Volume is here:", "Volume is here:", v.Name)
		return nil
	}
	to := volume.Volume{Name: v.Name, Labels: v.Labels, Options: v.Options, Anonymous: v.Anonymous}
	if err := volume.CheckOptions(to.Options); err != nil {
		return err
	}
	if to.Mounted() {
		if !m.dry {
			if err := m.Engine.CreateVolume(to); err != nil {
				return err
			}
		}
		m.say("Imported volume:", "Would import volume:", v.Name)
		return nil
	}
	pid, err := m.from.User(v)
	if err != nil {
		return err
	}
	if pid != 0 && !m.force {
		return errdef.Hint(errdef.New(errdef.Conflict, "process %d has it mounted, and may be writing", pid), "stop the container that has it, or take what is there at this moment with --force")
	}
	from, err := m.from.OpenVolume(v)
	if err != nil {
		return err
	}
	defer from.Close()
	if !m.dry {
		if err := m.Engine.FillVolume(to, func(dir *os.File) error { return m.Engine.CopyAsItIs(m.Context, from, dir) }); err != nil {
			return err
		}
	}
	m.say("Imported volume:", "Would import volume:", v.Name)
	return nil
}
