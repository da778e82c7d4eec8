package cli

import (
	"fmt"
	"strconv"
	"time"

	"berth/internal/engine"
	"berth/internal/image"
	"berth/internal/image/store"

	"github.com/docker/go-units"
)

// usageRow is a kind of things as system df shows it; the names of its fields are docker's.
type usageRow struct {
	Active      string
	Reclaimable string
	Size        string
	TotalCount  string
	Type        string
}

func (c *call) cmdDf() error {
	e, err := c.engine()
	if err != nil {
		return err
	}
	u, err := e.DiskUsage()
	if err != nil {
		return err
	}
	if c.options.verbose && (c.options.format == "" || c.options.format == "table") {
		return c.printUsage(e, u)
	}
	var rows []any
	var cells [][]string
	for _, r := range usageRows(u) {
		rows = append(rows, r)
		cells = append(cells, []string{r.Type, r.TotalCount, r.Active, r.Size, r.Reclaimable})
	}
	if c.options.verbose {
		rows = []any{verboseUsage(e, u, true)}
	}
	if done, err := c.format(rows); done {
		return err
	}
	return table(c.out, []string{"TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"}, cells)
}

// usageRows sums up what there is of each kind, what of it is in use, and what would be gained by removing the rest.
func usageRows(u engine.DiskUse) []usageRow {
	ids := map[image.Digest]bool{}
	active := 0
	for _, im := range u.Images {
		if !ids[im.ID] && im.Containers > 0 {
			active++
		}
		ids[im.ID] = true
	}
	rows := []usageRow{usageOf("Images", len(ids), active, u.LayerBytes, u.LayerBytes-u.UsedLayerBytes)}
	var size, free int64
	active = 0
	for _, of := range u.Containers {
		size += of.Bytes
		if of.Active {
			active++
		} else {
			free += of.Bytes
		}
	}
	rows = append(rows, usageOf("Containers", len(u.Containers), active, size, free))
	size, free, active = 0, 0, 0
	for _, v := range u.Volumes {
		size += v.Bytes
		if v.Links > 0 {
			active++
		} else {
			free += v.Bytes
		}
	}
	rows = append(rows, usageOf("Local Volumes", len(u.Volumes), active, size, free))
	size, free, active = 0, 0, 0
	for _, entry := range u.BuildCache {
		size += entry.Bytes
		if entry.Shared {
			active++
		} else {
			free += entry.Bytes
		}
	}
	return append(rows, usageOf("Build Cache", len(u.BuildCache), active, size, free))
}

func usageOf(kind string, total, active int, size, free int64) usageRow {
	r := usageRow{Type: kind, TotalCount: strconv.Itoa(total), Active: strconv.Itoa(active), Size: units.HumanSize(float64(size)), Reclaimable: units.HumanSize(float64(free))}
	if size > 0 {
		r.Reclaimable += fmt.Sprintf(" (%d%%)", free*100/size)
	}
	return r
}

// usageImage and usageDetails are what system df -v says, with docker's names of fields.
type (
	usageImage struct {
		imageRow
		SharedSize, UniqueSize, Containers string
	}
	usageCache struct {
		ID, CacheType, Description, Size, LastUsedSince, InUse, Shared string
	}
	usageDetails struct {
		Images     []usageImage
		Containers []psRow
		Volumes    []volumeRow
		BuildCache []usageCache
	}
)

func verboseUsage(e *engine.Engine, u engine.DiskUse, noTrunc bool) usageDetails {
	d := usageDetails{BuildCache: []usageCache{}}
	short, sizes := &call{options: options{noTrunc: noTrunc}}, engine.ImageSizes(e.Images)
	for _, im := range u.Images {
		d.Images = append(d.Images, usageImage{
			short.imageRow(loadImage(e.Images, im.Record), sizes), units.HumanSize(float64(im.SharedBytes)), units.HumanSize(float64(im.Bytes - im.SharedBytes)), strconv.Itoa(im.Containers),
		})
	}
	for _, of := range u.Containers {
		r, _ := psRowOf(e, of.Listed, noTrunc)
		r.Size = humanSize(of.Bytes)
		d.Containers = append(d.Containers, r)
	}
	for _, v := range u.Volumes {
		row := volumeRowOf(e, v.Volume)
		row.Links, row.Size = strconv.Itoa(v.Links), units.HumanSize(float64(v.Bytes))
		d.Volumes = append(d.Volumes, row)
	}
	for _, entry := range u.BuildCache {
		d.BuildCache = append(d.BuildCache, usageCacheOf(entry, noTrunc))
	}
	return d
}

// usageCacheOf is an entry of the build cache; its kind has buildkit's name. What an image has, too, is in use.
func usageCacheOf(entry engine.CacheEntry, noTrunc bool) usageCache {
	r := usageCache{
		ID: entry.ID, CacheType: "regular", Description: entry.What, Size: units.HumanSize(float64(entry.Bytes)),
		LastUsedSince: units.HumanDuration(time.Since(entry.Used)) + " ago", InUse: strconv.FormatBool(entry.Shared), Shared: strconv.FormatBool(entry.Shared),
	}
	if entry.Mount {
		r.CacheType = "exec.cachemount"
	}
	if !noTrunc {
		r.ID = r.ID[:min(12, len(r.ID))]
	}
	return r
}

// printUsage prints everything that takes room.
func (c *call) printUsage(e *engine.Engine, u engine.DiskUse) error {
	d := verboseUsage(e, u, false)
	var images, containers, volumes, caches [][]string
	for _, im := range d.Images {
		images = append(images, []string{im.Repository, im.Tag, im.ID, im.CreatedSince, im.Size, im.SharedSize, im.UniqueSize, im.Containers})
	}
	for _, of := range d.Containers {
		containers = append(containers, []string{of.ID, of.Image, of.Command, of.LocalVolumes, of.Size, of.RunningFor, of.Status, of.Names})
	}
	for _, v := range d.Volumes {
		volumes = append(volumes, []string{v.Name, v.Links, v.Size})
	}
	for _, entry := range d.BuildCache {
		caches = append(caches, []string{entry.ID, entry.CacheType, entry.Size, entry.LastUsedSince, entry.Shared})
	}
	rows := usageRows(u)
	for _, part := range []struct {
		title string
		head  []string
		rows  [][]string
	}{
		{"Images space usage:", []string{"REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE", "SHARED SIZE", "UNIQUE SIZE", "CONTAINERS"}, images},
		{"Containers space usage:", []string{"CONTAINER ID", "IMAGE", "COMMAND", "LOCAL VOLUMES", "SIZE", "CREATED", "STATUS", "NAMES"}, containers},
		{"Local Volumes space usage:", []string{"VOLUME NAME", "LINKS", "SIZE"}, volumes},
		{"Build cache usage: " + rows[len(rows)-1].Size, []string{"CACHE ID", "CACHE TYPE", "SIZE", "LAST USED", "SHARED"}, caches},
	} {
		fmt.Fprintf(c.out, "%s\n\n", part.title)
		if err := table(c.out, part.head, part.rows); err != nil {
			return err
		}
		fmt.Fprintln(c.out)
	}
	if _, err := fmt.Fprint(c.out, "What image prune --all would do:\n\n"); err != nil {
		return err
	}
	fates, err := e.ImageFates(c.context(), &engine.Pruning{}, true, func(store.Image) bool { return false })
	if err != nil {
		return err
	}
	return c.printFates(fates, true)
}
