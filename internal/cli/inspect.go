package cli

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"berth/internal/engine"
	"berth/internal/errdef"
	"berth/internal/image"
)

// inspect prints what find finds for every argument, as JSON; what it does not find is an error at the end.
func (c *call) inspect(find func(e *engine.Engine, ref string) (any, error)) error {
	e, err := c.engine()
	if err != nil {
		return err
	}
	return c.inspectEach(c.args, func(ref string) (any, error) { return find(e, ref) })
}

func (c *call) inspectEach(refs []string, find func(ref string) (any, error)) error {
	rows := []any{}
	var failed error
	for _, ref := range refs {
		row, err := find(ref)
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
		if err != nil || len(rows) == 0 {
			if _, isStatus := err.(exitError); !isStatus && c.options.format != "json" {
				fmt.Fprintln(c.out) // docker's, when a template has printed nothing
			}
		}
		return cmp.Or(err, failed)
	}
	if err := printJSON(c.out, rows, "    "); err != nil {
		return err
	}
	return failed
}

func (c *call) inspectContainer(e *engine.Engine, ref string) (any, error) {
	of, err := e.Containers.Resolve(ref)
	if err != nil {
		return nil, err
	}
	v, err := e.Inspect(of)
	if err == nil && c.options.size {
		var written, all int64
		written, all, err = e.Sizes(of)
		v.SizeRw, v.SizeRootFs = &written, &all
	}
	return v, err
}

func (c *call) cmdInspectContainer() error { return c.inspect(c.inspectContainer) }

func (c *call) cmdInspectImage() error { return c.inspect(c.inspectImage) }

func (c *call) cmdVolumeInspect() error { return c.inspect(inspectVolume) }

// cmdInspect looks among all kinds of things, in docker's order. A kind that there is not has status 1, not that of a bad flag: docker reads it
// after its flags.
func (c *call) cmdInspect() error {
	kinds := []struct {
		name string
		find func(*engine.Engine, string) (any, error)
	}{{"container", c.inspectContainer}, {"image", c.inspectImage}, {"network", inspectNetwork}, {"volume", inspectVolume}}
	names := make([]string, len(kinds))
	for i, k := range kinds {
		names[i] = k.name
	}
	if k := c.options.kind; k != "" && !slices.Contains(names, k) {
		return errdef.New(errdef.Invalid, "unknown type: %q: it is %s", k, strings.Join(names, " or "))
	}
	return c.inspect(func(e *engine.Engine, ref string) (any, error) {
		for _, k := range kinds {
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

func (c *call) inspectImage(e *engine.Engine, ref string) (any, error) {
	im, err := c.variant(e.Images, ref)
	if err != nil {
		return nil, err
	}
	v := imageView{
		ID: string(im.ID), RepoTags: []string{}, RepoDigests: []string{}, Created: im.Config.Created, Author: im.Config.Author,
		Config: im.Config.Config, Architecture: im.Config.Architecture, Variant: im.Config.Variant, Os: im.Config.OS,
		Size: engine.ImageSize(e.Images, im.Chain), Descriptor: im.Target,
	}
	if len(im.Config.History) > 0 {
		v.Comment = im.Config.History[len(im.Config.History)-1].Comment
	}
	v.RootFS.Type, v.RootFS.Layers = "layers", im.Config.RootFS.DiffIDs
	v.Metadata.LastTagTime = im.Updated
	records, err := e.Images.List()
	if err != nil {
		return nil, err
	}
	for _, r := range records {
		name, ok := r.Reference()
		if !ok || r.ID != im.Record.ID && r.Target.Digest != im.Target.Digest {
			continue
		}
		if name.Tag != "" {
			v.RepoTags = append(v.RepoTags, name.Familiar())
		}
		v.RepoDigests = append(v.RepoDigests, name.FamiliarName()+"@"+string(r.Target.Digest))
	}
	return v, nil
}
