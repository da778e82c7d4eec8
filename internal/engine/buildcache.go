package engine

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"berth/internal/build/cache"
	"berth/internal/event"
	"berth/internal/image"

	"golang.org/x/sys/unix"
)

// CacheEntry is something that builds keep.
type CacheEntry struct {
	ID     string
	Bytes  int64
	Used   time.Time
	Shared bool // its layer is one of an image, too: nothing is gained by its removal
	What   string
	Mount  bool // files of a cache mount
}

// CachePrune says what of the cache of builds goes. Shared entries only go with All.
type CachePrune struct {
	Dry       bool // say what would go, and remove nothing
	All       bool
	Before    time.Time // only what was last used before; zero is any time
	KeepBytes int64     // as much of the rest as that, the latest used first, stays
}

// BuildCache lists what builds keep, the latest used first.
func (e *Engine) BuildCache() ([]CacheEntry, error) {
	store := cache.Open(e.Settings.DataRoot)
	records, err := store.List()
	if err != nil {
		return nil, err
	}
	mounts, err := store.Mounts()
	if err != nil {
		return nil, err
	}
	inImages, err := e.layersOfImages()
	if err != nil {
		return nil, err
	}
	var all []CacheEntry
	for _, r := range records {
		all = append(all, CacheEntry{ID: r.Key, Bytes: r.Layer.Size, Used: r.Used, What: r.What, Shared: inImages[r.Chain()]})
	}
	for _, m := range mounts {
		all = append(all, CacheEntry{ID: m.ID, Bytes: m.Bytes, Used: m.Used, What: "a cache mount", Mount: true})
	}
	slices.SortFunc(all, func(a, b CacheEntry) int { return cmp.Or(b.Used.Compare(a.Used), cmp.Compare(a.ID, b.ID)) })
	return all, nil
}

// layersOfImages are the chain IDs of all layers of images.
func (e *Engine) layersOfImages() (map[image.Digest]bool, error) {
	records, err := e.Images.List()
	if err != nil {
		return nil, err
	}
	chains := map[image.Digest]bool{}
	for _, r := range records {
		im, err := e.Images.Load(r)
		if err != nil {
			continue // what cannot be read needs nothing
		}
		for _, c := range im.Chain {
			chains[c] = true
		}
	}
	return chains, nil
}

// PruneBuildCache removes entries of the cache, and what nothing else needs then.
func (e *Engine) PruneBuildCache(ctx context.Context, p CachePrune) (removed []CacheEntry, freed int64, err error) {
	all, err := e.BuildCache()
	if err != nil {
		return nil, 0, err
	}
	store := cache.Open(e.Settings.DataRoot)
	if p.Dry {
		for _, entry := range toPrune(all, p) {
			removed, freed = append(removed, entry), freed+entry.Bytes
		}
		return removed, freed, nil
	}
	for _, entry := range toPrune(all, p) {
		if entry.Mount {
			gone, err := store.RemoveMount(entry.ID, e.RemoveTree)
			if err != nil {
				return removed, freed, err
			}
			if !gone {
				continue // a step is using it
			}
			freed += entry.Bytes
		} else if err := store.Remove(entry.ID); err != nil {
			return removed, freed, err
		}
		removed = append(removed, entry)
	}
	swept, err := e.SweepImages(ctx, 24*time.Hour)
	e.NotePrune(event.Builder, freed+swept.Bytes)
	return removed, freed + swept.Bytes, err
}

// toPrune decides which entries go; all are given with the latest used first.
func toPrune(all []CacheEntry, p CachePrune) (gone []CacheEntry) {
	kept := int64(0)
	for _, entry := range all {
		if entry.Shared && !p.All || !p.Before.IsZero() && !entry.Used.Before(p.Before) {
			continue
		}
		if p.KeepBytes > 0 && kept+entry.Bytes <= p.KeepBytes {
			kept += entry.Bytes
			continue
		}
		gone = append(gone, entry)
	}
	return gone
}

// boundShare is how much of its file system the cache may fill: a tenth, as BuildKit has it.
const boundShare = 10

// countedFor is how long it is believed how much the cache has, with what builds have said to have added: cache mounts grow without a word.
const countedFor = time.Hour

// BoundBuildCache is for a build that has added layers of so many bytes. It removes what has not been used for longest, if the cache has become
// too large.
func (e *Engine) BoundBuildCache(ctx context.Context, added int64) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(e.Settings.DataRoot, &fs); err != nil {
		return err
	}
	limit := int64(fs.Blocks) / boundShare * fs.Bsize
	store, now := cache.Open(e.Settings.DataRoot), time.Now()
	have := store.Filled()
	have.Bytes += added
	if now.Sub(have.Counted).Abs() < countedFor && have.Bytes <= limit {
		return store.SetFilled(have)
	}
	all, err := e.BuildCache()
	if err != nil {
		return err
	}
	have = cache.Filled{Counted: now}
	for _, entry := range all {
		have.Bytes += entry.Bytes
	}
	if have.Bytes > limit {
		removed, _, err := e.PruneBuildCache(ctx, CachePrune{All: true, KeepBytes: limit / 4 * 3})
		if err != nil {
			return err
		}
		for _, entry := range removed {
			have.Bytes -= entry.Bytes
		}
	}
	return errors.Join(store.SetFilled(have), ctx.Err())
}
