package hosts

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"berth/internal/errdef"
	"berth/internal/image"
	"berth/internal/image/reference"
	"berth/internal/image/registry"
)

// served is a server that counts what it is asked, and has the manifests that it is given.
type served struct {
	*httptest.Server
	mu        sync.Mutex
	manifests map[string]string
	asked     []string
}

const manifest = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[]}`

func (s *served) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	line := r.Method + " " + r.URL.RequestURI()
	if x := r.Header.Get("X-Key"); x != "" {
		line += " " + x
	}
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		line += " known"
	}
	s.asked = append(s.asked, line)
	if body, ok := s.manifests[r.URL.Path]; ok {
		w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
		_, _ = w.Write([]byte(body))
		return
	}
	if r.Method == http.MethodPut {
		w.WriteHeader(http.StatusCreated)
		return
	}
	http.NotFound(w, r)
}

func (s *served) took() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := strings.Join(s.asked, "\n")
	s.asked = nil
	return all
}

func serve(t *testing.T, secure bool, manifests ...string) *served {
	t.Helper()
	s := &served{manifests: map[string]string{}}
	for _, m := range manifests {
		s.manifests[m] = manifest
	}
	s.Server = httptest.NewUnstartedServer(s)
	if secure {
		s.Config.ErrorLog = nil
		s.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	return s
}

func (s *served) host() string {
	return strings.TrimPrefix(strings.TrimPrefix(s.URL, "https://"), "http://")
}

func (s *served) ca() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
}

// own makes a certificate and its key.
func own(t *testing.T) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}))
}

// place writes files and looks there alone.
func place(t *testing.T, files map[string]string) Files {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return Files{
		Dirs:       []string{filepath.Join(dir, "mine"), filepath.Join(dir, "certs.d")},
		Registries: []string{filepath.Join(dir, "registries.conf"), filepath.Join(dir, "more.conf")},
		Daemon:     []string{filepath.Join(dir, "daemon.json")},
	}
}

func resolve(t *testing.T, f Files, name string) error {
	t.Helper()
	ref, err := reference.Parse(name)
	if err != nil {
		t.Fatal(err)
	}
	c := registry.New(registry.Options{Host: f.Host, Patience: time.Millisecond})
	defer c.Close()
	_, _, err = c.Resolve(context.Background(), ref)
	return err
}

// sees is a client for a registry that the name of no machine leads to: only its mirrors answer.
const nowhere = "registry.invalid"

func TestMirrorsAreAskedInTheOrderOfTheFileAndTheRegistryLast(t *testing.T) {
	without, second, third := serve(t, false), serve(t, false, "/v2/team/app/manifests/1"), serve(t, false, "/v2/team/app/manifests/1")
	f := place(t, map[string]string{"certs.d/" + nowhere + "/hosts.toml": fmt.Sprintf(`
server = "https://%s"
[host."%s"]
[host."%s"]
capabilities = ["pull", "resolve"]
header = {x-key = ["one"]}
[host."%s"]
`, nowhere, without.URL, second.URL, third.URL)})
	if err := resolve(t, f, nowhere+"/team/app:1"); err != nil {
		t.Fatal(err)
	}
	if got, want := without.took(), "GET /v2/team/app/manifests/1?ns="+nowhere; got != want {
		t.Errorf("the first mirror was asked %q, not %q", got, want)
	}
	if got, want := second.took(), "GET /v2/team/app/manifests/1?ns="+nowhere+" one"; got != want {
		t.Errorf("the second mirror was asked %q, not %q", got, want)
	}
	if got := third.took(); got != "" {
		t.Errorf("the third mirror was asked %q", got)
	}
	if err := resolve(t, f, nowhere+"/team/app:2"); !errdef.Is(err, errdef.Unavailable) {
		t.Errorf("what no mirror has: %v", err)
	}
}

func TestAMirrorIsAskedForNothingItCannot(t *testing.T) {
	pull, push := serve(t, false, "/v2/app/manifests/1"), serve(t, false, "/v2/app/manifests/1")
	f := place(t, map[string]string{"certs.d/_default/hosts.toml": fmt.Sprintf(`
[host."%s"]
  capabilities = ["pull"]
[host."%s/v2"]
  capabilities = ["push"]
