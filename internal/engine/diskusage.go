package engine

import (
	"berth/internal/image"
	"berth/internal/image/store"
	"berth/internal/state"
	"berth/internal/tree"
	"berth/internal/volume"
)

// DiskUse is what takes how much room.
type DiskUse struct {
	Images     []ImageUsage
	Containers []ContainerUsage
	Volumes    []VolumeUsage
	BuildCache []CacheEntry
	// LayerBytes are those of all layers, each once; UsedLayerBytes those of layers that containers use.
	LayerBytes, UsedLayerBytes int64
}

// ImageUsage is an image and the bytes of its layers: all, and those that other images have, too.
type ImageUsage struct {
	store.Image
	Bytes, SharedBytes int64
	Containers         int
}

// ContainerUsage is a container and what it has written.
type ContainerUsage struct {
	Listed
	Bytes, RootBytes int64
	Active           bool
}

// VolumeUsage is a volume, what is in it, and how many containers use it.
type VolumeUsage struct {
	volume.Volume
	Bytes int64
	Links int
}

// DiskUsage finds out what takes how much room.
func (e *Engine) DiskUsage() (DiskUse, error) {
	var u DiskUse
	if err := e.imageUsage(&u); err != nil {
		return u, err
	}
	all, err := e.ListOwn()
	if err != nil {
		return u, err
	}
	for _, l := range all {
		c := ContainerUsage{Listed: l, Active: l.Record.Status != state.Exited && l.Record.Status != state.Created}
		if c.Bytes, c.RootBytes, err = e.Sizes(l.Container); err != nil {
			return u, err
		}
		u.Containers = append(u.Containers, c)
	}
	volumes, err := e.Volumes.List()
	if err != nil {
		return u, err
	}
	uses, err := e.VolumeUses()
	if err != nil {
		return u, err
	}
	for _, v := range volumes {
		bytes, err := tree.Bytes(e.Volumes.Path(v.Name))
		if err != nil {
			return u, err
		}
		u.Volumes = append(u.Volumes, VolumeUsage{v, bytes, len(uses[v.Name])})
	}
	u.BuildCache, err = e.BuildCache()
	return u, err
}

func (e *Engine) imageUsage(u *DiskUse) error {
	records, err := e.Images.List()
	if err != nil {
		return err
	}
	uses, err := e.Uses()
	if err != nil {
		return err
	}
	containers, used := map[image.Digest]int{}, map[image.Digest]bool{}
	for _, use := range uses {
		containers[use.Image]++
		for _, chain := range use.Chain {
			used[chain] = true
		}
	}
	owners := map[image.Digest]map[image.Digest]bool{} // layer -> images
	for _, r := range records {
		im, err := e.Images.Load(r)
		if err != nil {
			continue // it is damaged, and takes what it takes until it is removed
		}
		for _, chain := range im.Chain {
			if owners[chain] == nil {
				owners[chain] = map[image.Digest]bool{}
			}
			owners[chain][im.ID] = true
		}
		u.Images = append(u.Images, ImageUsage{Image: im, Containers: containers[im.ID]})
	}
	for i := range u.Images {
		im := &u.Images[i]
		for _, chain := range im.Chain {
			info, err := e.Images.Layers.Info(chain)
			if err != nil {
				continue
			}
			im.Bytes += info.Size
			if len(owners[chain]) > 1 {
				im.SharedBytes += info.Size
			}
		}
	}
	layers, err := e.Images.Layers.List()
	if err != nil {
		return err
	}
	for _, chain := range layers {
		info, err := e.Images.Layers.Info(chain)
		if err != nil {
			continue
		}
		u.LayerBytes += info.Size
		if used[chain] {
			u.UsedLayerBytes += info.Size
		}
	}
	return nil
}
