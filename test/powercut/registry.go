package main

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"

	memory "github.com/google/go-containerregistry/pkg/registry"

	"berth/test/registry"
	"berth/test/tiny"
)

// registryAddress is where images are pulled from, on the machine that loses its power: the registry keeps nothing on its disk.
const registryAddress = "localhost:5000"

// serveImages has a registry answer there, with the images that are pulled, until the program ends.
func serveImages() error {
	l, err := net.Listen("tcp", "127.0.0.1:5000")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: memory.New(memory.Logger(log.New(io.Discard, "", 0)))}
	go func() { _ = server.Serve(l) }() // until the end
	r := &registry.Registry{Address: l.Addr().String()}
	for w := range workers {
		for s := range seeds {
			config, layers := tiny.Parts(3000 + s)
			var blobs []registry.Layer
			for _, l := range layers {
				blobs = append(blobs, registry.Layer{Compression: "+gzip", Data: gzipped(l)})
			}
			if err := r.Push(fmt.Sprintf("pulled%d", w), fmt.Sprintf("v%d", s), config, blobs); err != nil {
				return err
			}
		}
	}
	return nil
}

func gzipped(data []byte) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := w.Write(data)
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		panic(err) // memory has no errors
	}
	return b.Bytes()
}
