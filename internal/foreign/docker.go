package foreign

import (
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"

	"berth/internal/errdef"
	"berth/internal/image"
)

// Docker's images, without containerd's store of them (moby's image/fs.go, layer/filestore.go, reference/store.go):
//
//	image/DRIVER/repositories.json                    names -> IDs
//	image/DRIVER/imagedb/content/sha256/ID            an image's configuration
//	image/DRIVER/imagedb/metadata/sha256/ID/parent    the image that it was built on
//	image/DRIVER/layerdb/sha256/CHAIN/cache-id        where the driver has the files
//	image/DRIVER/layerdb/sha256/CHAIN/tar-split.json.gz
func (s *Store) dockerImages() ([]Image, error) {
	drivers, err := s.names("image")
	if err != nil {
		return nil, err
	}
	slices.Sort(drivers)
	var all []Image
	for _, driver := range drivers {
		found, err := s.dockerImagesOf(driver)
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	if len(all) == 0 && s.has("containerd/daemon") && !s.has("overlay2") {
		return nil, errdef.Hint(errdef.New(errdef.Unsupported, "this docker keeps its images in containerd"), "docker save IMAGE | berth load")
	}
	return all, nil
}

func (s *Store) dockerImagesOf(driver string) ([]Image, error) {
	at := path.Join("image", driver)
	ids, err := s.names(at + "/imagedb/content/" + image.SHA256)
	if err != nil {
		return nil, err
	}
	slices.Sort(ids)
	names, pinned, err := s.dockerNames(at)
	if err != nil {
		return nil, err
	}
	var all []Image
	parents := map[image.Digest]bool{}
	for _, hex := range ids {
		id, err := image.ParseDigest(image.SHA256 + ":" + hex)
		if err != nil {
			continue // half written: docker's temporary file
		}
		im := Image{ID: id, Names: names[id], Pinned: pinned[id] && len(names[id]) == 0}
		im.Err = s.dockerImage(at, driver, &im)
		all = append(all, im)
		if parent, err := s.read(at + "/imagedb/metadata/" + image.SHA256 + "/" + hex + "/parent"); err == nil {
			parents[image.Digest(strings.TrimSpace(string(parent)))] = true
		}
	}
	for i := range all {
		all[i].Hidden = len(all[i].Names) == 0 && !all[i].Pinned && parents[all[i].ID]
	}
	return all, nil
}

// dockerNames reads the names of images, and which have one with a digest: that of a manifest, which docker has not kept.
func (s *Store) dockerNames(at string) (names map[image.Digest][]string, pinned map[image.Digest]bool, _ error) {
	names, pinned = map[image.Digest][]string{}, map[image.Digest]bool{}
	data, err := s.read(at + "/repositories.json")
	if errdef.Is(err, errdef.NotFound) {
		return names, pinned, nil
	}
	if err != nil {
		return nil, nil, err
	}
	var doc struct {
		Repositories map[string]map[string]image.Digest
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, nil, errdef.New(errdef.Corrupt, "cannot read %s/repositories.json: %w", at, err)
	}
	for _, tags := range doc.Repositories {
		for name, id := range tags {
			if strings.Contains(name, "@") {
				pinned[id] = true
				continue
			}
			names[id] = append(names[id], name)
		}
	}
	for _, list := range names {
		slices.Sort(list)
	}
	return names, pinned, nil
}

func (s *Store) dockerImage(at, driver string, im *Image) error {
	config, err := s.read(at + "/imagedb/content/" + image.SHA256 + "/" + im.ID.Hex())
	if err != nil {
		return err
	}
	if err := im.parse(config); err != nil {
		return err
	}
	for i, chain := range image.ChainIDs(im.Parsed.RootFS.DiffIDs) {
		layer := fmt.Sprintf("%s/layerdb/%s/%s", at, chain.Algorithm(), chain.Hex())
		id, err := s.read(layer + "/cache-id")
		if err != nil {
			return err
		}
		name := strings.TrimSpace(string(id))
		if !ordinary(name) {
			return errdef.New(errdef.Corrupt, "%s/cache-id is no name of a directory", layer)
		}
		files, ok := trees(driver, name)
		if !ok {
			return errdef.Hint(errdef.New(errdef.Unsupported, "docker's storage driver %s cannot be read", driver), "docker save IMAGE | berth load")
		}
		im.Layers = append(im.Layers, Layer{DiffID: im.Parsed.RootFS.DiffIDs[i], Tar: s.tar(layer+"/tar-split.json.gz", files)})
	}
	return nil
}
