// Package box makes the built-in image: the layer and the configuration around one program, cmd/berth-box, which is a
// shell and the usual utilities. With it a container can be tried without a registry.
//
// The image is a function of the program's bytes and the architecture: no clock, no owner, no order of a file system
// gets into it. The package neither finds the program (package program carries it) nor knows what it does, except for
// the names by which it is called.
package box

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"berth/internal/box/applets"
	"berth/internal/image"
	"berth/internal/image/store"
	"berth/internal/image/unpack"
)

// Reference is the name of the image.
const Reference = "docker.io/library/box:latest"

// Built is the image as the blobs that it consists of.
type Built struct {
	Layer    []byte // an uncompressed tar
	Config   []byte
	Manifest []byte

	LayerDescriptor, ConfigDescriptor, ManifestDescriptor image.Descriptor
	Image                                                 image.Image    // what Config says
	Parsed                                                image.Manifest // what Manifest says
}

// epoch is the time of everything in the image: what SOURCE_DATE_EPOCH=0 means.
func epoch() time.Time { return time.Unix(0, 0).UTC() }

// Build makes the image for an architecture in Go's words.
func Build(program []byte, arch string) (Built, error) {
	b, err := build(program, image.Platform{OS: "linux", Architecture: arch})
	if err != nil {
		return b, fmt.Errorf("cannot build the image box: %w", err)
	}
	return b, nil
}

func build(program []byte, platform image.Platform) (b Built, err error) {
	if b.Layer, err = layer(program); err != nil {
		return b, err
	}
	b.LayerDescriptor = describe(image.MediaTypeLayer, b.Layer)
	created := epoch()
	b.Image = image.Image{
		Created:  &created,
		Platform: platform,
		Config: image.Config{
			Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
			Cmd: []string{"/bin/sh"},
		},
		RootFS:  image.RootFS{Type: "layers", DiffIDs: []image.Digest{b.LayerDescriptor.Digest}},
		History: []image.History{{Created: &created, CreatedBy: "berth", Comment: "built in"}},
	}
	if b.Config, err = json.Marshal(b.Image); err != nil {
		return b, err
	}
	b.ConfigDescriptor = describe(image.MediaTypeConfig, b.Config)
	b.Parsed = image.Manifest{
		SchemaVersion: 2,
		MediaType:     image.MediaTypeManifest,
		Config:        b.ConfigDescriptor,
		Layers:        []image.Descriptor{b.LayerDescriptor},
	}
	if b.Manifest, err = json.Marshal(b.Parsed); err != nil {
		return b, err
	}
	b.ManifestDescriptor = describe(image.MediaTypeManifest, b.Manifest)
	return b, nil
}

func describe(mediaType string, data []byte) image.Descriptor {
	sum := sha256.Sum256(data)
	return image.Descriptor{MediaType: mediaType, Digest: image.Digest(image.SHA256 + ":" + hex.EncodeToString(sum[:])), Size: int64(len(data))}
}

// Install puts the image for this host into the store, under Reference. If it is there already nothing is written.
func Install(ctx context.Context, s *store.Store, program []byte, opt unpack.Options) (store.Record, error) {
	record, err := install(ctx, s, program, opt)
	if err != nil {
		return record, fmt.Errorf("cannot install the image box: %w", err)
	}
	return record, nil
}

func install(ctx context.Context, s *store.Store, program []byte, opt unpack.Options) (store.Record, error) {
	var none store.Record
	b, err := build(program, image.HostPlatform())
	if err != nil {
		return none, err
	}
	release, err := s.Content.HoldAdditions(ctx)
	if err != nil {
		return none, err
	}
	defer release()
	for _, blob := range []struct {
		image.Descriptor
		data []byte
	}{{b.LayerDescriptor, b.Layer}, {b.ConfigDescriptor, b.Config}, {b.ManifestDescriptor, b.Manifest}} {
		if s.Content.Has(blob.Digest) {
			continue
		}
		if err := s.Content.Put(blob.Descriptor, blob.data); err != nil {
			return none, err
		}
	}
	if err := unpack.Image(ctx, unpack.FromBlobs(s.Content, b.Parsed), s.Layers, b.Parsed, b.Image, opt); err != nil {
		return none, err
	}
	if record, err := s.Find(Reference); err == nil && record.Manifest.Digest == b.ManifestDescriptor.Digest {
		return record, nil
	}
	return s.Put(Reference, b.ManifestDescriptor, b.ManifestDescriptor)
}

// file is one entry of the layer.
type file struct {
	name     string
	mode     int64
	uid, gid int
	kind     byte
	link     string
	data     []byte
}

// The files that programs expect of any system.
const (
	passwd = `root:x:0:0:root:/root:/bin/sh
box:x:1000:1000:box:/home/box:/bin/sh
nobody:x:65534:65534:nobody:/:/bin/false
`
	group = `root:x:0:
tty:x:5:
box:x:1000:
nogroup:x:65534:
`
	release = `NAME="berth box"
ID=box
PRETTY_NAME="The image built into berth"
`
)

func files(program []byte) []file {
	dir := func(name string, mode int64, owner int) file {
		return file{name: name + "/", mode: mode, uid: owner, gid: owner, kind: tar.TypeDir}
	}
	text := func(name, data string) file {
		return file{name: name, mode: 0o644, kind: tar.TypeReg, data: []byte(data)}
	}
	list := []file{dir("bin", 0o755, 0), {name: "bin/box", mode: 0o755, kind: tar.TypeReg, data: program}}
	for _, name := range applets.Names() {
		list = append(list, file{name: "bin/" + name, mode: 0o777, kind: tar.TypeSymlink, link: "box"})
	}
	return append(
		list,
		dir("dev", 0o755, 0),
		dir("etc", 0o755, 0),
		text("etc/group", group),
		text("etc/os-release", release),
		text("etc/passwd", passwd),
		dir("home", 0o755, 0),
		dir("home/box", 0o755, 1000),
		dir("proc", 0o755, 0),
		dir("root", 0o700, 0),
		dir("run", 0o755, 0),
		dir("sys", 0o755, 0),
		dir("tmp", 0o1777, 0),
		dir("usr", 0o755, 0),
		dir("usr/bin", 0o755, 0),
		file{name: "usr/bin/env", mode: 0o777, kind: tar.TypeSymlink, link: "../../bin/box"}, // for "#!/usr/bin/env"
		dir("var", 0o755, 0),
		dir("var/tmp", 0o1777, 0),
		file{name: "where", mode: 0o777, kind: tar.TypeSymlink, link: "bin/box"},
	)
}

func layer(program []byte) ([]byte, error) {
	var b bytes.Buffer
	b.Grow(len(program) + 128<<10)
	w := tar.NewWriter(&b)
	for _, f := range files(program) {
		h := &tar.Header{
			Format: tar.FormatUSTAR, Typeflag: f.kind, Name: f.name, Linkname: f.link, Mode: f.mode,
			Uid: f.uid, Gid: f.gid, Size: int64(len(f.data)), ModTime: epoch(),
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.data); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
