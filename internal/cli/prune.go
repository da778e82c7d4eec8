package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/docker/go-units"

	"berth/internal/engine"
	"berth/internal/errdef"
	"berth/internal/image/store"
	"berth/internal/network"
	"berth/internal/state"
	"berth/internal/volume"
)

func keptContainers(filters []string) (func(*state.Container) bool, error) {
	return kept(filters, func(of *state.Container) map[string]string { return of.Config.Labels }, func(of *state.Container) time.Time { return of.Created })
}

func keptImages(filters []string) (func(store.Image) bool, error) {
	return kept(filters, func(im store.Image) map[string]string { return im.Config.Config.Labels }, func(im store.Image) time.Time {
		if im.Config.Created == nil {
			return time.Time{}
		}
		return *im.Config.Created
	})
}

func (c *call) reclaimed(bytes int64) {
	what := "Total reclaimed space"
	if c.options.dry {
		what = "Total space that would be reclaimed"
	}
	fmt.Fprintf(c.out, "%s: %s\n", what, units.HumanSize(float64(bytes)))
}

// pruning is how a prune command removes.
func (c *call) pruning() *engine.Pruning { return &engine.Pruning{Dry: c.options.dry} }

func (c *call) cmdPrune() error {
	keep, err := keptContainers(c.options.filters)
	if err != nil {
		return err
	}
	if yes, err := c.confirm("all stopped containers"); err != nil || !yes {
		return err
	}
	e, err := c.engine()
	if err != nil {
		return err
	}
	removed, bytes, err := e.Prune(c.context(), c.pruning(), keep)
	c.printDeleted("Containers", removed)
	c.reclaimed(bytes)
	return err
}

func imagesToPrune(all bool) string {
	if all {
		return "all images without at least one container associated to them"
	}
	return "all dangling images"
}

func (c *call) cmdImagePrune() error {
	all := c.options.all
	var filters []string
	for _, f := range c.options.filters {
		switch f {
		case "dangling=true", "dangling=1":
		case "dangling=false", "dangling=0":
			all = true
		default:
			filters = append(filters, f)
		}
	}
	keep, err := keptImages(filters)
	if err != nil {
		return err
	}
	if c.options.dry {
		return c.wouldPrune(all, keep)
	}
	if yes, err := c.confirm(imagesToPrune(all)); err != nil || !yes {
		return err
	}
	e, err := c.engine()
	if err != nil {
		return err
	}
	p, err := e.PruneImages(c.context(), c.pruning(), all, keep)
	c.printImages(p)
	c.reclaimed(p.Bytes)
	return err
}

// wouldPrune says what would go, and why the rest would not.
func (c *call) wouldPrune(all bool, keep func(store.Image) bool) error {
	e, err := c.engine()
	if err != nil {
		return err
	}
	fates, err := e.ImageFates(c.context(), c.pruning(), all, keep)
	if err != nil {
		return err
	}
	if err := c.printFates(fates, true); err != nil {
		return err
	}
	var bytes int64
	for _, f := range fates {
		if f.Kind != "image" && !f.Kept { // an image is its layers and blobs
			bytes += f.Bytes
		}
	}
	fmt.Fprintln(c.out)
	c.reclaimed(bytes)
	return nil
}

func (c *call) printImages(p engine.PrunedImages) {
	var lines []string
	for _, name := range p.Untagged {
		lines = append(lines, "untagged: "+name)
	}
	for _, d := range p.Deleted {
		lines = append(lines, "deleted: "+string(d))
	}
	c.printDeleted("Images", lines)
}

func (c *call) cmdSystemPrune() error {
	o := &c.options
	if o.volumes && slices.ContainsFunc(o.filters, func(f string) bool { return strings.HasPrefix(f, "until=") }) {
		return errdef.New(errdef.Invalid, `The "until" filter is not supported with "--volumes"`)
	}
	containers, err1 := keptContainers(o.filters)
	networks, err2 := keptNetworks(o.filters)
	images, err3 := keptImages(o.filters)
	volumes, err4 := kept(o.filters, func(v volume.Volume) map[string]string { return v.Labels }, func(v volume.Volume) time.Time { return v.CreatedAt })
	for _, err := range []error{err1, err2, err3, err4} {
		if err != nil {
			return err
		}
	}
	what := []string{"all stopped containers", "all networks not used by at least one container"}
	if o.volumes {
		what = append(what, "all anonymous volumes not used by at least one container")
	}
	what = append(what, imagesToPrune(o.all))
	if len(o.filters) == 0 {
		what = append(what, map[bool]string{true: "all build cache", false: "unused build cache"}[o.all])
	}
	warning := "WARNING! This will remove:\n  - " + strings.Join(what, "\n  - ") + "\n"
	if len(o.filters) > 0 {
		warning += "\n  Items to be pruned will be filtered with:\n  - " + strings.Join(o.filters, "\n  - ") + "\n"
	}
	if yes, err := c.confirmed(visibleLines(warning)); err != nil || !yes {
		return err
	}
	e, err := c.engine()
	if err != nil {
		return err
	}
	p := c.pruning()
	removed, bytes, err := e.Prune(c.context(), p, containers)
	c.printDeleted("Containers", removed)
	gone, e2 := e.PruneNetworks(p, func(n network.Network) bool { return networks(n) })
	c.printDeleted("Networks", gone)
	err = errors.Join(err, e2)
	if o.volumes {
		names, size, e := e.PruneVolumes(p, false, volumes)
		c.printDeleted("Volumes", names)
		bytes, err = bytes+size, errors.Join(err, e)
	}
	unused, e3 := e.PruneImages(c.context(), p, o.all, images)
	c.printImages(unused)
	err, bytes = errors.Join(err, e3), bytes+unused.Bytes
	if len(o.filters) == 0 { // a label is on none of it
		entries, freed, e := e.PruneBuildCache(c.context(), engine.CachePrune{All: o.all, Dry: o.dry})
		c.printCache(entries)
		err, bytes = errors.Join(err, e), bytes+freed
	}
	c.reclaimed(bytes)
	return err
}

// visibleLines is visible for a text of several lines.
func visibleLines(s string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		lines[i] = visible(l)
	}
	return strings.Join(lines, "\n")
}
