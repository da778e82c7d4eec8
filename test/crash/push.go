package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"berth/test/crash/tiny"
)

// push brings the tiny image into a registry (distribution-spec, "Pushing blobs" and "Pushing Manifests").
func push(address, repository, tag string) error {
	base := "http://" + address + "/v2/" + repository
	config, layers := tiny.Parts(1)
	type descriptor struct {
		MediaType string `json:"mediaType"`
		Digest    string `json:"digest"`
		Size      int    `json:"size"`
	}
	describe := func(kind string, data []byte) descriptor {
		return descriptor{"application/vnd.oci.image." + kind, tiny.Digest(data), len(data)}
	}
	var described []descriptor
	for _, layer := range layers {
		described = append(described, describe("layer.v1.tar", layer))
	}
	for _, blob := range append(layers, config) {
		answer, err := http.Post(base+"/blobs/uploads/", "", nil)
		if err != nil {
			return err
		}
		_ = answer.Body.Close()
		location, sign := answer.Header.Get("Location"), "?"
		if strings.Contains(location, "?") {
			sign = "&"
		}
		if err := put(location+sign+"digest="+tiny.Digest(blob), "application/octet-stream", blob); err != nil {
			return err
		}
	}
	const kind = "application/vnd.oci.image.manifest.v1+json"
	manifest, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": kind, "config": describe("config.v1+json", config), "layers": described,
	})
	if err != nil {
		return err
	}
	return put(base+"/manifests/"+tag, kind, manifest)
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