`, pull.URL, push.URL)})
	if err := resolve(t, f, nowhere+"/app:1"); !errdef.Is(err, errdef.Unavailable) {
		t.Errorf("nobody can say what the tag means, and yet: %v", err)
	}
	if got := pull.took() + push.took(); got != "" {
		t.Errorf("the mirrors were asked %q", got)
	}
	c := registry.New(registry.Options{Host: f.Host})
	defer c.Close()
	ref, _ := reference.Parse(nowhere + "/app:1")
	desc, raw := describe()
	if err := c.PutManifest(t.Context(), ref, "1", desc, raw); err != nil {
		t.Fatal(err)
	}
	if got, want := push.took(), "PUT /v2/app/manifests/1?ns="+nowhere; got != want {
		t.Errorf("a push asked %q, not %q", got, want)
	}
}

func TestCertificates(t *testing.T) {
	s := serve(t, true, "/v2/app/manifests/1")
	loopback := strings.Replace(s.host(), "127.0.0.1", "example.com", 1) // the certificate's name; the server is named by hosts.toml
	cert, key := own(t)
	toml := func(more string) string { return "server = \"" + s.URL + "\"\n" + more }
	for _, tt := range []struct {
		summary string
		files   map[string]string
		kind    errdef.Kind
		asked   string
	}{
		{"A server with a certificate of its own is not trusted", map[string]string{"HOST/hosts.toml": toml("")}, errdef.Denied, ""},
		{"skip_verify", map[string]string{"HOST/hosts.toml": toml("skip_verify = true")}, errdef.Unknown, "GET /v2/app/manifests/1"},
		{"ca", map[string]string{"HOST/hosts.toml": toml(`ca = "ca.pem"`), "HOST/ca.pem": s.ca()}, errdef.Unknown, "GET /v2/app/manifests/1"},
		{"A .crt beside hosts.toml", map[string]string{"HOST/hosts.toml": toml(""), "HOST/ca.crt": s.ca()}, errdef.Unknown, "GET /v2/app/manifests/1"},
		{"A pair", map[string]string{"HOST/hosts.toml": toml(`client = [["c.pem", "k.pem"]]`), "HOST/ca.crt": s.ca(), "HOST/c.pem": cert, "HOST/k.pem": key}, errdef.Unknown, "GET /v2/app/manifests/1 known"},
		{"A .cert and its .key", map[string]string{"HOST/hosts.toml": toml(""), "HOST/ca.crt": s.ca(), "HOST/a.cert": cert, "HOST/a.key": key}, errdef.Unknown, "GET /v2/app/manifests/1 known"},
		{"A certificate without its key", map[string]string{"HOST/a.cert": cert}, errdef.Invalid, ""},
		{"A key without its certificate", map[string]string{"HOST/a.key": key}, errdef.Invalid, ""},
		{"No certificate", map[string]string{"HOST/ca.crt": "x"}, errdef.Invalid, ""},
	} {
		files := map[string]string{}
		for name, text := range tt.files {
			files["certs.d/"+strings.Replace(name, "HOST", loopback, 1)] = text
		}
		err := resolve(t, place(t, files), loopback+"/app:1")
		if got := s.took(); errdef.KindOf(err) != tt.kind || got != tt.asked {
			t.Errorf("%s: asked %q, %v", tt.summary, got, err)
		}
	}
}

func TestDockersDaemonJSON(t *testing.T) {
	f := place(t, map[string]string{"daemon.json": `{"log-driver": "x", "insecure-registries": ["10.0.0.0/8", "plain.example.com:5000"], "registry-mirrors": ["https://mirror.example.com/"]}`})
	for name, insecure := range map[string]bool{"10.1.2.3:5000": true, "11.1.2.3": false, "plain.example.com:5000": true, "plain.example.com": false} {
		if h, err := f.Host(name); err != nil || h.Insecure != insecure || len(h.Mirrors) != 0 {
			t.Errorf("%s: %+v, %v", name, h, err)
		}
	}
	if h, err := f.Host("docker.io"); err != nil || len(h.Mirrors) != 1 || h.Mirrors[0].URL.String() != "https://mirror.example.com/v2/" || h.Mirrors[0].Can&registry.CanPush != 0 {
		t.Errorf("docker.io: %+v, %v", h, err)
	}
}

func TestPodmansRegistriesConf(t *testing.T) {
	mirror, instead := serve(t, false, "/v2/hub/library/debian/manifests/1"), serve(t, false, "/v2/there/app/manifests/1", "/v2/there/manifests/1")
	f := place(t, map[string]string{"registries.conf": `
