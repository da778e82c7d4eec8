package registry

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
)

// Layer is a blob of an image and how it is compressed: "", "+gzip" or "+zstd".
type Layer struct {
	Compression string
	Data        []byte
}

type descriptor struct {
	MediaType string `json:"mediaType"`
	Digest    string `json:"digest"`
	Size      int    `json:"size"`
}

func describe(kind string, data []byte) descriptor {
	sum := sha256.Sum256(data)
	return descriptor{"application/vnd.oci.image." + kind, "sha256:" + hex.EncodeToString(sum[:]), len(data)}
}

// Push brings an image into the registry as REPOSITORY:TAG (distribution-spec, "Pushing blobs" and "Pushing Manifests").
func (r *Registry) Push(repository, tag string, config []byte, layers []Layer) error {
	base := "http://" + r.Address + "/v2/" + repository
	configured := describe("config.v1+json", config)
	if err := upload(base, configured, config); err != nil {
		return err
	}
	var described []descriptor
	for _, l := range layers {
		d := describe("layer.v1.tar"+l.Compression, l.Data)
		if err := upload(base, d, l.Data); err != nil {
			return err
		}
		described = append(described, d)
	}
	const kind = "application/vnd.oci.image.manifest.v1+json"
	manifest, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": kind, "config": configured, "layers": described})
	if err != nil {
		return err
	}
	return put(base+"/manifests/"+tag, kind, manifest)
}

func upload(base string, d descriptor, blob []byte) error {
	answer, err := http.Post(base+"/blobs/uploads/", "", nil)
	if err != nil {
		return err
	}
	_ = answer.Body.Close()
	location, err := answer.Location() // which may be relative
	if err != nil {
		return err
	}
	query := location.Query()
	query.Set("digest", d.Digest)
	location.RawQuery = query.Encode()
	return put(location.String(), "application/octet-stream", blob)
}

func put(url, kind string, data []byte) error {
	request, err := http.NewRequest(http.MethodPut, url, bytes.NewReader(data))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", kind)
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	_ = answer.Body.Close()
	if answer.StatusCode != http.StatusCreated {
		return fmt.Errorf("cannot push to %s: %s", url, answer.Status)
	}
	return nil
}
