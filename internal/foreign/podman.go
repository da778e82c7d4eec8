package foreign

import (
	"encoding/base64"
	"encoding/json"
	"path"
	"slices"
	"strings"

	"berth/internal/errdef"
	"berth/internal/image"
)

// Podman's images (containers/storage, images.go and layers.go):
//
//	DRIVER-images/images.json           IDs, names, the uppermost layer
//	DRIVER-images/ID/KEY                documents: configuration and manifest
//	DRIVER-layers/layers.json           layers with their parents and diff IDs
//	DRIVER-layers/LAYER.tar-split.gz
func (s *Store) podmanImages() ([]Image, error) {
	var all []Image
	for _, driver := range s.podmanDrivers() {
		found, err := s.podmanImagesOf(driver)
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return all, nil
}

func (s *Store) podmanDrivers() (drivers []string) {
	for _, driver := range []string{"overlay", "vfs", "btrfs"} {
		if s.has(driver + "-images") {
			drivers = append(drivers, driver)
		}
	}
	return drivers
}

// podmanLayer is a layer of layers.json.
type podmanLayer struct {
	ID     string       `json:"id"`
	Parent string       `json:"parent"`
	DiffID image.Digest `json:"diff-digest"`
}

type podmanImage struct {
	ID    string   `json:"id"`
	Names []string `json:"names"`
	Layer string   `json:"layer"`
}

func (s *Store) podmanImagesOf(driver string) ([]Image, error) {
	var images []podmanImage
	var layers []podmanLayer
	for name, to := range map[string]any{driver + "-images/images.json": &images, driver + "-layers/layers.json": &layers} {
		data, err := s.read(name)
		if errdef.Is(err, errdef.NotFound) {
			continue // nothing was ever pulled
		}
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(data, to); err != nil {
			return nil, errdef.New(errdef.Corrupt, "cannot read %s: %w", name, err)
		}
	}
	byID := map[string]podmanLayer{}
	children := map[string]bool{} // layers that another is on
	for _, l := range layers {
		byID[l.ID] = l
		children[l.Parent] = true
	}
	var all []Image
	for _, p := range images {
		id, err := image.ParseDigest(image.SHA256 + ":" + p.ID)
		if err != nil {
			continue // an artifact, or made by hand: no image has such an ID
		}
		// Podman has no parents: an unnamed image that another is built on, or that has the files of a named one, was a step of a build.
		im := Image{ID: id, Hidden: len(p.Names) == 0 && (children[p.Layer] || named(images, p.Layer))}
		for _, name := range p.Names {
			if !strings.Contains(name, "@") {
				im.Names = append(im.Names, name)
			}
		}
		im.Pinned = len(p.Names) > 0 && len(im.Names) == 0
		im.Err = s.podmanImage(driver, p, byID, &im)
		all = append(all, im)
	}
	return all, nil
}

func named(images []podmanImage, layer string) bool {
	return slices.ContainsFunc(images, func(p podmanImage) bool { return p.Layer == layer && len(p.Names) > 0 })
}

// document is the name of a file that holds what podman keeps of an image under a key (images.go, makeBigDataBaseName).
func document(key string) string {
	if strings.Trim(key, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ._-") == "" {
		return key
	}
	return "=" + base64.StdEncoding.EncodeToString([]byte(key))
}

func (s *Store) podmanImage(driver string, p podmanImage, layers map[string]podmanLayer, im *Image) error {
	at := path.Join(driver+"-images", p.ID)
	config, err := s.read(path.Join(at, document(string(im.ID))))
	if err != nil {
		return err
	}
	if err := im.parse(config); err != nil {
		return err
	}
	for id := p.Layer; id != ""; id = layers[id].Parent {
		l, ok := layers[id]
		switch {
		case !ok || !ordinary(id):
			return errdef.New(errdef.Corrupt, "its layer %.12s is not there", id)
		case len(im.Layers) == len(im.Parsed.RootFS.DiffIDs):
			return errdef.New(errdef.Corrupt, "it has more layers than its configuration says")
		}
		files, _ := trees(driver, id)
		im.Layers = append(im.Layers, Layer{DiffID: l.DiffID, Tar: s.tar(path.Join(driver+"-layers", id+".tar-split.gz"), files)})
	}
	slices.Reverse(im.Layers)
	if !slices.EqualFunc(im.Layers, im.Parsed.RootFS.DiffIDs, func(l Layer, d image.Digest) bool { return l.DiffID == d }) {
		return errdef.New(errdef.Corrupt, "its layers are not those of its configuration")
	}
	if manifest, err := s.read(path.Join(at, "manifest")); err == nil && ofTars(manifest, *im) {
		im.Manifest = manifest
	}
	return nil
}

// ofTars reports whether the blobs of a manifest are the image's configuration and the tars of its layers, uncompressed.
func ofTars(manifest []byte, im Image) bool {
	m, err := image.ParseManifest(manifest, "")
	return err == nil && m.Config.Digest == im.ID && slices.EqualFunc(m.Layers, im.Layers, func(d image.Descriptor, l Layer) bool {
		return d.Digest == l.DiffID
	})
}
