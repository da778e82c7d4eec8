package cli

import (
	"bufio"
	"fmt"
	"strconv"
	"strings"

	"berth/internal/engine"
	"berth/internal/errdef"
	"berth/internal/image/merged"
	"berth/internal/image/store"
)

// layerRow is a layer as image tree shows it.
type layerRow struct {
	Layer, Size, Compressed, Added, Changed, Removed, Wasted, CreatedBy string
	Changes                                                             []string `json:",omitempty"`
}

// cmdImageTree shows what each layer of an image has added, changed and removed, and what that wastes.
func (c *call) cmdImageTree() error {
	e, err := c.engine()
	if err != nil {
		return err
	}
	im, err := c.variant(e.Images, c.args[0])
	if err != nil {
		return err
	}
	layers, err := e.LayersOf(im)
	if err != nil {
		return err
	}
	var rows []any
	var cells [][]string
	var bytes, wasted int64
	for _, l := range layers {
		row := layerRow{
			Layer: l.Digest.Short(), Size: humanSize(l.Bytes), Compressed: humanSize(l.Blob), Added: strconv.Itoa(l.Added), Changed: strconv.Itoa(l.Changed),
			Removed: strconv.Itoa(l.Removed), Wasted: humanSize(l.Wasted), CreatedBy: strings.Join(strings.Fields(l.CreatedBy), " "),
		}
		if c.options.noTrunc {
			row.Layer = string(l.Digest)
		} else if text := []rune(row.CreatedBy); len(text) > createdByWidth {
			row.CreatedBy = string(text[:createdByWidth-1]) + "…"
		}
		if c.options.verbose {
			for _, change := range l.Changes {
				row.Changes = append(row.Changes, string(change.Kind)+" "+change.Path)
			}
		}
		bytes, wasted = bytes+l.Bytes, wasted+l.Wasted
		rows = append(rows, row)
		cells = append(cells, []string{row.Layer, row.Size, row.Compressed, row.Added, row.Changed, row.Removed, row.Wasted, row.CreatedBy})
	}
	if done, err := c.format(rows); done {
		return err
	}
	head := []string{"LAYER", "SIZE", "COMPRESSED", "ADDED", "CHANGED", "REMOVED", "WASTED", "CREATED BY"}
	if c.options.verbose {
		if err := c.printChanges(layers, head, cells); err != nil {
			return err
		}
	} else if err := table(c.out, head, cells); err != nil {
		return err
	}
	percent := int64(0)
	if bytes > 0 {
		percent = wasted * 100 / bytes
	}
	_, err = fmt.Fprintf(c.out, "\n%s in %d layers, %s of it wasted (%d%%)\n", humanSize(bytes), len(layers), humanSize(wasted), percent)
	return err
}

// printChanges prints each layer with its paths.
func (c *call) printChanges(layers []engine.LayerChanges, head []string, cells [][]string) error {
	out := bufio.NewWriter(c.out)
	for i, l := range layers {
		if err := table(out, head, cells[i:i+1]); err != nil {
			return err
		}
		for _, change := range l.Changes {
			line := string(change.Kind) + " " + visible(change.Path)
			if change.Kind != merged.Deleted && change.Size > 0 {
				line += " " + humanSize(change.Size)
			}
			if change.Was > 0 {
				line += " (" + humanSize(change.Was) + " below)"
			}
			fmt.Fprintln(out, "  "+line)
		}
	}
	return out.Flush()
}

// cmdImageDiff shows how an image differs from another, or from its own without its last layer.
func (c *call) cmdImageDiff() error {
	e, err := c.engine()
	if err != nil {
		return err
	}
	stack := func(im store.Image, n int) ([]string, error) { return e.Images.Layers.Stack(im.Chain[:n]) }
	second, err := c.variant(e.Images, c.args[0])
	if err != nil {
		return err
	}
	var before []string
	if len(c.args) > 1 {
		first, err := c.variant(e.Images, c.args[1])
		if err != nil {
			return err
		}
		before, err = stack(first, len(first.Chain))
		if err != nil {
			return err
		}
	} else if before, err = stack(second, max(len(second.Chain)-1, 0)); err != nil {
		return err
	}
	after, err := stack(second, len(second.Chain))
	if err != nil {
		return err
	}
	changes, err := merged.Compare(before, after)
	if err != nil {
		return fmt.Errorf("cannot compare the images: %w", err)
	}
	if c.options.format != "" && c.options.format != "json" {
		return errdef.New(errdef.Invalid, "--format %q is not json", c.options.format)
	}
	if c.options.format == "json" {
		lists := map[string][]string{}
		for _, change := range changes {
			kind := map[merged.Kind]string{merged.Added: "added", merged.Changed: "changed", merged.Deleted: "deleted"}[change.Kind]
			lists[kind] = append(lists[kind], change.Path)
		}
		return printJSON(c.out, lists, "    ")
	}
	out := bufio.NewWriter(c.out)
	for _, change := range changes {
		if _, err := fmt.Fprintf(out, "%s %s\n", change.Kind, visible(change.Path)); err != nil {
			return err
		}
	}
	return out.Flush()
}

// printFates prints what a prune would do, and why; keptToo with what it would keep.
func (c *call) printFates(fates []engine.Fate, keptToo bool) error {
	var cells [][]string
	for _, f := range fates {
		action := "remove"
		if f.Kept {
			if action = "keep"; !keptToo {
				continue
			}
		}
		cells = append(cells, []string{action, f.Kind, f.Name, humanSize(f.Bytes), f.Reason})
	}
	return table(c.out, []string{"PRUNE", "KIND", "NAME", "SIZE", "REASON"}, cells)
}
