package transfer

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"berth/internal/errdef"
	"berth/internal/image"
	"berth/internal/image/content"
	"berth/internal/image/reference"
	"berth/internal/image/registry"
)

// me:secret, with bcrypt, as "htpasswd -B" writes it.
const htpasswd = "me:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n"

// program finds what a test needs, or skips it.
func program(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed", name)
	}
	return path
}

// dockerRegistry starts Debian's docker-registry on a free port of 127.0.0.1, and stops it after the test.
func dockerRegistry(t testing.TB, auth string) string {
	t.Helper()
	path := program(t, "docker-registry")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	dir := t.TempDir()
	config := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s/data}}\nhttp: {addr: %q}\n", dir, address)
	if auth != "" {
		if err := os.WriteFile(dir+"/htpasswd", []byte(auth), 0o600); err != nil {
			t.Fatal(err)
		}
		config += fmt.Sprintf("auth: {htpasswd: {realm: test, path: %s/htpasswd}}\n", dir)
	}
	if err := os.WriteFile(dir+"/config.yml", []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	var output bytes.Buffer
	cmd := exec.Command(path, "serve", dir+"/config.yml")
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	started, ended := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread() // Pdeathsig comes when the thread ends that started the process (prctl(2))
		defer close(ended)
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		if t.Failed() {
			t.Logf("docker-registry: %.2000s", output.String())
		}
	})
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if resp, err := http.Get("http://" + address + "/v2/"); err == nil {
			resp.Body.Close()
			return address
		}
		if time.Now().After(end) {
			t.Fatalf("docker-registry does not come up: %s", output.String())
		}
	}
}

// layout writes an OCI image layout with an image of the layers for each platform, and returns its directory.
func layout(t testing.TB, platforms []image.Platform, layers ...[]byte) string {
	t.Helper()
	dir := t.TempDir()
	store, err := content.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	put := func(mediaType string, data []byte) image.Descriptor {
		desc, err := store.PutReader(bytes.NewReader(data), mediaType)
		if err != nil {
			t.Fatal(err)
		}
		return desc
	}
	marshal := func(v any) []byte {
		raw, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	index := image.Index{SchemaVersion: 2, MediaType: image.MediaTypeIndex}
	for _, platform := range platforms {
		config := image.Image{Platform: platform, RootFS: image.RootFS{Type: "layers"}}
		m := image.Manifest{SchemaVersion: 2, MediaType: image.MediaTypeManifest}
		for _, layer := range layers {
			config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, image.DigestOf(layer))
			m.Layers = append(m.Layers, put(image.MediaTypeLayerGzip, compress(layer)))
		}
		m.Config = put(image.MediaTypeConfig, marshal(config))
		desc := put(image.MediaTypeManifest, marshal(m))
		desc.Platform = &platform
		index.Manifests = append(index.Manifests, desc)
	}
	if len(platforms) > 1 {
		index = image.Index{SchemaVersion: 2, Manifests: []image.Descriptor{put(image.MediaTypeIndex, marshal(index))}}
	}
	index.Manifests[0].Annotations = map[string]string{"org.opencontainers.image.ref.name": "tag"}
	if err := store.WriteIndex(index); err != nil {
		t.Fatal(err)
	}
	return dir
}

// layerTar is a layer of files, each with the given contents.
func layerTar(t testing.TB, files map[string][]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, data := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data)), Typeflag: tar.TypeReg, Format: tar.FormatPAX}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func skopeo(t testing.TB, args ...string) {
	t.Helper()
	policy := filepath.Join(t.TempDir(), "policy.json")
	if err := os.WriteFile(policy, []byte(`{"default":[{"type":"insecureAcceptAnything"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	args = append([]string{"--policy", policy, "copy", "-q", "--dest-tls-verify=false"}, args...)
	if out, err := exec.Command(program(t, "skopeo"), args...).CombinedOutput(); err != nil {
		t.Fatalf("skopeo: %v: %s", err, out)
	}
}

func TestPullFromDockerRegistry(t *testing.T) {
	program(t, "skopeo")
	host := image.HostPlatform()
	one := layout(t, []image.Platform{host}, layerTar(t, map[string][]byte{"a": noise(1, 3<<20)}), layerTar(t, map[string][]byte{"b": []byte("b")}))
	many := layout(t, []image.Platform{{OS: "linux", Architecture: "s390x"}, host}, layerTar(t, map[string][]byte{"c": noise(2, 1<<20)}))
	for _, auth := range []string{"", htpasswd} {
		address := dockerRegistry(t, auth)
		name := address + "/some/image"
		login := []string{}
		if auth != "" {
			login = []string{"--dest-creds", "me:secret"}
		}
		for _, tt := range []struct {
			tag, from string
			args      []string
		}{
			{"oci-gzip", one, []string{"--format", "oci"}},
			{"oci-zstd", one, []string{"--format", "oci", "--dest-compress-format", "zstd"}},
			{"docker-gzip", one, []string{"--format", "v2s2"}},
			{"index", many, []string{"--all"}},
			{"list", many, []string{"--all", "--format", "v2s2"}},
		} {
			skopeo(t, append(append(login, tt.args...), "oci:"+tt.from+":tag", "docker://"+name+":"+tt.tag)...)
			ref, err := reference.Parse(name + ":" + tt.tag)
			if err != nil {
				t.Fatal(err)
			}
			p := newPlace(t, t.TempDir())
			if auth != "" {
				if _, err := Pull(context.Background(), ref, p.Options); !errdef.Is(err, errdef.Denied) || errdef.HintOf(err) != "berth login "+address {
					t.Errorf("without a password: %v", err)
				}
				p.Registry = registry.New(registry.Options{Credentials: func(context.Context, reference.Reference) (registry.Credentials, error) {
					return registry.Credentials{Username: "me", Password: "secret"}, nil
				}})
				defer p.Registry.Close()
			}
			result, err := Pull(context.Background(), ref, p.Options)
			if err != nil || !result.Newer {
				t.Errorf("%s: %+v, %v", tt.tag, result, err)
				continue
			}
			if result, err = Pull(context.Background(), ref, p.Options); err != nil || result.Newer {
				t.Errorf("%s, again: %+v, %v", tt.tag, result, err)
			}
		}
	}
}
