package build

import (
	"context"
	"errors"
	"os"
	"path"
	"slices"

	"berth/internal/build/files"
	"berth/internal/image"
	"berth/internal/image/merged"
	"berth/internal/image/unpack"

	"golang.org/x/sys/unix"
)

// squash makes one layer of those that the build has put on top of the image that it began with, and returns the layers with that one. The
// history keeps the steps, which have no layer any more, and says what was merged, as docker's does.
func (b *builder) squash(ctx context.Context, l layers) (out layers, err error) {
	base := layers{}
	if first := b.first(); first.Ref != "" {
		base = b.bases[baseKey(first.Ref, first.Platform)].layers
	}
	n := len(base.chain)
	if len(l.chain) <= n {
		return l, nil
	}
	w, err := b.cache.Begin()
	if err != nil {
		return l, err
	}
	defer func() { err = errors.Join(err, w.End(b.engine.RemoveTree)) }()
	d, err := b.mergeLayers(ctx, l, n, w.Upper())
	if err != nil {
		return l, err
	}
	out = layers{slices.Clone(l.chain[:n]), slices.Clone(l.diffIDs[:n]), slices.Clone(l.blobs[:n])}
	from := "scratch"
	if n > 0 {
		from = string(base.top())
	}
	out.add(d)
	target := b.plan.Target()
	history := target.Image.History
	for i := b.baseHistory(); i < len(history); i++ {
		history[i].EmptyLayer = true
	}
	target.Image.History = append(history, image.History{Comment: "merge " + string(l.top()) + " to " + from})
	return out, nil
}

// mergeLayers writes the layer of all that is different above the layers below n: what the upper ones have, and what they hide. dir is an empty
// directory, in which the whole tree is put together.
func (b *builder) mergeLayers(ctx context.Context, l layers, n int, dir string) (d image.Descriptor, err error) {
	trees, err := b.trees(l)
	if err != nil {
		return d, err
	}
	upper, below := trees[:len(trees)-n], trees[len(trees)-n:]
	to, err := files.Open(dir, nil, b.now)
	if err != nil {
		return d, err
	}
	defer to.Close()
	all, err := files.Tree{Layers: trees}.Find(".")
	if err != nil {
		return d, err
	}
	defer all.Close()
	if err := to.Copy(ctx, all, "/", files.Options{}); err != nil {
		return d, err
	}
	changes, err := merged.ChangesOfCopy(dir, below, nil, unix.Timespec{})
	if err != nil {
		return d, err
	}
	known := map[string]bool{}
	for _, c := range changes {
		known[c.Path] = true
	}
	// What the upper layers have counts even if it looks as before: it may have other attributes.
	if err := eachFile(upper, ".", func(p string) {
		if name := "/" + p; !known[name] {
			changes = append(changes, merged.Change{Kind: merged.Changed, Path: name})
		}
	}); err != nil {
		return d, err
	}
	slices.SortFunc(changes, func(x, y merged.Change) int {
		switch {
		case x.Path < y.Path:
			return -1
		case x.Path > y.Path:
			return 1
		}
		return 0
	})
	tree, err := os.Open(dir)
	if err != nil {
		return d, err
	}
	defer tree.Close()
	parent := image.Digest("")
	if n > 0 {
		parent = l.chain[n-1]
	}
	return b.layerOf(ctx, tree, changes, parent, unpack.DiffOptions{UserXattr: b.engine.Host().InUserNS, Latest: b.latest()})
}

// eachFile visits the paths of all that is in layers.
func eachFile(layers []string, name string, visit func(string)) error {
	dir, err := merged.OpenDir(layers, name)
	if err != nil {
		return err
	}
	defer dir.Close()
	return entries(dir, "", visit)
}

func entries(dir *merged.Dir, at string, visit func(string)) error {
	return dir.Entries(func(e merged.Entry) error {
		p := path.Join(at, e.Name)
		visit(p)
		if e.Dir == nil {
			return nil
		}
		return entries(e.Dir, p, visit)
	})
}
