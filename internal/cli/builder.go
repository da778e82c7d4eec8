package cli

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"berth/internal/engine"
	"berth/internal/errdef"

	"github.com/docker/go-units"
)

func (c *call) cmdBuilderPrune() error {
	o := &c.options
	p := engine.CachePrune{All: o.all, KeepBytes: o.keepBytes, Dry: o.dry}
	for _, f := range o.filters {
		key, value, _ := strings.Cut(f, "=")
		if key != "until" && key != "unused-for" {
			return errdef.New(errdef.Invalid, "invalid filter '%s'", key)
		}
		d, err := time.ParseDuration(value)
		if err != nil {
			return errdef.New(errdef.Invalid, "invalid filter '%s': %q is not a duration", key, value)
		}
		p.Before = time.Now().Add(-d)
	}
	what := "all dangling build cache"
	if p.All {
		what = "all build cache"
	}
	if yes, err := c.confirm(what); err != nil || !yes {
		return err
	}
	e, err := c.engine()
	if err != nil {
		return err
	}
	removed, freed, err := e.PruneBuildCache(c.context(), p)
	if err != nil {
		return err
	}
	c.printCache(removed)
	c.reclaimed(freed)
	return nil
}

// printCache prints which entries of the build cache are gone.
func (c *call) printCache(removed []engine.CacheEntry) {
	var ids []string
	for _, r := range removed {
		ids = append(ids, r.ID)
	}
	c.printDeleted("build cache objects", ids)
}

func (c *call) cmdBuilderDu() error {
	e, err := c.engine()
	if err != nil {
		return err
	}
	all, err := e.BuildCache()
	if err != nil {
		return err
	}
	head := []string{"ID", "RECLAIMABLE", "SIZE", "LAST ACCESSED"}
	if c.options.noTrunc {
		head = append(head, "DESCRIPTION")
	}
	var rows [][]string
	var total, reclaimable int64
	for _, entry := range all {
		total += entry.Bytes
		if !entry.Shared {
			reclaimable += entry.Bytes
		}
		row := []string{
			entry.ID[:min(25, len(entry.ID))], strconv.FormatBool(!entry.Shared), units.HumanSize(float64(entry.Bytes)),
			units.HumanDuration(time.Since(entry.Used)) + " ago",
		}
		if c.options.noTrunc {
			row = append(row, visible(entry.What))
		}
		rows = append(rows, row)
	}
	if err := table(c.out, head, rows); err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.out, "Reclaimable:\t%s\nTotal:\t\t%s\n", units.HumanSize(float64(reclaimable)), units.HumanSize(float64(total)))
	return err
}
