package cli

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"berth/internal/engine"
	"berth/internal/errdef"
	"berth/internal/image"
	"berth/internal/image/reference"
	"berth/internal/image/store"

	"github.com/docker/go-units"
)

// imageRow is an image as images shows it; the names of its fields are docker's.
type imageRow struct {
	Containers   string
	CreatedAt    string
	CreatedSince string
	Digest       string
	ID           string
	Repository   string
	SharedSize   string
	Size         string
	Tag          string
	UniqueSize   string
	VirtualSize  string
}

func (c *call) cmdImages() error {
	e, err := c.engine()
	if err != nil {
		return err
	}
	records, err := e.Images.List()
	if err != nil {
		return err
	}
	var only *reference.Reference
	anyTag := false
	if len(c.args) == 1 {
		ref, err := reference.Parse(c.args[0])
		if err != nil {
			return err
		}
		only, anyTag = &ref, !strings.Contains(c.args[0][strings.LastIndexByte(c.args[0], '/')+1:], ":")
	}
	keep, err := imageFilters(c.options.filters, func(name string) (listedImage, error) {
		im, err := e.Images.Resolve(name)
		return listedImage{Record: im.Record, image: im}, err
	})
	if err != nil {
		return err
	}
	var listed []listedImage
	for _, r := range records {
		ref, named := r.Reference()
		if only != nil && (!named || ref.Repository() != only.Repository() || !anyTag && ref.Tag != only.Tag) {
			continue
		}
		l := loadImage(e.Images, r)
		if keep(l) {
			listed = append(listed, l)
		}
	}
	// The newest first, as docker has it; those of one time by their names.
	slices.SortStableFunc(listed, func(a, b listedImage) int { return b.created().Compare(a.created()) })
	if c.options.tree {
		return c.imageTree(e, listed)
	}
	var rows []any
	var cells [][]string
	sizes := engine.ImageSizes(e.Images)
	for _, l := range listed {
		row := c.imageRow(l, sizes)
		rows = append(rows, row)
		line := []string{row.Repository, row.Tag, row.ID, row.CreatedSince, row.Size}
		if c.options.size { // --digests
			line = []string{row.Repository, row.Tag, row.Digest, row.ID, row.CreatedSince, row.Size}
		}
		if c.options.quiet {
			line = []string{row.ID}
		}
		cells = append(cells, line)
	}
	if c.options.quiet {
		seen := map[string]bool{}
		for _, l := range cells {
			if !seen[l[0]] {
				fmt.Fprintln(c.out, l[0])
			}
			seen[l[0]] = true
		}
		return nil
	}
	if done, err := c.format(rows); done {
		return err
	}
	head := []string{"REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"}
	if c.options.size {
		head = []string{"REPOSITORY", "TAG", "DIGEST", "IMAGE ID", "CREATED", "SIZE"}
	}
	return table(c.out, head, cells)
}

// imageTree prints images with what they have for each platform, as docker's --tree does.
func (c *call) imageTree(e *engine.Engine, listed []listedImage) error {
	if c.options.quiet || c.options.format != "" || c.options.size {
		return errdef.New(errdef.Invalid, "--tree cannot be used with --quiet, --format or --digests")
	}
	uses, err := e.Uses()
	if err != nil {
		return err
	}
	used := map[image.Digest]bool{}
	for _, u := range uses {
		used[u.Image] = true
	}
	short := func(d image.Digest) string {
		if c.options.noTrunc {
			return string(d)
		}
		return d.Short()
	}
	extra := func(id image.Digest) string {
		if used[id] {
			return "U"
		}
		return ""
	}
	var cells [][]string
	for _, l := range listed {
		name := "<untagged>"
		if ref, ok := l.Reference(); ok {
			name = ref.Familiar()
		}
		variants, err := e.Images.Variants(l.Record)
		if err != nil {
			return err
		}
		var lines [][]string
		var disk, content int64
		for _, v := range variants {
			if v.Attestation {
				continue
			}
			unpacked := engine.ImageSize(e.Images, v.Chain)
			disk, content = disk+unpacked+v.Bytes, content+v.Bytes
			lines = append(lines, []string{v.Platform().String(), short(v.Descriptor.Digest), humanSize(unpacked + v.Bytes), humanSize(v.Bytes), extra(v.ID)})
		}
		cells = append(cells, []string{name, short(l.Target.Digest), humanSize(disk), humanSize(content), extra(l.ID)})
		for i, line := range lines {
			branch := "├─ "
			if i == len(lines)-1 {
				branch = "└─ "
			}
			line[0] = branch + line[0]
			cells = append(cells, line)
		}
	}
	return table(c.out, []string{"IMAGE", "ID", "DISK USAGE", "CONTENT SIZE", "EXTRA"}, cells)
}

// loadImage reads what a list says of an image, also of one that is damaged.
func loadImage(s *store.Store, r store.Record) listedImage {
	im, err := s.Load(r)
	return listedImage{r, im, err != nil}
}

func (c *call) imageRow(l listedImage, sizes func([]image.Digest) int64) imageRow {
	r := l.Record
	row := imageRow{
		Repository: "<none>", Tag: "<none>", Digest: string(r.Target.Digest), ID: string(r.ID),
		Containers: "N/A", SharedSize: "N/A", UniqueSize: "N/A",
	}
	if !c.options.noTrunc {
		row.ID = r.ID.Short()
	}
	if ref, ok := r.Reference(); ok {
		row.Repository = ref.FamiliarName()
		if ref.Tag != "" {
			row.Tag = ref.Tag
		}
	}
	if !l.broken {
		if at := l.image.Config.Created; at != nil {
			row.CreatedAt, row.CreatedSince = at.Format("2006-01-02 15:04:05 -0700 MST"), ago(*at)
			if at.Before(time.Unix(1, 0)) {
				row.CreatedSince = "N/A"
			}
		}
		row.Size = units.HumanSizeWithPrecision(float64(sizes(l.image.Chain)), 3)
		row.VirtualSize = row.Size
	}
	return row
}

func (c *call) cmdRmi() error {
	e, err := c.engine()
	if err != nil {
		return err
	}
	var platforms []image.Platform
	for _, text := range c.options.platforms {
		p, err := image.ParsePlatform(text)
		if err != nil {
			return err
		}
		platforms = append(platforms, p)
	}
	return e.RemoveImages(c.context(), func() error { return c.each(func(ref string) error { return c.removeImage(e, ref, platforms) }) })
}

func (c *call) removeImage(e *engine.Engine, ref string, platforms []image.Platform) error {
	removed, err := e.RemoveImage(c.context(), ref, platforms, c.options.force)
	if err != nil {
		if errdef.Is(err, errdef.NotFound) && c.options.force {
			c.report(err)
			return nil
		}
		return err
	}
	for _, name := range removed.Untagged {
		fmt.Fprintf(c.out, "Untagged: %s\n", name)
	}
	for _, id := range removed.Deleted {
		fmt.Fprintf(c.out, "Deleted: %s\n", id)
	}
	return nil
}

func (c *call) cmdTag() error {
	e, err := c.engine()
	if err != nil {
		return err
	}
	return e.TagImage(c.args[0], c.args[1])
}
