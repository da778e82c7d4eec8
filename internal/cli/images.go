package cli

import (
	"fmt"
	"strings"
	"time"

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
	dangling := ""
	for _, f := range c.options.filters {
		key, value, _ := strings.Cut(f, "=")
		if key != "dangling" || value != "true" && value != "false" {
			return errdef.New(errdef.Invalid, "invalid filter '%s'", f)
		}
		dangling = value
	}
	var rows []any
	var cells [][]string
	for _, r := range records {
		ref, named := r.Reference()
		if only != nil && (!named || ref.Repository() != only.Repository() || !anyTag && ref.Tag != only.Tag) {
			continue
		}
		if dangling != "" && named == (dangling == "true") {
			continue
		}
		row := c.imageRow(e.Images, r)
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

func (c *call) imageRow(s *store.Store, r store.Record) imageRow {
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
	if im, err := s.Load(r); err == nil {
		if at := im.Config.Created; at != nil {
			row.CreatedAt, row.CreatedSince = at.Format("2006-01-02 15:04:05 -0700 MST"), ago(*at)
			if at.Before(time.Unix(1, 0)) {
				row.CreatedSince = "N/A"
			}
		}
		row.Size = units.HumanSizeWithPrecision(float64(imageSize(s, im)), 3)
		row.VirtualSize = row.Size
	}
	return row
}

// imageSize is docker's: the bytes of all files of all layers.
func imageSize(s *store.Store, im store.Image) int64 {
	var n int64
	for _, chain := range im.Chain {
		if info, err := s.Layers.Info(chain); err == nil {
			n += info.Size
		}
	}
	return n
}

func (c *call) cmdRmi() error {
	e, err := c.engine()
	if err != nil {
		return err
	}
	return c.each(func(ref string) error {
		removed, err := e.RemoveImage(c.context(), ref, c.options.force)
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
	})
}

func (c *call) cmdTag() error {
	e, err := c.engine()
	if err != nil {
		return err
	}
	_, err = e.Images.Tag(c.args[0], c.args[1])
	return err
}

func (c *call) cmdImagePrune() error {
	if yes, err := c.confirm("everything of images that no name and no container needs"); err != nil || !yes {
		return err
	}
	e, err := c.engine()
	if err != nil {
		return err
	}
	swept, err := e.SweepImages(c.context(), 24*time.Hour)
	if err != nil {
		return err
	}
	for _, d := range append(append([]image.Digest{}, swept.Blobs...), swept.Layers...) {
		fmt.Fprintf(c.out, "deleted: %s\n", d)
	}
	_, err = fmt.Fprintf(c.out, "Total reclaimed space: %s\n", units.HumanSize(float64(swept.Bytes)))
	return err
}