unqualified-search-registries = ["docker.io"]
[[registry]]
prefix = "docker.io"
[[registry.mirror]]
location = "nobody.invalid"
`, "more.conf": fmt.Sprintf(`
[[registry]]
location = "docker.io"
[[registry.mirror]]
location = "%s/hub"
insecure = true
[[registry]]
prefix = "docker.io/team"
location = "%s/there"
insecure = true
[[registry]]
prefix = "docker.io/team/no"
blocked = true
[[registry]]
prefix = "*.blocked.example.com"
blocked = true
[[registry]]
location = "plain.example.com"
insecure = true
`, mirror.host(), instead.host())})
	if err := resolve(t, f, "debian:1"); err != nil || mirror.took() == "" {
		t.Errorf("a mirror: %v", err)
	}
	if err := resolve(t, f, "team/app:1"); err != nil || instead.took() == "" || mirror.took() != "" {
		t.Errorf("another location: %v", err)
	}
	if err := resolve(t, f, "team:1"); err == nil || instead.took() != "" { // library/team is not below it
		t.Errorf("a prefix is of whole parts: %v", err)
	}
	for _, name := range []string{"team/no:1", "team/no/x:1", "a.blocked.example.com/x:1"} {
		if err := resolve(t, f, name); !errdef.Is(err, errdef.Denied) || !strings.Contains(err.Error(), "registries.conf") {
			t.Errorf("%s is blocked: %v", name, err)
		}
	}
	if h, err := f.Host("plain.example.com"); err != nil || !h.Insecure {
		t.Errorf("insecure: %+v, %v", h, err)
	}
}

func TestFilesThatCannotBeUnderstoodAreErrors(t *testing.T) {
	for name, text := range map[string]string{
		"certs.d/x.example/hosts.toml":           `capabilities = ["fly"]`,
		"mine/x.example/hosts.toml":              `[host."ftp://a"]`,
		"certs.d/_default/hosts.toml":            `[host."https://a"]` + "\nskip_verfy = true",
		"certs.d/registry-x/../x.example/ca.crt": `nothing`,
		"registries.conf":                        "[[registry]\n",
		"daemon.json":                            "{",
	} {
		if h, err := place(t, map[string]string{name: text}).Host("x.example"); !errdef.Is(err, errdef.Invalid) {
			t.Errorf("%s: %+v, %v", name, h, err)
		}
	}
	for _, name := range []string{"..", "a/b", "../x"} {
		if _, err := place(t, nil).Host(name); err == nil {
			t.Errorf("%q is no host", name)
		}
	}
}

func describe() (image.Descriptor, []byte) {
	raw := []byte(manifest)
	return image.Descriptor{MediaType: image.MediaTypeManifest, Digest: image.DigestOf(raw), Size: int64(len(raw))}, raw
}

func FuzzHostsTOML(f *testing.F) {
	f.Add([]byte("server = \"https://a\"\n[host.\"https://b\"]\ncapabilities = [\"pull\"]\nheader = {a = \"b\"}\n"))
	f.Add([]byte("[host]\n\"https://b\" = {client = [[\"a\", \"b\"]], ca = [\"x\"], dial_timeout = \"1s\"}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := parseHosts(data, "x.example", "/nonexistent", trust{})
		if err != nil {
			return
		}
		for _, m := range h.Mirrors {
			if m.URL == nil || m.URL.Host == "" || m.URL.Scheme != "https" && m.URL.Scheme != "http" {
				t.Errorf("a mirror at %v", m.URL)
			}
		}
	})
}

func FuzzRegistriesConf(f *testing.F) {
	f.Add("[[registry]]\nprefix = \"x.example/a\"\nlocation = \"y\"\n[[registry.mirror]]\nlocation = \"z\"\n", "a/b")
	f.Fuzz(func(t *testing.T, text, path string) {
		tables, err := addTables(nil, []byte(text))
		if err != nil {
			return
		}
		h, err := fromTables(tables, "x.example", trust{})
		if err != nil {
			return
		}
		for _, m := range h.Mirrors {
			if m.Repository != nil {
				m.Repository(path)
			}
		}
	})
}

func TestWhatIsKeptForARegistryIsNotGivenToItsMirror(t *testing.T) {
	other := serve(t, false)
	var given []string
	mirror := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, ok := r.BasicAuth(); ok {
			given = append(given, user+":"+password+" "+r.Header.Get("X-Key"))
			http.Redirect(w, r, other.URL+"/elsewhere", http.StatusTemporaryRedirect)
			return
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	t.Cleanup(mirror.Close)
	f := place(t, map[string]string{"certs.d/" + nowhere + "/hosts.toml": fmt.Sprintf("[host.%q]\ncapabilities = [\"pull\", \"resolve\"]\nheader = {x-key = \"one\"}\n", mirror.URL)})
	var asked []string
	c := registry.New(registry.Options{Host: f.Host, Credentials: func(_ context.Context, ref reference.Reference) (registry.Credentials, error) {
		asked = append(asked, ref.Domain)
		return registry.Credentials{Username: "of", Password: ref.Domain}, nil
	}})
	defer c.Close()
	ref, err := reference.Parse(nowhere + "/app:1")
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = c.Resolve(t.Context(), ref)
	host := strings.TrimPrefix(mirror.URL, "http://")
	if err == nil || len(asked) != 1 || asked[0] != host || len(given) != 1 || given[0] != "of:"+host+" one" {
		t.Errorf("credentials were looked up for %q, the mirror got %q: %v", asked, given, err)
	}
	if got := other.took(); strings.Contains(got, "one") || got == "" {
		t.Errorf("the host that the mirror redirects to was asked %q", got)
	}
}
