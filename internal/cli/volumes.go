package cli

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"berth/internal/engine"
	"berth/internal/errdef"
	"berth/internal/ident"
	"berth/internal/volume"
)

func orEmpty(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

// volumeView is a volume as docker's inspect shows it.
type volumeView struct {
	CreatedAt  time.Time
	Driver     string
	Labels     map[string]string
	Mountpoint string
	Name       string
	Options    map[string]string
	Scope      string
}

func inspectVolume(e *engine.Engine, name string) (any, error) {
	v, err := e.Volumes.Load(name)
	if err != nil {
		return nil, err
	}
	return volumeView{v.CreatedAt, v.DriverName(), v.Labels, e.Volumes.Path(name), name, v.Options, "local"}, nil
}

// volumeRow is a volume as ls shows it; the names of its fields are docker's.
type volumeRow struct {
	labelled
	Availability string
	Driver       string
	Group        string
	Labels       string
	Links        string
	Mountpoint   string
	Name         string
	Scope        string
	Size         string
	Status       string
}

// volumeRowOf is a volume's row; who uses it and how much is in it, only system df looks at.
func volumeRowOf(e *engine.Engine, v volume.Volume) volumeRow {
	return volumeRow{
		labelled: labelled{v.Labels}, Availability: "N/A", Driver: v.DriverName(), Group: "N/A", Labels: labelText(v.Labels), Links: "N/A", Mountpoint: e.Volumes.Path(v.Name),
		Name: v.Name, Scope: "local", Size: "N/A", Status: "N/A",
	}
}

func (c *call) cmdVolumeLs() error {
	e, err := c.engine()
	if err != nil {
		return err
	}
	all, err := e.Volumes.List()
	if err != nil {
		return err
	}
	uses, err := e.VolumeUses()
	if err != nil {
		return err
	}
	match, err := filter(c.options.filters, func(key, value string) (func(volume.Volume) (bool, error), error) {
		return c.volumeFilter(uses, key, value)
	})
	if err != nil {
		return err
	}
	var rows []any
	var names, cells [][]string
	for _, v := range all {
		if yes, err := match(v); err != nil {
			return err
		} else if !yes {
			continue
		}
		rows = append(rows, volumeRowOf(e, v))
		names = append(names, []string{v.Name})
		cells = append(cells, []string{v.DriverName(), v.Name})
	}
	if c.options.quiet {
		return c.onlyFirst(names)
	}
	if done, err := c.format(rows); done {
		return err
	}
	return table(c.out, []string{"DRIVER", "VOLUME NAME"}, cells)
}

// volumeFilter reads one of docker's filters of volumes.
func (c *call) volumeFilter(uses map[string][]string, key, value string) (func(volume.Volume) (bool, error), error) {
	switch key {
	case "dangling":
		dangling, err := strconv.ParseBool(value)
		if err != nil {
			return nil, errdef.New(errdef.Invalid, "invalid filter 'dangling=%s'", value)
		}
		return simple(func(v volume.Volume) bool { return dangling == (len(uses[v.Name]) == 0) }), nil
	case "driver":
		return simple(func(v volume.Volume) bool { return value == v.DriverName() }), nil
	case "label":
		return simple(func(v volume.Volume) bool { return hasLabel(v.Labels, value) }), nil
	case "name":
		matches, err := c.pattern(value)
		return simple(func(v volume.Volume) bool { return matches(v.Name) }), err
	}
	return nil, errdef.New(errdef.Invalid, "invalid filter '%s'", key)
}

func (c *call) cmdVolumeCreate() error {
	e, err := c.engine()
	if err != nil {
		return err
	}
	v := c.options.volume
	switch {
	case v.Driver != "" && v.Driver != volume.DriverLocal:
		return errdef.New(errdef.NotFound, "error looking up volume plugin %s: plugin %q not found: there is only local", v.Driver, v.Driver)
	case len(c.args) == 1 && v.Name != "":
		return c.usage("conflicting options: cannot specify a volume-name through both --name and as a positional arg")
	case len(c.args) == 1:
		v.Name = c.args[0]
	case v.Name == "":
		v.Name, v.Anonymous = ident.New(), true
	}
	if err := e.CreateVolume(v); err != nil {
		return err
	}
	_, err = fmt.Fprintln(c.out, v.Name)
	return err
}

func (c *call) cmdVolumeRm() error {
	e, err := c.engine()
	if err != nil {
		return err
	}
	return c.each(func(name string) error {
		if err := e.RemoveVolume(name); err != nil {
			if !errdef.Is(err, errdef.NotFound) || !c.options.force {
				return err
			}
		}
		_, err := fmt.Fprintln(c.out, name)
		return err
	})
}

func (c *call) cmdVolumePrune() error {
	all := c.options.all
	var filters []string
	for _, f := range c.options.filters {
		if value, ok := strings.CutPrefix(f, "all="); ok {
			b, err := strconv.ParseBool(value)
			if err != nil {
				return errdef.New(errdef.Invalid, "invalid filter 'all=%s'", value)
			}
			all = all || b
			continue
		}
		filters = append(filters, f)
	}
	keep, err := kept(filters, func(v volume.Volume) map[string]string { return v.Labels }, nil)
	if err != nil {
		return err
	}
	what := "anonymous local volumes not used by at least one container"
	if all {
		what = "all local volumes not used by at least one container"
	}
	if yes, err := c.confirm(what); err != nil || !yes {
		return err
	}
	e, err := c.engine()
	if err != nil {
		return err
	}
	removed, bytes, err := e.PruneVolumes(c.pruning(), all, keep)
	c.printDeleted("Volumes", removed)
	c.reclaimed(bytes)
	return err
}

// printDeleted prints what a prune command has deleted, as docker does.
func (c *call) printDeleted(kind string, names []string) {
	if len(names) == 0 {
		return
	}
	verb := "Deleted"
	if c.options.dry {
		verb = "Would delete"
	}
	fmt.Fprintf(c.out, "%s %s:\n", verb, kind)
	for _, name := range names {
		fmt.Fprintln(c.out, visible(name))
	}
	fmt.Fprintln(c.out)
}

func (c *call) cmdVolumeUpdate() error {
	if a := c.options.availability; !slices.Contains([]string{"", "active", "pause", "drain"}, a) {
		return errdef.New(errdef.Invalid, "invalid availability %q: it is active, pause or drain", a)
	}
	return errdef.New(errdef.Unsupported, "cannot update volume %s: only cluster volumes can be updated, and this is no node of a swarm", c.args[0])
}

func (c *call) cmdVolumeRename() error {
	e, err := c.engine()
	if err != nil {
		return err
	}
	return e.RenameVolume(c.args[0], c.args[1])
}

func (c *call) cmdVolumeClone() error {
	e, err := c.engine()
	if err != nil {
		return err
	}
	if err := e.CloneVolume(c.context(), c.args[0], c.args[1]); err != nil {
		return err
	}
	_, err = fmt.Fprintln(c.out, c.args[1])
	return err
}
