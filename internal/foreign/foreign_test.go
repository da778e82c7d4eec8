package foreign

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"berth/internal/errdef"
	"berth/internal/image"

	"golang.org/x/sys/unix"
)

// layer is a tar of one file, and the record of all else in it.
func layer(t *testing.T) (tarred, record []byte) {
	t.Helper()
	var b, r bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: "a", Mode: 0o644, Size: 6}); err != nil {
		t.Fatal(err)
	}
	head := b.Len()
	if _, err := io.WriteString(w, "hello\n"); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	z := gzip.NewWriter(&r)
	for _, e := range []map[string]any{
		{"type": 2, "payload": b.Bytes()[:head]}, {"type": 1, "name": "a", "size": 6}, {"type": 2, "payload": b.Bytes()[head+6:]},
	} {
		if err := json.NewEncoder(z).Encode(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), r.Bytes()
}

func put(t *testing.T, root, name string, data []byte) {
	t.Helper()
	path := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// engines makes the directories of both engines, each with one image of one layer, and returns the places that tests change.
func engines(t *testing.T) (docker, podman string, tarred []byte, id image.Digest) {
	t.Helper()
	tarred, record := layer(t)
	diffID := image.DigestOf(tarred)
	config := []byte(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["` + string(diffID) + `"]}}`)
	id = image.DigestOf(config)

	docker = t.TempDir()
	put(t, docker, "image/overlay2/repositories.json", []byte(`{"Repositories":{"app":{"app:1":"`+string(id)+`","app@sha256:`+strings.Repeat("0", 64)+`":"`+string(id)+`"}}}`))
	put(t, docker, "image/overlay2/imagedb/content/sha256/"+id.Hex(), config)
	put(t, docker, "image/overlay2/layerdb/sha256/"+diffID.Hex()+"/cache-id", []byte("files"))
	put(t, docker, "image/overlay2/layerdb/sha256/"+diffID.Hex()+"/tar-split.json.gz", record)
	put(t, docker, "overlay2/files/diff/a", []byte("hello\n"))

	podman = t.TempDir()
	put(t, podman, "overlay-images/images.json", []byte(`[{"id":"`+id.Hex()+`","names":["localhost/app:1"],"layer":"top"}]`))
	put(t, podman, "overlay-images/"+id.Hex()+"/"+document(string(id)), config)
	put(t, podman, "overlay-layers/layers.json", []byte(`[{"id":"top","diff-digest":"`+string(diffID)+`"}]`))
	put(t, podman, "overlay-layers/top.tar-split.gz", record)
	put(t, podman, "overlay/top/diff/a", []byte("hello\n"))
	return docker, podman, tarred, id
}

// only reads the one image of an engine.
func only(t *testing.T, engine, root string) (Image, error) {
	t.Helper()
	s, err := Open(engine, root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	all, err := s.Images()
	if err == nil && len(all) != 1 {
		t.Fatalf("%s has %d images", engine, len(all))
	}
	if err != nil {
		return Image{}, err
	}
	return all[0], nil
}

func TestTarsArePutTogetherAgain(t *testing.T) {
	docker, podman, tarred, id := engines(t)
	for engine, root := range map[string]string{Docker: docker, Podman: podman} {
		im, err := only(t, engine, root)
		if err != nil || im.Err != nil || im.ID != id || len(im.Names) != 1 || im.Hidden || im.Pinned {
			t.Fatalf("%s: %+v, %v", engine, im, err)
		}
		var got bytes.Buffer
		if err := im.Layers[0].Tar(&got); err != nil || !bytes.Equal(got.Bytes(), tarred) {
			t.Errorf("%s: %d bytes, %v", engine, got.Len(), err)
		}
	}
}

func TestHostileDirectories(t *testing.T) {
	fifo := func(t *testing.T, path string) {
		t.Helper()
		_ = os.Remove(path)
		if err := unix.Mkfifo(path, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	link := func(t *testing.T, to, path string) {
		t.Helper()
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(to, path); err != nil {
			t.Fatal(err)
		}
	}
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		shows, engine, says string
		change              func(t *testing.T, root string, id image.Digest, diffID string)
	}{
		{"files elsewhere by a name", Docker, "cache-id is no name of a directory", func(t *testing.T, root string, _ image.Digest, diffID string) {
			put(t, root, "image/overlay2/layerdb/sha256/"+diffID+"/cache-id", []byte("../../etc"))
		}},
		{"files elsewhere by a link", Docker, "is or has a link, which is not followed", func(t *testing.T, root string, _ image.Digest, _ string) {
			link(t, filepath.Dir(secret), root+"/overlay2/files/diff")
		}},
		{"a file of the layer that is a link out of it", Docker, "there is no a", func(t *testing.T, root string, _ image.Digest, _ string) {
			link(t, secret, root+"/overlay2/files/diff/a")
		}},
		{"a file of the layer that is a pipe", Docker, "it is no regular file", func(t *testing.T, root string, _ image.Digest, _ string) {
			fifo(t, root+"/overlay2/files/diff/a")
		}},
		{"names in a pipe", Docker, "is not a regular file", func(t *testing.T, root string, _ image.Digest, _ string) {
			fifo(t, root+"/image/overlay2/repositories.json")
		}},
		{"another configuration", Docker, "sha256", func(t *testing.T, root string, id image.Digest, _ string) {
			put(t, root, "image/overlay2/imagedb/content/sha256/"+id.Hex(), []byte("{}"))
		}},
		{"a record that is not compressed", Docker, "cannot decompress", func(t *testing.T, root string, _ image.Digest, diffID string) {
			put(t, root, "image/overlay2/layerdb/sha256/"+diffID+"/tar-split.json.gz", []byte("{}"))
		}},
		{"no record", Podman, "there is no overlay-layers/top.tar-split.gz", func(t *testing.T, root string, _ image.Digest, _ string) {
			if err := os.Remove(root + "/overlay-layers/top.tar-split.gz"); err != nil {
				t.Fatal(err)
			}
		}},
		{"a layer on itself", Podman, "more layers than its configuration says", func(t *testing.T, root string, _ image.Digest, diffID string) {
			put(t, root, "overlay-layers/layers.json", []byte(`[{"id":"top","parent":"top","diff-digest":"sha256:`+diffID+`"}]`))
		}},
		{"a layer whose name is a way out", Podman, "is not there", func(t *testing.T, root string, id image.Digest, diffID string) {
			put(t, root, "overlay-images/images.json", []byte(`[{"id":"`+id.Hex()+`","names":["a"],"layer":"../x"}]`))
			put(t, root, "overlay-layers/layers.json", []byte(`[{"id":"../x","diff-digest":"sha256:`+diffID+`"}]`))
		}},
		{"a list that is none", Podman, "cannot read overlay-layers/layers.json", func(t *testing.T, root string, _ image.Digest, _ string) {
			put(t, root, "overlay-layers/layers.json", []byte(`{`))
		}},
	} {
		docker, podman, tarred, id := engines(t)
		root := docker
		if test.engine == Podman {
			root = podman
		}
		test.change(t, root, id, image.DigestOf(tarred).Hex())
		im, err := only(t, test.engine, root)
		if err == nil {
			err = im.Err
		}
		if err == nil {
			err = im.Layers[0].Tar(io.Discard)
		}
		if err == nil || !strings.Contains(err.Error(), test.says) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", test.shows, err)
		}
	}
}

func TestVolumes(t *testing.T) {
	unpack := func(name string) []byte {
		packed, err := os.ReadFile("testdata/" + name)
		if err != nil {
			t.Fatal(err)
		}
		r, err := gzip.NewReader(bytes.NewReader(packed))
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	anonymous := strings.Repeat("ab", 32)
	root := t.TempDir()
	put(t, root, "volumes/metadata.db", unpack("metadata.db.gz"))
	for _, name := range []string{"labelled", "mem", "named", anonymous, "old"} {
		if err := os.MkdirAll(root+"/volumes/"+name+"/_data", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	put(t, root, "volumes/old/opts.json", []byte(`{"MountType":"none","MountOpts":"bind","MountDevice":"/srv","Quota":{"Size":4096}}`))
	s, err := Open(Docker, root)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	all, err := s.Volumes(func(text string) { t.Error(text) })
	if err != nil || len(all) != 5 {
		t.Fatalf("%d volumes, %v", len(all), err)
	}
	byName := map[string]Volume{}
	for _, v := range all {
		byName[v.Name] = v
	}
	if !byName[anonymous].Anonymous || byName["named"].Anonymous || byName["labelled"].Labels["a"] != "b" || byName["mem"].Options["type"] != "tmpfs" {
		t.Errorf("%+v", byName)
	}
	if o := byName["old"].Options; o["device"] != "/srv" || o["size"] != "4096" {
		t.Errorf("opts.json: %v", o)
	}
	put(t, root, "volumes/metadata.db", []byte("no database"))
	if _, err := s.Volumes(nil); !errdef.Is(err, errdef.Corrupt) {
		t.Errorf("a damaged database: %v", err)
	}
}

func TestUsual(t *testing.T) {
	home := t.TempDir()
	env := func(name string) string { return map[string]string{"HOME": home}[name] }
	if got := Usual(Podman, true, env); got != home+"/.local/share/containers/storage" {
		t.Error(got)
	}
	put(t, home, ".config/containers/storage.conf", []byte("[storage]\ndriver = \"overlay\"\ngraphroot = \"/big/podman\"\n"))
	put(t, home, ".config/docker/daemon.json", []byte(`{"data-root":"/big/docker"}`))
	if got := Usual(Podman, true, env); got != "/big/podman" {
		t.Error(got)
	}
	if got := Usual(Docker, true, env); got != "/big/docker" {
		t.Error(got)
	}
}
