package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"

	"berth/test/registry"
	"berth/test/tiny"
)

var listed = flag.Int("images", 1000, "images that are there when the longest list is shown; podman takes minutes to load them")

// images compares what is done with images that are there: save, load, push, a pull of what is there, images, rmi and commit.
func (b *bench) images() error {
	if *pulls == 0 {
		return nil
	}
	r, err := registry.Start(b.dir)
	if errors.Is(err, registry.ErrNotInstalled) {
		fmt.Println("images: left out:", err)
		return nil
	}
	if err != nil {
		return err
	}
	defer r.Stop()
	all, stop, err := b.peers()
	if err != nil {
		return err
	}
	defer stop()
	for i, p := range all {
		if p.name == "podman" { // it has no setting for this among its own flags
			all[i].insecure = []string{"--tls-verify=false"}
		}
	}
	for _, part := range []func(*registry.Registry, []peer) error{b.carried, b.commits, b.imageLists} {
		if err := part(r, all); err != nil {
			return err
		}
	}
	return nil
}

// carried compares what carries an image of 10 layers of 20 MB.
func (b *bench) carried(r *registry.Registry, all []peer) error {
	if _, err := publish(r, "carried", 10, layerSize{20 << 20, mixed}); err != nil {
		return err
	}
	name, archive, out := r.Address+"/carried:v1", b.dir+"/carried.tar", b.dir+"/out"
	pull := func(p peer) []string { return p.call(append(append([]string{"pull", "-q"}, p.insecure...), name)...) }
	forget := func(p peer) { attempt(p.call("rmi", "-f", name)) }
	for _, p := range all {
		if err := do(pull(p)); err != nil {
			return err
		}
	}
	if err := do(all[0].call("save", "-o", archive, name)); err != nil {
		return err
	}
	defer os.Remove(archive)
	defer os.Remove(out)
	for _, part := range []struct {
		what   string
		before func(p peer) error
		argv   func(p peer) []string
		others []contender
	}{
		{"pull of what is there", nil, pull, nil},
		{
			"save", func(peer) error { return os.RemoveAll(out) },
			func(p peer) []string { return p.call("save", "-o", out, name) },
			[]contender{{name: "skopeo", argv: []string{"skopeo", "copy", "-q", "oci:" + b.dir + "/d/content:v1", "oci-archive:" + out}, before: func() error { return os.RemoveAll(out) }}},
		},
		{
			"load", func(p peer) error { forget(p); return exec.Command("sync").Run() },
			func(p peer) []string { return p.call("load", "-q", "-i", archive) },
			nil,
		},
		{
			"push", func(peer) error { return os.RemoveAll(b.dir + "/registry/docker") },
			func(p peer) []string {
				return p.call(append(append([]string{"push", "-q"}, p.insecure...), name)...)
			},
			[]contender{{
				name: "skopeo", argv: []string{"skopeo", "copy", "-q", "--dest-tls-verify=false", "oci:" + b.dir + "/d/content:v1", "docker://" + name},
				before: func() error { return os.RemoveAll(b.dir + "/registry/docker") },
			}},
		},
	} {
		var contenders []contender
		for _, p := range all {
			c := contender{name: p.name, argv: part.argv(p)}
			if part.before != nil {
				c.before = func() error { return part.before(p) }
			}
			contenders = append(contenders, c)
		}
		if _, err := exec.LookPath("skopeo"); err == nil {
			contenders = append(contenders, part.others...)
		}
		if err := compare(part.what+", 10 layers of 20 MB", *pulls, contenders); err != nil {
			return err
		}
	}
	for _, p := range all {
		forget(p)
	}
	return nil
}

// commits compares the commit of a gigabyte with tar and a checksum, which is the least that a layer needs.
func (b *bench) commits(_ *registry.Registry, all []peer) error {
	root := b.dir + "/committed"
	if err := fill(root); err != nil {
		return err
	}
	defer os.RemoveAll(root)
	if err := os.RemoveAll(root + "/small"); err != nil {
		return err
	}
	if err := give(all[1:], "tiny", b.root); err != nil {
		return err
	}
	var contenders []contender
	for _, p := range all {
		attempt(p.call("rm", "-f", "one"))
		if err := do(p.make("create", "tiny", []string{"--name", "one"}, tiny.Program), p.call("cp", root+"/big", "one:/big")); err != nil {
			return err
		}
		contenders = append(contenders, contender{name: p.name, argv: p.call("commit", "one", "committed"), before: func() error {
			attempt(p.call("rmi", "-f", "committed"))
			return exec.Command("sync").Run()
		}})
	}
	contenders = append(contenders, contender{name: "tar | sha256sum", argv: []string{"sh", "-c", "tar -C " + root + " -c . | sha256sum"}})
	err := compare("commit of a gigabyte", *pulls, contenders)
	for _, p := range all {
		attempt(p.call("rm", "-f", "one"), p.call("rmi", "-f", "committed"))
	}
	return err
}

// imageLists compares images and rmi where many images are.
func (b *bench) imageLists(_ *registry.Registry, all []peer) error {
	many, one := b.dir+"/many.tar", b.dir+"/one.tar"
	if err := errors.Join(writeArchive(many, "many", *listed), writeArchive(one, "one", 1)); err != nil {
		return err
	}
	defer os.Remove(many)
	defer os.Remove(one)
	var lists, removals []contender
	for _, p := range all {
		if err := do(p.call("load", "-q", "-i", many)); err != nil {
			return err
		}
		lists = append(lists, contender{name: p.name, argv: p.call("images")})
		removals = append(removals, contender{name: p.name, argv: p.call("rmi", "one0:v1"), before: func() error { return do(p.call("load", "-q", "-i", one)) }})
	}
	if err := compare(fmt.Sprintf("images, %d images", *listed), *pulls, lists); err != nil {
		return err
	}
	return compare(fmt.Sprintf("rmi, %d images", *listed), *pulls, removals)
}

// writeArchive writes a docker-archive of n images that differ in their configuration alone.
func writeArchive(path, name string, n int) error {
	var layer, out bytes.Buffer
	w := tar.NewWriter(&layer)
	if err := errors.Join(w.WriteHeader(&tar.Header{Name: "file", Mode: 0o644}), w.Close()); err != nil {
		return err
	}
	diffID := sha256.Sum256(layer.Bytes())
	archive := tar.NewWriter(&out)
	var failed error
	add := func(name string, data []byte) {
		err := archive.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data))})
		_, writeErr := archive.Write(data)
		failed = errors.Join(failed, err, writeErr)
	}
	add("layer.tar", layer.Bytes())
	var manifest []any
	for i := range n {
		config, err := json.Marshal(map[string]any{
			"architecture": runtime.GOARCH, "os": "linux", "config": map[string]any{"Env": []string{fmt.Sprint("NAME=", name, i)}},
			"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(diffID[:])}},
		})
		if err != nil {
			return err
		}
		sum := sha256.Sum256(config)
		file := hex.EncodeToString(sum[:]) + ".json"
		add(file, config)
		manifest = append(manifest, map[string]any{"Config": file, "RepoTags": []string{fmt.Sprintf("%s%d:v1", name, i)}, "Layers": []string{"layer.tar"}})
	}
	data, err := json.Marshal(manifest)
	if err != nil {
		return err
	}
	add("manifest.json", data)
	if err := errors.Join(failed, archive.Close()); err != nil {
		return err
	}
	return os.WriteFile(path, out.Bytes(), 0o600)
}
