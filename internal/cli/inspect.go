package cli

import (
	"fmt"
	"time"

	"berth/internal/engine"
	"berth/internal/errdef"
	"berth/internal/ident"
	"berth/internal/image"
	"berth/internal/volume"
)

// inspect prints what find finds for every argument, as JSON; what it does not find is an error at the end.
func (c *call) inspect(find func(e *engine.Engine, ref string) (any, error)) error {
	e, err := c.engine()
	if err != nil {
		return err
	}
	rows := []any{}
	var failed error
	for _, ref := range c.args {
		row, err := find(e, ref)
		if err != nil {
			if failed != nil {
				c.report(failed)
			}
			failed = err
			continue
		}
		rows = append(rows, row)
	}
	if done, err := c.format(rows); done {
		if err != nil {
			return err
		}
		return failed
	}
	if err := printJSON(c.out, rows, "    "); err != nil {
		return err
	}
	return failed
}

func inspectContainer(e *engine.Engine, ref string) (any, error) {
	of, err := e.Containers.Resolve(ref)
	if err != nil {
		return nil, err
	}
	return e.Inspect(of)
}

func (c *call) cmdInspectContainer() error { return c.inspect(inspectContainer) }

func (c *call) cmdInspectImage() error { return c.inspect(inspectImage) }

func (c *call) cmdVolumeInspect() error { return c.inspect(inspectVolume) }

func (c *call) cmdInspect() error {
	return c.inspect(func(e *engine.Engine, ref string) (any, error) {
		for _, k := range []struct {
			name string
			find func(*engine.Engine, string) (any, error)
		}{{"container", inspectContainer}, {"image", inspectImage}, {"network", inspectNetwork}, {"volume", inspectVolume}} {
			if c.options.kind != "" && c.options.kind != k.name {
				continue
			}
			row, err := k.find(e, ref)
			if c.options.kind != "" || !errdef.Is(err, errdef.NotFound) && !errdef.Is(err, errdef.Invalid) {
				return row, err
			}
		}
		return nil, errdef.New(errdef.NotFound, "No such object: %s", ref)
	})
}

// imageView is an image as docker's inspect shows it.
type imageView struct {
	ID           string `json:"Id"`
	RepoTags     []string
	RepoDigests  []string
	Comment      string
	Created      *time.Time
	Author       string
	Config       image.Config
	Architecture string
	Variant      string `json:",omitempty"`
	Os           string
	Size         int64
	RootFS       struct {
		Type   string
		Layers []image.Digest
	}
	Metadata   struct{ LastTagTime time.Time }
	Descriptor image.Descriptor
}

func inspectImage(e *engine.Engine, ref string) (any, error) {
	im, err := e.Images.Resolve(ref)
	if err != nil {
		return nil, err
	}
	v := imageView{
		ID: string(im.ID), RepoTags: []string{}, RepoDigests: []string{}, Created: im.Config.Created, Author: im.Config.Author,
		Config: im.Config.Config, Architecture: im.Config.Architecture, Variant: im.Config.Variant, Os: im.Config.OS,
		Size: imageSize(e.Images, im), Descriptor: im.Target,
	}
	v.RootFS.Type, v.RootFS.Layers = "layers", im.Config.RootFS.DiffIDs
	v.Metadata.LastTagTime = im.Updated
	records, err := e.Images.List()
	if err != nil {
		return nil, err
	}
	for _, r := range records {
		name, ok := r.Reference()
		if !ok || r.ID != im.ID {
			continue
		}
		if name.Tag != "" {
			v.RepoTags = append(v.RepoTags, name.Familiar())
		}
		v.RepoDigests = append(v.RepoDigests, name.FamiliarName()+"@"+string(r.Target.Digest))
	}
	return v, nil
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
	return volumeView{v.CreatedAt, "local", v.Labels, e.Volumes.Path(name), name, nil, "local"}, nil
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
	var cells [][]string
	for _, v := range all {
		if c.options.quiet {
			fmt.Fprintln(c.out, v.Name)
			continue
		}
		cells = append(cells, []string{"local", v.Name})
	}
	if c.options.quiet {
		return nil
	}
	return table(c.out, []string{"DRIVER", "VOLUME NAME"}, cells)
}

func (c *call) cmdVolumeCreate() error {
	e, err := c.engine()
	if err != nil {
		return err
	}
	v := volume.Volume{}
	if len(c.args) == 1 {
		v.Name = c.args[0]
	} else {
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
			if errdef.Is(err, errdef.NotFound) && c.options.force {
				return nil
			}
			return err
		}
		_, err := fmt.Fprintln(c.out, name)
		return err
	})
}
