package cli

import (
	"fmt"
	"strings"
	"time"

	"berth/internal/errdef"
	"berth/internal/image"
	"berth/internal/image/store"
)

// historyRow is a step in an image's making; the names of its fields are docker's.
type historyRow struct {
	Comment      string
	CreatedAt    string
	CreatedBy    string
	CreatedSince string
	ID           string
	Size         string
}

// createdByWidth is how much of a command docker shows.
const createdByWidth = 45

// variant is the image that a name means, for the platform that --platform asks for.
func (c *call) variant(s *store.Store, nameOrID string) (store.Image, error) {
	r, err := s.Find(nameOrID)
	if err != nil {
		return store.Image{}, err
	}
	if len(c.options.platforms) > 0 {
		if len(c.options.platforms) > 1 {
			return store.Image{}, errdef.New(errdef.Invalid, "an image is shown for one platform only")
		}
		want, err := image.ParsePlatform(c.options.platforms[0])
		if err != nil {
			return store.Image{}, err
		}
		if r.Manifest, err = s.For(r, want); err != nil {
			return store.Image{}, err
		}
	}
	return s.Load(r)
}

// step is an entry of an image's history and the bytes of its layer.
type step struct {
	image.History
	bytes int64
}

// steps are those of an image, the last first. Layers that its history does not tell of come last of all.
func steps(im store.Image, size func(image.Digest) int64) []step {
	var all []step
	layer := 0
	for _, h := range im.Config.History {
		s := step{History: h}
		if !h.EmptyLayer && layer < len(im.Chain) {
			s.bytes = size(im.Chain[layer])
			layer++
		}
		all = append(all, s)
	}
	for ; layer < len(im.Chain); layer++ {
		all = append(all, step{image.History{Created: im.Config.Created}, size(im.Chain[layer])})
	}
	for i, j := 0, len(all)-1; i < j; i, j = i+1, j-1 {
		all[i], all[j] = all[j], all[i]
	}
	return all
}

func (c *call) cmdHistory() error {
	e, err := c.engine()
	if err != nil {
		return err
	}
	im, err := c.variant(e.Images, c.args[0])
	if err != nil {
		return err
	}
	all := steps(im, func(chain image.Digest) int64 {
		info, err := e.Images.Layers.Info(chain)
		if err != nil {
			return 0 // not unpacked, of another platform
		}
		return info.Size
	})
	var rows []any
	var cells [][]string
	for i, s := range all {
		row := c.historyRow(s)
		if row.ID = "<missing>"; i == 0 {
			if row.ID = im.ID.Short(); c.options.noTrunc {
				row.ID = string(im.ID)
			}
		}
		if c.options.quiet {
			fmt.Fprintln(c.out, row.ID)
			continue
		}
		created := row.CreatedSince
		if c.options.plain {
			created = row.CreatedAt
		}
		rows = append(rows, row)
		cells = append(cells, []string{row.ID, created, row.CreatedBy, row.Size, row.Comment})
	}
	if c.options.quiet {
		return nil
	}
	if done, err := c.format(rows); done {
		return err
	}
	return table(c.out, []string{"IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"}, cells)
}

func (c *call) historyRow(s step) historyRow {
	row := historyRow{Comment: s.Comment, CreatedBy: strings.ReplaceAll(s.CreatedBy, "\t", " "), Size: humanSize(s.bytes)}
	if c.options.plain {
		row.Size = fmt.Sprint(s.bytes)
	}
	if at := s.Created; at != nil && !at.Before(time.Unix(0, 0)) {
		row.CreatedAt, row.CreatedSince = at.Format(time.RFC3339), ago(*at)
	} else {
		row.CreatedSince = "N/A"
	}
	if text := []rune(row.CreatedBy); !c.options.noTrunc && len(text) > createdByWidth {
		row.CreatedBy = string(text[:createdByWidth-1]) + "…"
	}
	return row
}
