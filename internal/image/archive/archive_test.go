package archive

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"berth/internal/errdef"
	"berth/internal/image"
	"berth/internal/image/store"
	"berth/internal/image/unpack"
)

type entry struct {
	name, content, link string
}

func makeTar(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Mode: 0o644, Size: int64(len(e.content)), Typeflag: tar.TypeReg, ModTime: time.Unix(1, 0)}
		switch {
		case e.link != "":
			h.Typeflag, h.Linkname = tar.TypeSymlink, e.link
		case strings.HasSuffix(e.name, "/"):
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(w, e.content)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func openStore(t testing.TB) *store.Store {
	t.Helper()
	s, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// options let the tests run without root.
func options() Options {
	return Options{Unpack: unpack.Options{OwnersIgnored: true, SkipDevices: true, UserXattr: true}}
}

func load1(t testing.TB, s *store.Store, data []byte) []Loaded {
	t.Helper()
	loaded, err := Load(t.Context(), s, bytes.NewReader(data), options())
	if err != nil {
		t.Fatal(err)
	}
	return loaded
}

func doc(t testing.TB, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func configOf(t testing.TB, layers ...string) string {
	c := image.Image{Platform: image.HostPlatform(), RootFS: image.RootFS{Type: "layers"}}
	c.Config.Cmd = []string{"/hello"}
	for _, l := range layers {
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, image.DigestOf([]byte(l)))
	}
	return doc(t, c)
}

// legacy is a docker-archive as docker before 25 and skopeo write it, with a layer that is a symlink.
func legacy(t testing.TB, tag string) []byte {
	layer := string(makeTar(t, entry{name: "hello", content: "hello"}))
	config := configOf(t, layer, layer)
	return makeTar(t,
		entry{name: "aaa/"}, entry{name: "aaa/VERSION", content: "1.0"}, entry{name: "aaa/json", content: "{}"}, entry{name: "aaa/layer.tar", content: layer},
		entry{name: "bbb/layer.tar", link: "../aaa/layer.tar"},
		entry{name: "c.json", content: config},
		entry{name: "manifest.json", content: doc(t, []dockerEntry{{"c.json", []string{tag}, []string{"aaa/layer.tar", "bbb/layer.tar"}}})})
}

func TestLoadLegacyDockerArchive(t *testing.T) {
	data := legacy(t, "busybox:1")
	var gz, zs bytes.Buffer
	g := gzip.NewWriter(&gz)
	g.Write(data)
	g.Close()
	z, _ := zstd.NewWriter(&zs)
	z.Write(data)
	z.Close()
	for name, data := range map[string][]byte{"plain": data, "gzip": gz.Bytes(), "zstd": zs.Bytes()} {
		t.Run(name, func(t *testing.T) {
			s := openStore(t)
			if loaded := load1(t, s, data); len(loaded) != 1 || loaded[0].Name != "busybox:1" {
				t.Fatalf("%+v", loaded)
			}
			img, err := s.Resolve("busybox:1")
			if err != nil {
				t.Fatal(err)
			}
			trees, err := s.Layers.Stack(img.Chain)
			if err != nil || len(trees) != 2 {
				t.Fatal(trees, err)
			}
			if hello, err := os.ReadFile(filepath.Join(trees[0], "hello")); err != nil || string(hello) != "hello" {
				t.Errorf("%q, %v", hello, err)
			}
			if img.ID != image.DigestOf([]byte(configOf(t, string(makeTar(t, entry{name: "hello", content: "hello"})), string(makeTar(t, entry{name: "hello", content: "hello"}))))) {
				t.Errorf("the ID is %s", img.ID)
			}
		})
	}
}

func TestSaveAndLoadAgain(t *testing.T) {
	s := openStore(t)
	load1(t, s, legacy(t, "busybox:1"))
	if _, err := s.Tag("busybox:1", "busybox:2"); err != nil {
		t.Fatal(err)
	}
	var first, second bytes.Buffer
	for _, b := range []*bytes.Buffer{&first, &second} {
		if err := Save(t.Context(), s, []string{"busybox"}, nil, b); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("two archives of the same images differ")
	}
	again := openStore(t)
	if loaded := load1(t, again, first.Bytes()); len(loaded) != 2 {
		t.Errorf("%+v", loaded)
	}
	a, err1 := s.Resolve("busybox:1")
	b, err2 := again.Resolve("busybox:2")
	if err1 != nil || err2 != nil || a.ID != b.ID || a.Record.Manifest.Digest != b.Record.Manifest.Digest {
		t.Errorf("%v %v, %v %v", a.ID, err1, b.ID, err2)
	}
	// By ID there is no name.
	first.Reset()
	if err := Save(t.Context(), s, []string{a.ID.Short()}, nil, &first); err != nil {
		t.Fatal(err)
	}
	if loaded := load1(t, openStore(t), first.Bytes()); len(loaded) != 1 || loaded[0].Name != "" || loaded[0].ID != a.ID {
		t.Errorf("%+v", loaded)
	}
	if err := Save(t.Context(), s, []string{"missing"}, nil, io.Discard); !errdef.Is(err, errdef.NotFound) {
		t.Error(err)
	}
}

func skopeo(t *testing.T, args ...string) {
	t.Helper()
	path, err := exec.LookPath("skopeo")
	if err != nil {
		t.Skip("needs skopeo: it reads what we write and writes what we read")
	}
	out, err := exec.CommandContext(t.Context(), path, append([]string{"--insecure-policy", "--tmpdir", t.TempDir()}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("skopeo %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// What we save skopeo reads in both forms, and what skopeo writes of it we load as the same image.
func TestRoundTripWithSkopeo(t *testing.T) {
	s := openStore(t)
	load1(t, s, legacy(t, "busybox:1"))
	img, err := s.Resolve("busybox:1")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	ours := filepath.Join(dir, "ours.tar")
	f, err := os.Create(ours)
	if err != nil {
		t.Fatal(err)
	}
	if err := Save(t.Context(), s, []string{"busybox:1"}, nil, f); err != nil {
		t.Fatal(err)
	}
	f.Close()
	for _, from := range []string{"docker-archive:" + ours + ":busybox:1", "oci-archive:" + ours + ":1"} {
		for i, to := range []string{"docker-archive:%s:docker.io/library/busybox:3", "oci-archive:%s:docker.io/library/busybox:3"} {
			theirs := filepath.Join(dir, fmt.Sprint(strings.Count(from, "oci"), i, ".tar"))
			skopeo(t, "copy", from, fmt.Sprintf(to, theirs))
			data, err := os.ReadFile(theirs)
			if err != nil {
				t.Fatal(err)
			}
			again := openStore(t)
			loaded := load1(t, again, data)
			got, err := again.Resolve("busybox:3")
			if err != nil || len(loaded) != 1 {
				t.Fatalf("%s -> %s: %+v, %v", from, to, loaded, err)
			}
			if fmt.Sprint(got.Chain) != fmt.Sprint(img.Chain) || fmt.Sprint(got.Config.Config.Cmd) != "[/hello]" {
				t.Errorf("%s -> %s: layers %v, want %v", from, to, got.Chain, img.Chain)
			}
		}
	}
	// The content itself is a layout that others read.
	skopeo(t, "inspect", "--raw", "oci:"+s.Content.Dir()+":1")
}

func layout(t testing.TB, index string, blobs ...string) []byte {
	entries := []entry{{name: "oci-layout", content: `{"imageLayoutVersion":"1.0.0"}`}, {name: "index.json", content: index}}
	for _, b := range blobs {
		entries = append(entries, entry{name: "blobs/sha256/" + image.DigestOf([]byte(b)).Hex(), content: b})
	}
	return makeTar(t, entries...)
}

func descriptorOf(mediaType, data string) image.Descriptor {
	return image.Descriptor{MediaType: mediaType, Digest: image.DigestOf([]byte(data)), Size: int64(len(data))}
}

func TestLoadLayoutWithNestedIndex(t *testing.T) {
	layer := string(makeTar(t, entry{name: "hello", content: "hello"}))
	config := configOf(t, layer)
	manifest := doc(t, image.Manifest{SchemaVersion: 2, Config: descriptorOf(image.MediaTypeConfig, config), Layers: []image.Descriptor{descriptorOf(image.MediaTypeLayer, layer)}})
	host := image.HostPlatform()
	m := descriptorOf(image.MediaTypeManifest, manifest)
	m.Platform = &host
	other := descriptorOf(image.MediaTypeManifest, "not in the archive")
	other.Platform = &image.Platform{OS: "linux", Architecture: "s390x"}
	inner := doc(t, image.Index{SchemaVersion: 2, MediaType: image.MediaTypeIndex, Manifests: []image.Descriptor{other, m}})
	top := descriptorOf(image.MediaTypeIndex, inner)
	top.Annotations = map[string]string{"io.containerd.image.name": "docker.io/library/multi:1", "org.opencontainers.image.ref.name": "1"}
	s := openStore(t)
	loaded := load1(t, s, layout(t, doc(t, image.Index{SchemaVersion: 2, Manifests: []image.Descriptor{top}}), inner, manifest, config, layer))
	if len(loaded) != 1 || loaded[0].Name != "multi:1" {
		t.Fatalf("%+v", loaded)
	}
	img, err := s.Resolve("multi:1")
	if err != nil || img.Target.Digest != top.Digest || img.Record.Manifest.Digest != m.Digest {
		t.Errorf("%+v, %v", img.Record, err)
	}
	if _, err := s.Sweep(t.Context(), store.Roots{}, 0); err != nil || !s.Content.Has(top.Digest) {
		t.Errorf("the index is swept: %v", err)
	}
}

// Each archive is refused, and nothing has a name after it. The line that makes it pass follows the summary.
func TestLoadRefuses(t *testing.T) {
	layer := string(makeTar(t, entry{name: "a", content: "x"}))
	config := configOf(t, layer)
	good := doc(t, image.Manifest{SchemaVersion: 2, Config: descriptorOf(image.MediaTypeConfig, config), Layers: []image.Descriptor{descriptorOf(image.MediaTypeLayer, layer)}})
	indexOf := func(ds ...image.Descriptor) string {
		for i := range ds {
			ds[i].Annotations = map[string]string{"io.containerd.image.name": fmt.Sprintf("docker.io/library/evil:%d", i)}
		}
		return doc(t, image.Index{SchemaVersion: 2, Manifests: ds})
	}
	manifestJSON := func(config string, layers ...string) string {
		return doc(t, []dockerEntry{{config, []string{"evil:1"}, layers}})
	}
	liar := configOf(t, "something else")
	nested := good
	var nest []string
	for range image.MaxIndexDepth + 1 {
		kind := image.MediaTypeIndex
		if nested == good {
			kind = image.MediaTypeManifest
		}
		d := descriptorOf(kind, nested)
		host := image.HostPlatform()
		d.Platform = &host
		nest = append(nest, nested)
		nested = doc(t, image.Index{SchemaVersion: 2, MediaType: image.MediaTypeIndex, Manifests: []image.Descriptor{d}})
	}
	nest = append(nest, nested)
	confused := strings.Replace(good, `{"schemaVersion":2`, `{"schemaVersion":2,"manifests":[]`, 1)
	for _, test := range []struct {
		summary string
		data    []byte
	}{
		{"an empty tar: load", makeTar(t)},
		{"no tar: receive", []byte(strings.Repeat("x", 2000))},
		{"nothing: load", nil},
		{"a layer that is not its diff ID: unpack.applyTo", makeTar(t, entry{name: "c", content: liar}, entry{name: "l", content: layer}, entry{name: "manifest.json", content: manifestJSON("c", "l")})},
		{"no layers: CheckRunnable in store.load", makeTar(t, entry{name: "c", content: config}, entry{name: "manifest.json", content: manifestJSON("c")})},
		{"more layers than diff IDs: CheckLayers in store.load", makeTar(t, entry{name: "c", content: config}, entry{name: "l", content: layer}, entry{name: "manifest.json", content: manifestJSON("c", "l", "l")})},
		{"a config outside: files.find", makeTar(t, entry{name: "l", content: layer}, entry{name: "manifest.json", content: manifestJSON("../../../../etc/passwd", "l")})},
		{"a layer that is a symlink outside: files.find", makeTar(t, entry{name: "c", content: config}, entry{name: "l", link: "/etc/passwd"}, entry{name: "manifest.json", content: manifestJSON("c", "l")})},
		{"symlinks in a circle: maxLinks", makeTar(t, entry{name: "c", content: config}, entry{name: "l", link: "m"}, entry{name: "m", link: "l"}, entry{name: "manifest.json", content: manifestJSON("c", "l")})},
		{"a name that is none: reference.Parse", makeTar(t, entry{name: "c", content: config}, entry{name: "l", content: layer}, entry{name: "manifest.json", content: doc(t, []dockerEntry{{"c", []string{"Evil\x1b[31m"}, []string{"l"}}})})},
		{"a blob under another's digest: content.PutReader", makeTar(t, entry{name: "index.json", content: indexOf(descriptorOf(image.MediaTypeManifest, good))}, entry{name: "blobs/sha256/" + descriptorOf("", good).Digest.Hex(), content: confused})},
		{"a manifest that is an index, too (CVE-2021-41190): MediaTypeOf", layout(t, indexOf(descriptorOf(image.MediaTypeManifest, confused)), confused, config, layer)},
		{"a manifest announced as an index: MediaTypeOf", layout(t, indexOf(descriptorOf(image.MediaTypeIndex, good)), good, config, layer)},
		{"a layer that is missing: content.Open", layout(t, indexOf(descriptorOf(image.MediaTypeManifest, good)), good, config)},
		{"indexes nested too deep: choose", layout(t, indexOf(descriptorOf(image.MediaTypeIndex, nested)), append(nest, config, layer)...)},
		{"the first image is good, the second is not: load", makeTar(t, entry{name: "c", content: config}, entry{name: "d", content: liar}, entry{name: "l", content: layer}, entry{name: "manifest.json", content: doc(t, []dockerEntry{{"c", []string{"evil:1"}, []string{"l"}}, {"d", []string{"evil:2"}, []string{"l"}}})})},
		{"cut off: receive", legacy(t, "evil:1")[:2000]},
		{"a sha512 blob of other bytes: content.Commit", makeTar(t, entry{name: "blobs/sha512/" + strings.Repeat("a", 128), content: "x"}, entry{name: "index.json", content: indexOf()})},
	} {
		t.Run(test.summary, func(t *testing.T) {
			s := openStore(t)
			loaded, err := Load(t.Context(), s, bytes.NewReader(test.data), options())
			if err == nil {
				t.Errorf("loaded %+v", loaded)
			}
			if all, listErr := s.List(); listErr != nil || len(all) != 0 {
				t.Errorf("named: %+v, %v", all, listErr)
			}
			if layers, listErr := s.Layers.List(); listErr != nil || len(layers) > 1 || len(layers) == 1 && !strings.HasPrefix(test.summary, "the first") {
				t.Errorf("unpacked: %v, %v", layers, listErr)
			}
			if _, err := s.Sweep(t.Context(), store.Roots{}, 0); err != nil {
				t.Error(err)
			}
			left := 0
			_ = filepath.Walk(filepath.Join(s.Content.Dir(), "blobs"), func(_ string, info os.FileInfo, _ error) error {
				if info.Mode().IsRegular() {
					left++
				}
				return nil
			})
			if left != 0 {
				t.Errorf("%d blobs are left after a sweep", left)
			}
		})
	}
}

func TestImport(t *testing.T) {
	s := openStore(t)
	rootfs := makeTar(t, entry{name: "bin/"}, entry{name: "bin/sh", content: "x"})
	when := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	opt := ImportOptions{Options: options(), Name: "mine", Message: "from a test", Created: when, Changes: []string{`CMD ["sh"]`, "ENV A=b"}}
	record, err := Import(t.Context(), s, bytes.NewReader(rootfs), opt)
	if err != nil {
		t.Fatal(err)
	}
	img, err := s.Resolve("mine")
	if err != nil || img.ID != record.ID || img.Config.RootFS.DiffIDs[0] != image.DigestOf(rootfs) || img.Config.Config.Cmd[0] != "sh" || !img.Config.Created.Equal(when) {
		t.Errorf("%+v, %v", img, err)
	}
	opt.Changes = []string{"RUN true"}
	if _, err := Import(t.Context(), s, bytes.NewReader(rootfs), opt); !errdef.Is(err, errdef.Invalid) {
		t.Errorf("RUN: %v", err)
	}
	opt.Changes, opt.Name = nil, "broken"
	if _, err := Import(t.Context(), s, strings.NewReader(strings.Repeat("x", 1024)), opt); err == nil {
		t.Error("no tar was imported")
	}
	if _, err := s.Resolve("broken"); !errdef.Is(err, errdef.NotFound) {
		t.Errorf("a failed import has a name: %v", err)
	}
}

func TestChange(t *testing.T) {
	for _, test := range []struct {
		in   string
		want string // JSON of the configuration, "" for an error
	}{
		{`CMD ["a", "b c"]`, `{"Cmd":["a","b c"]}`},
		{`cmd a "b c"`, `{"Cmd":["/bin/sh","-c","a \"b c\""]}`},
		{`ENTRYPOINT []`, `{}`},
		{`ENTRYPOINT ["/e"]`, `{"Entrypoint":["/e"]}`},
		{`ENV A=1 B="two words" C='$x' D=a\ b`, `{"Env":["A=1","B=two words","C=$x","D=a b"]}`},
		{`ENV A some words`, `{"Env":["A=some words"]}`},
		{`ENV A`, ``},
		{`ENV A="x`, ``},
		{`ENV =x`, ``},
		{`EXPOSE 80 53/udp 8000-8001`, `{"ExposedPorts":{"53/udp":{},"80/tcp":{},"8000/tcp":{},"8001/tcp":{}}}`},
		{`EXPOSE 0`, ``},
		{`EXPOSE 90-80`, ``},
		{`EXPOSE 80/quic`, ``},
		{`LABEL a=b "c d"=e`, `{"Labels":{"a":"b","c d":"e"}}`},
		{`USER 1000:1000`, `{"User":"1000:1000"}`},
		{`VOLUME /a /b`, `{"Volumes":{"/a":{},"/b":{}}}`},
		{`VOLUME ["/a b"]`, `{"Volumes":{"/a b":{}}}`},
		{`WORKDIR a/../b`, `{"WorkingDir":"/b"}`},
		{`STOPSIGNAL SIGINT`, `{"StopSignal":"SIGINT"}`},
		{`ONBUILD RUN x`, `{"OnBuild":["RUN x"]}`},
		{`ONBUILD FROM x`, ``},
		{`HEALTHCHECK NONE`, `{"Healthcheck":{"Test":["NONE"]}}`},
		{`HEALTHCHECK --interval=5s --retries=2 CMD curl x`, `{"Healthcheck":{"Test":["CMD-SHELL","curl x"],"Interval":5000000000,"Retries":2}}`},
		{`HEALTHCHECK CMD ["a"]`, `{"Healthcheck":{"Test":["CMD","a"]}}`},
		{`HEALTHCHECK --interval=5 CMD x`, ``},
		{`HEALTHCHECK x`, ``},
		{`RUN x`, ``},
		{`CMD`, ``},
		{``, ``},
		{"USER a\x00b", ``},
	} {
		var c image.Config
		err := Change(&c, test.in)
		if test.want == "" {
			if !errdef.Is(err, errdef.Invalid) {
				t.Errorf("%q: %s, %v", test.in, doc(t, c), err)
			}
			continue
		}
		if got := doc(t, c); err != nil || got != test.want {
			t.Errorf("%q: %s, %v; want %s", test.in, got, err, test.want)
		}
	}
}

func FuzzLoad(f *testing.F) {
	f.Add(legacy(f, "a:1"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := openStore(t)
		loaded, err := Load(t.Context(), s, bytes.NewReader(data), options())
		all, listErr := s.List()
		if listErr != nil || err != nil && len(loaded) == 0 && len(all) != 0 {
			t.Fatalf("%v; named after an error (%v): %+v", listErr, err, all)
		}
		for _, r := range all {
			if _, err := s.Load(r); err != nil {
				t.Fatalf("a named image cannot be read: %v", err)
			}
		}
	})
}
