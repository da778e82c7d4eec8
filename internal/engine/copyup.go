package engine

import (
	"berth/internal/image/store"
	"berth/internal/state"
	"berth/internal/storage"
)

// fillVolume copies what the image has at target into the new volume at dir, as docker does. Where the image has nothing,
// or no directory, the volume stays empty.
func (e *Engine) fillVolume(c *state.Container, dir, target string, im store.Image) error {
	layers, err := e.Images.Layers.Stack(im.Chain)
	if err != nil || len(layers) == 0 {
		return err
	}
	return storage.Fill(dir, target, layers, ownersIn(c))
}
