package layer

import (
	"encoding/json"
	"errors"
	"io/fs"
	"slices"

	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/image"
)

// Origin says in which repository of a registry the blob is that a layer was made of. A blob cannot be made again of the layer's tree, byte for
// byte; where its origin is known it need not be kept.
type Origin struct {
	Blob       image.Digest `json:"blob"`
	Repository string       `json:"repository"` // with the registry's name
}

// originName is the file of a layer's origins; it goes with the layer.
const originName = "origins.json"

// maxOrigins is how many repositories are remembered of a layer, the latest.
const maxOrigins = 8

// AddOrigin remembers, durably, where the blob of a layer is.
func (s *Store) AddOrigin(chain image.Digest, o Origin) error {
	known, err := s.origins(chain)
	if err != nil || slices.Contains(known, o) {
		return err
	}
	known = append(known, o)
	data, err := json.Marshal(known[max(0, len(known)-maxOrigins):])
	if err != nil {
		return err
	}
	err = disk.Replace(s.path(chain)+"/"+originName, data, 0o600, disk.Durable)
	if errors.Is(err, fs.ErrNotExist) {
		return errdef.New(errdef.NotFound, "layer %s is not unpacked", chain)
	}
	return err
}

func (s *Store) origins(chain image.Digest) (all []Origin, err error) {
	if err := chain.Validate(); err != nil {
		return nil, err
	}
	data, err := disk.Read(s.path(chain) + "/" + originName)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &all)
	}
	return all, err
}

// HasOrigin reports whether a layer is here of which it is known where that blob is. What cannot be read is not known.
func (s *Store) HasOrigin(chain, blob image.Digest) bool {
	known, err := s.origins(chain)
	return err == nil && slices.ContainsFunc(known, func(o Origin) bool { return o.Blob == blob }) && s.Has(chain)
}

// Origins are the repositories that have the blobs of layers, by their digests.
func (s *Store) Origins() (map[image.Digest][]string, error) {
	chains, err := s.List()
	if err != nil {
		return nil, err
	}
	all := map[image.Digest][]string{}
	for _, chain := range chains {
		known, err := s.origins(chain)
		if err != nil {
			continue // the same as if it were not there
		}
		for _, o := range known {
			if !slices.Contains(all[o.Blob], o.Repository) {
				all[o.Blob] = append(all[o.Blob], o.Repository)
			}
		}
	}
	return all, nil
}
