package store

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/image"
	"berth/internal/image/reference"
)

// Use is a container that uses an image, or a mount of it.
type Use struct {
	Container string         // its ID; "" is a mount
	Image     image.Digest   // the image's ID
	Chain     []image.Digest // the chain IDs of its layers
	Running   bool
}

// Owner is who uses it, for a message.
func (u Use) Owner() string {
	if u.Container == "" {
		return "a mount"
	}
	return "container " + u.Container[:min(12, len(u.Container))]
}

// Removed is docker's answer to rmi, in its order.
type Removed struct {
	Untagged []string       // familiar names
	Deleted  []image.Digest // the image's ID, then the chain IDs of its layers, the highest first
}

// Remove takes a name from an image and, when it was the last one, removes the image and what nothing else needs.
// Given an ID it takes all names. As in docker force is needed where a stopped container uses the image or an ID
// has several names; what a running container uses keeps its bytes in any case. Nothing of roots and uses goes.
//
// The bytes go at once unless somebody is adding images just now: then the next Sweep removes them.
func (s *Store) Remove(ctx context.Context, nameOrID string, force bool, uses []Use, roots Roots) (Removed, error) {
	fail := func(err error) (Removed, error) {
		return Removed{}, fmt.Errorf("cannot remove image %q: %w", nameOrID, err)
	}
	// In the order of locks: the sweep's first.
	release, sweepErr := s.holdSweepNow(ctx)
	if sweepErr == nil {
		defer release()
	} else if ctx.Err() != nil {
		return fail(sweepErr)
	}
	lock, err := s.lock()
	if err != nil {
		return fail(err)
	}
	defer lock.Unlock()

	r, err := s.Find(nameOrID)
	if err != nil {
		return Removed{}, err
	}
	all, err := s.List()
	if err != nil {
		return fail(err)
	}
	doomed, err := choose(r, askedByName(r, nameOrID), all, force, uses)
	if err != nil {
		return Removed{}, err
	}
	return s.carryOut(ctx, r, doomed, all, uses, roots, sweepErr == nil)
}

// askedByName tells "rmi NAME" from "rmi ID".
func askedByName(r Record, nameOrID string) bool {
	ref, err := reference.Parse(nameOrID)
	return err == nil && r.Name != "" && key(ref) == r.Name
}

// choose says which records go. It is docker's rules, and its words, and nothing else.
func choose(r Record, byName bool, all []Record, force bool, uses []Use) ([]Record, error) {
	var same []Record
	for _, other := range all {
		if other.ID == r.ID {
			same = append(same, other)
		}
	}
	if byName && len(same) > 1 {
		return []Record{r}, nil
	}
	if !byName && len(same) > 1 && !force {
		err := errdef.New(errdef.Conflict, "conflict: unable to delete %s (must be forced) - image is referenced in multiple repositories", r.ID.Short())
		return nil, errdef.Hint(err, "remove its %d names one by one, or all of them with --force", len(same))
	}
	for _, use := range uses {
		if use.Image != r.ID {
			continue
		}
		short := use.Container[:min(12, len(use.Container))]
		switch {
		case byName && force, !use.Running && short != "" && force:
		case short == "":
			return nil, errdef.Hint(errdef.New(errdef.Conflict, "conflict: unable to delete %s - it is mounted", r.ID.Short()), "berth image unmount %s", r.ID.Short())
		case byName:
			ref, _ := r.Reference()
			err := errdef.New(errdef.Conflict, "conflict: unable to remove repository reference %q (must force) - container %s is using its referenced image %s",
				ref.Familiar(), short, r.ID.Short())
			return nil, errdef.Hint(err, "remove the container first, or use --force")
		case use.Running:
			err := errdef.New(errdef.Conflict, "conflict: unable to delete %s (cannot be forced) - image is being used by running container %s", r.ID.Short(), short)
			return nil, errdef.Hint(err, "stop the container first")
		default:
			err := errdef.New(errdef.Conflict, "conflict: unable to delete %s (must be forced) - image is being used by stopped container %s", r.ID.Short(), short)
			return nil, errdef.Hint(err, "remove the container first, or use --force")
		}
	}
	return same, nil
}

// carryOut removes the records doomed and, where they were the image's last, the image.
func (s *Store) carryOut(ctx context.Context, r Record, doomed, all []Record, uses []Use, roots Roots, sweep bool) (Removed, error) {
	var removed Removed
	last := true
	for _, other := range all {
		if other.ID == r.ID && !contains(doomed, other) {
			last = false
		}
	}
	running := false
	for _, use := range uses {
		running = running || use.Image == r.ID && use.Running
	}
	// The image is read before anything of it goes. One that cannot be read can be removed all the same.
	img, loadErr := s.Load(r)
	if last && running { // only its names go: it stays as <none> until its container ends
		r.Name = ""
		if err := s.write(r); err != nil {
			return removed, err
		}
		last = false
	}
	for _, d := range doomed {
		if d.Name == "" && !last {
			continue
		}
		if err := removeIfThere(s.path(d.fileKey())); err != nil {
			return removed, err
		}
		if ref, ok := d.Reference(); ok {
			removed.Untagged = append(removed.Untagged, ref.Familiar())
			if ref.Digest == "" && last {
				removed.Untagged = append(removed.Untagged, ref.FamiliarName()+"@"+string(d.Target.Digest))
			}
		}
	}
	err := s.writeIndex()
	if s.memory == nil || s.memory.later == nil {
		// Before anything goes that a name leads to: of the two, a power cut must not undo the first alone.
		err = errors.Join(err, disk.SyncDir(s.dir))
	}
	if !last || err != nil {
		return removed, err
	}
	removed.Deleted = append(removed.Deleted, r.ID)
	used := RootsOf(uses)
	marks, markErr := s.mark(Roots{append(used.Chains, roots.Chains...), roots.Blobs}, nil)
	if err = errors.Join(err, markErr); err != nil || loadErr != nil {
		return removed, err // what it consisted of is not known: a sweep finds it
	}
	var rest remains
	for _, chain := range slices.Backward(img.Chain) {
		if !marks.chains[chain] {
			rest.chains = append(rest.chains, chain)
		}
	}
	for _, d := range append(img.Manifest.Layers, img.Manifest.Config, r.Manifest, r.Target) {
		if !marks.blobs[d.Digest] {
			rest.blobs = append(rest.blobs, d.Digest)
		}
	}
	removed.Deleted = append(removed.Deleted, rest.chains...)
	switch {
	case s.memory != nil && s.memory.later != nil:
		s.memory.later.add(rest)
	case sweep:
		for _, chain := range rest.chains {
			err = errors.Join(err, s.Layers.Remove(ctx, chain))
		}
		for _, blob := range rest.blobs {
			err = errors.Join(err, s.Content.Delete(blob))
		}
	}
	return removed, err
}

func (d *remains) add(more remains) {
	d.chains, d.blobs = append(d.chains, more.chains...), append(d.blobs, more.blobs...)
}

func contains(list []Record, r Record) bool {
	for _, other := range list {
		if other.fileKey() == r.fileKey() {
			return true
		}
	}
	return false
}
