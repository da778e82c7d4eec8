package engine

import (
	"context"
	"errors"
	"maps"
	"strconv"
	"strings"
	"time"

	"berth/internal/build/cache"
	"berth/internal/event"
	"berth/internal/image"
	"berth/internal/image/store"
)

// Uses are the claims on images of containers, and of whoever has mounted one.
func (e *Engine) Uses() ([]store.Use, error) {
	all, err := e.Containers.List()
	if err != nil {
		return nil, err
	}
	var uses []store.Use
	for _, c := range all {
		running := e.Containers.Monitored(c.ID)
		uses = append(uses, store.Use{Container: c.ID, Image: c.Image.ID, Chain: c.Image.ChainIDs, Running: running})
		for _, im := range c.Mounted {
			uses = append(uses, store.Use{Container: c.ID, Image: im.ID, Chain: im.ChainIDs, Running: running})
		}
	}
	mounts, err := e.ImageMounts()
	for _, m := range mounts {
		uses = append(uses, store.Use{Image: m.ID, Chain: m.Chain, Running: true})
	}
	return uses, err
}

// roots are what containers and the cache of builds need.
func (e *Engine) roots(uses []store.Use) (store.Roots, error) {
	roots := store.RootsOf(uses)
	records, err := cache.Open(e.Settings.DataRoot).List()
	for _, r := range records {
		if r.Layer.Digest == "" { // a torn one
			continue
		}
		roots.Chains, roots.Blobs = append(roots.Chains, r.Chain()), append(roots.Blobs, r.Layer.Digest)
	}
	return roots, err
}

// NeededNow is what is needed now of images whatever names there are.
func (e *Engine) NeededNow() (store.Roots, error) {
	uses, err := e.Uses()
	if err != nil {
		return store.Roots{}, err
	}
	return e.roots(uses)
}

// RemoveImage takes an image's name, and what nothing else needs; or what it has for some platforms, if any are named.
func (e *Engine) RemoveImage(ctx context.Context, ref string, platforms []image.Platform, force bool) (store.Removed, error) {
	uses, err := e.Uses()
	if err != nil {
		return store.Removed{}, err
	}
	named, _ := e.Images.Find(ref) // what is amiss with it, Remove says
	labels := e.imageLabels(ref)
	roots, err := e.roots(uses)
	if err != nil {
		return store.Removed{}, err
	}
	var removed store.Removed
	if len(platforms) > 0 {
		removed, err = e.Images.RemovePlatforms(ctx, ref, platforms, force, uses, roots)
	} else {
		removed, err = e.Images.Remove(ctx, ref, force, uses, roots)
	}
	if err != nil {
		return removed, err
	}
	for _, name := range removed.Untagged {
		if !strings.Contains(name, "@") { // that goes with the last name
			e.Containers.NoteAll(imageEvent("untag", string(named.ID), string(named.ID), labels))
		}
	}
	if len(removed.Deleted) > 0 {
		e.Containers.NoteAll(imageEvent("delete", string(removed.Deleted[0]), string(removed.Deleted[0]), nil))
	}
	return removed, nil
}

// RemoveImages lets do remove images, by RemoveImage.
func (e *Engine) RemoveImages(ctx context.Context, do func() error) error {
	return e.Images.RemoveTogether(ctx, e.NeededNow, do)
}

// TagImage gives an image another name.
func (e *Engine) TagImage(ref, name string) error {
	r, err := e.Images.Tag(ref, name)
	if err != nil {
		return err
	}
	e.NoteTag(r)
	return nil
}

// NoteTag notes that an image has got a name, if it has.
func (e *Engine) NoteTag(r store.Record) {
	if name, ok := r.Reference(); ok {
		e.NoteImage("tag", string(r.ID), name.Familiar())
	}
}

// NoteImage notes in the journal what has happened to an image.
func (e *Engine) NoteImage(action, id, name string) {
	e.Containers.NoteAll(imageEvent(action, id, name, e.imageLabels(id)))
}

// imageLabels are the labels of an image, if there is such a one.
func (e *Engine) imageLabels(ref string) map[string]string {
	im, err := e.Images.Resolve(ref)
	if err != nil {
		return nil
	}
	return im.Config.Config.Labels
}

func imageEvent(action, id, name string, labels map[string]string) event.Event {
	attributes := make(map[string]string, len(labels)+1)
	maps.Copy(attributes, labels)
	attributes["name"] = name
	return event.Event{Type: event.Image, Action: action, ID: id, Attributes: attributes}
}

// NotePrune notes that all that was unused of a kind has been removed, and how many bytes that has given back.
func (e *Engine) NotePrune(kind event.Type, bytes int64) {
	e.Containers.NoteAll(event.Event{Type: kind, Action: "prune", Attributes: map[string]string{"reclaimed": strconv.FormatInt(bytes, 10)}})
}

// SweepImages removes all of images that no name, no container and no cache of builds needs, and what killed builds have left. What
// interrupted pulls have left is kept for partialAge.
func (e *Engine) SweepImages(ctx context.Context, partialAge time.Duration) (store.Swept, error) {
	uses, err := e.Uses()
	if err != nil {
		return store.Swept{}, err
	}
	left := errors.Join(cache.Open(e.Settings.DataRoot).Sweep(e.RemoveTree), e.sweepImageCopies())
	roots, err := e.roots(uses)
	if err != nil {
		return store.Swept{}, err
	}
	swept, err := e.Images.Sweep(ctx, roots, partialAge)
	return swept, errors.Join(left, err)
}
