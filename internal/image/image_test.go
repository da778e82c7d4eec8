package image

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/internal/errdef"
)

const (
	hexA = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	hexB = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

func TestParseDigest(t *testing.T) {
	for in, kind := range map[string]errdef.Kind{
		"sha256:" + hexA:                  errdef.Unknown,
		"sha512:" + hexA + hexB:           errdef.Unknown,
		"sha256:" + strings.ToUpper(hexA): errdef.Invalid,
		"sha256:" + hexA[1:]:              errdef.Invalid,
		"sha256:" + hexA + "a":            errdef.Invalid,
		"sha256:" + hexA[:63] + "/":       errdef.Invalid,
		"sha512:" + hexA:                  errdef.Invalid,
		"sha384:" + hexA:                  errdef.Unsupported,
		"md5:" + hexA[:32]:                errdef.Unsupported,
		hexA:                              errdef.Invalid,
		"":                                errdef.Invalid,
		":":                               errdef.Unsupported,
	} {
		if _, err := ParseDigest(in); errdef.KindOf(err) != kind || (err == nil) != (kind == errdef.Unknown) {
			t.Errorf("ParseDigest(%q): %v", in, err)
		}
	}
}

func TestChainIDsAreImageSpecs(t *testing.T) {
	ids := []Digest{"sha256:" + hexA, "sha256:" + hexB, "sha256:" + hexA}
	var theirs []digest.Digest
	for _, id := range ids {
		theirs = append(theirs, digest.Digest(id))
	}
	for i, id := range ChainIDs(ids) {
		if want := identity.ChainID(append([]digest.Digest(nil), theirs[:i+1]...)); string(id) != string(want) {
			t.Errorf("chain ID %d is %s, want %s", i, id, want)
		}
	}
}

// The types here and those of image-spec write the same JSON and read each other's.
func TestJSONIsImageSpecs(t *testing.T) {
	when := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	d := v1.Descriptor{
		MediaType: MediaTypeLayer, Digest: "sha256:" + hexA, Size: 7, URLs: []string{"u"}, Data: []byte("x"),
		Annotations: map[string]string{"k": "v"}, ArtifactType: "a",
		Platform: &v1.Platform{Architecture: "arm64", OS: "linux", OSVersion: "1", OSFeatures: []string{"f"}, Variant: "v8"},
	}
	for _, test := range []struct{ theirs, ours, theirsAgain any }{
		{d, &Descriptor{}, &v1.Descriptor{}},
		{
			v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: MediaTypeIndex, ArtifactType: "a", Manifests: []v1.Descriptor{d}, Subject: &d, Annotations: map[string]string{"k": "v"}},
			&Index{},
			&v1.Index{},
		},
		{
			v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: MediaTypeManifest, ArtifactType: "a", Config: d, Layers: []v1.Descriptor{d}, Subject: &d, Annotations: map[string]string{"k": "v"}},
			&Manifest{},
			&v1.Manifest{},
		},
		{v1.Manifest{}, &Manifest{}, &v1.Manifest{}},
		{
			v1.Image{
				Created: &when, Author: "me", Platform: *d.Platform,
				Config: v1.ImageConfig{
					User: "u", ExposedPorts: map[string]struct{}{"80/tcp": {}}, Env: []string{"a=b"}, Entrypoint: []string{"e"}, Cmd: []string{"c"},
					Volumes: map[string]struct{}{"/v": {}}, WorkingDir: "/w", Labels: map[string]string{"l": "m"}, StopSignal: "TERM", ArgsEscaped: true, //lint:ignore SA1019 the field is there
				},
				RootFS:  v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{d.Digest}},
				History: []v1.History{{Created: &when, CreatedBy: "b", Author: "a", Comment: "c", EmptyLayer: true}},
			},
			&Image{},
			&v1.Image{},
		},
		{v1.Image{}, &Image{}, &v1.Image{}},
	} {
		theirs, err := json.Marshal(test.theirs)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(theirs, test.ours); err != nil {
			t.Fatal(err)
		}
		ours, err := json.Marshal(test.ours)
		if err != nil {
			t.Fatal(err)
		}
		if string(ours) != string(theirs) {
			t.Errorf("%T\nours   %s\ntheirs %s", test.theirs, ours, theirs)
		}
		if err := json.Unmarshal(ours, test.theirsAgain); err != nil {
			t.Fatal(err)
		}
		if again := reflect.ValueOf(test.theirsAgain).Elem().Interface(); !reflect.DeepEqual(again, test.theirs) {
			t.Errorf("%T: %+v came back as %+v", test.theirs, test.theirs, again)
		}
	}
}

const (
	aConfig = `{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:` + hexA + `","size":2}`
	aLayer  = `{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"sha256:` + hexB + `","size":3}`
)

func TestParseManifest(t *testing.T) {
	good := `{"schemaVersion":2,"config":` + aConfig + `,"layers":[` + aLayer + `,` + aLayer + `],"new":{"field":1}}`
	m, err := ParseManifest([]byte(good), MediaTypeManifest)
	if err != nil || len(m.Layers) != 2 || m.MediaType != MediaTypeManifest {
		t.Fatalf("a manifest with a layer twice: %+v, %v", m, err)
	}
	if _, err := ParseManifest([]byte(good), ""); err != nil {
		t.Errorf("a manifest of no declared type: %v", err)
	}
	if _, err := ParseManifest([]byte(good), MediaTypeManifest+"; charset=utf-8"); err != nil {
		t.Errorf("a Content-Type with a parameter: %v", err)
	}
	for _, test := range []struct {
		summary, declared, data string
		kind                    errdef.Kind
	}{
		// The line that makes it pass: the case "manifests && (layers || config)" of MediaTypeOf.
		{"also an index (CVE-2021-41190)", MediaTypeManifest, `{"schemaVersion":2,"config":` + aConfig + `,"layers":[],"manifests":[]}`, errdef.Invalid},
		// fields.has works on lower-case names, because encoding/json takes "Manifests" for "manifests".
		{"also an index in other letters", MediaTypeManifest, `{"schemaVersion":2,"config":` + aConfig + `,"layers":[],"Manifests":[]}`, errdef.Invalid},
		// The case own != declared of MediaTypeOf.
		{"announced as something else", MediaTypeManifest, `{"schemaVersion":2,"mediaType":"` + MediaTypeIndex + `","manifests":[]}`, errdef.Invalid},
		{"says index, has layers", "", `{"schemaVersion":2,"mediaType":"` + MediaTypeIndex + `","layers":[]}`, errdef.Invalid},
		{"says manifest, has manifests", "", `{"schemaVersion":2,"mediaType":"` + MediaTypeManifest + `","manifests":[]}`, errdef.Invalid},
		// The check for a repeated name in scan.
		{"a field twice", "", `{"schemaVersion":2,"config":` + aConfig + `,"layers":[],"layers":[` + aLayer + `]}`, errdef.Invalid},
		{"a field twice in other letters", "", `{"schemaVersion":2,"config":` + aConfig + `,"layers":[],"LAYERS":[` + aLayer + `]}`, errdef.Invalid},
		{"schema 1", "", `{"schemaVersion":1,"fsLayers":[],"signatures":[]}`, errdef.Unsupported},
		{"schema 3", "", `{"schemaVersion":3,"config":` + aConfig + `,"layers":[]}`, errdef.Unsupported},
		{"unknown media type", "", `{"schemaVersion":2,"mediaType":"text/html"}`, errdef.Unsupported},
		{"a negative size", "", `{"schemaVersion":2,"config":` + aConfig + `,"layers":[{"digest":"sha256:` + hexA + `","size":-1}]}`, errdef.Invalid},
		{"a digest that is a path", "", `{"schemaVersion":2,"config":` + aConfig + `,"layers":[{"digest":"sha256:../../etc/passwd"}]}`, errdef.Invalid},
		{"no config", "", `{"schemaVersion":2,"config":null,"layers":[]}`, errdef.Invalid},
		{"a trailing object", "", `{"schemaVersion":2,"config":` + aConfig + `,"layers":[]}{}`, errdef.Invalid},
		{"truncated", "", good[:len(good)-1], errdef.Invalid},
		{"an array", "", `[]`, errdef.Invalid},
		{"nothing", "", ``, errdef.Invalid},
		{"also an index with a long s", MediaTypeManifest, `{"schemaVersion":2,"config":` + aConfig + `,"layers":[],"manife\u017fts":[]}`, errdef.Invalid},
		{"also an index, its name in escapes", MediaTypeManifest, `{"schemaVersion":2,"config":` + aConfig + `,"layers":[],"\u006danifests":[]}`, errdef.Invalid},
		{"a string", "", `"x"`, errdef.Invalid},
		{"a number", "", `1`, errdef.Invalid},
		{"deeply nested", "", `{"x":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`, errdef.Invalid},
		{"too large", "", `{"x":"` + strings.Repeat("x", MaxManifest) + `"}`, errdef.Invalid},
		{"too many layers", "", `{"schemaVersion":2,"config":` + aConfig + `,"layers":[` + strings.Repeat(aLayer+",", MaxLayers) + aLayer + `]}`, errdef.Unsupported},
	} {
		t.Run(test.summary, func(t *testing.T) {
			if m, err := ParseManifest([]byte(test.data), test.declared); !errdef.Is(err, test.kind) {
				t.Errorf("got %+v, %v (%v), want %v", m, err, errdef.KindOf(err), test.kind)
			}
		})
	}
}

// However it is announced: each case of MediaTypeOf's first switch.
func TestMediaTypeOfRefusesWhatIsTwoThings(t *testing.T) {
	both := `{"schemaVersion":2,"manifests":[],"config":` + aConfig + `,"layers":[]}`
	for _, test := range []struct{ summary, declared, data string }{
		{"both, announced as nothing", "", both},
		{"both, announced as a manifest", MediaTypeManifest, both},
		{"both, announced as an index", MediaTypeIndex, both},
		{"an index announced as a manifest", MediaTypeManifest, `{"schemaVersion":2,"mediaType":"` + MediaTypeIndex + `","manifests":[]}`},
		{"a manifest announced as an index", MediaTypeIndex, `{"schemaVersion":2,"mediaType":"` + MediaTypeManifest + `","config":` + aConfig + `,"layers":[]}`},
		{"OCI's announced as docker's", MediaTypeDockerManifest, `{"schemaVersion":2,"mediaType":"` + MediaTypeManifest + `","config":` + aConfig + `,"layers":[]}`},
	} {
		if got, err := MediaTypeOf([]byte(test.data), test.declared); !errdef.Is(err, errdef.Invalid) {
			t.Errorf("%s: taken for %q, %v", test.summary, got, err)
		}
	}
}

func TestCheckLayers(t *testing.T) {
	d := Descriptor{MediaType: MediaTypeLayerGzip, Digest: "sha256:" + hexA}
	config := Descriptor{MediaType: MediaTypeConfig}
	two := Image{RootFS: RootFS{Type: "layers", DiffIDs: []Digest{"sha256:" + hexA, "sha256:" + hexA}}}
	for _, test := range []struct {
		summary string
		m       Manifest
		kind    errdef.Kind
	}{
		{"one of two", Manifest{Config: config, Layers: []Descriptor{d}}, errdef.Invalid},
		{"none", Manifest{Config: config}, errdef.Unsupported},
		{"an artifact", Manifest{Config: Descriptor{MediaType: MediaTypeEmpty}, ArtifactType: "chart", Layers: []Descriptor{d, d}}, errdef.Unsupported},
		{"encrypted", Manifest{Config: config, Layers: []Descriptor{d, {MediaType: MediaTypeLayerGzip + "+encrypted"}}}, errdef.Unsupported},
		{"unknown", Manifest{Config: config, Layers: []Descriptor{d, {MediaType: "text/plain"}}}, errdef.Unsupported},
		{"a huge config", Manifest{Config: Descriptor{MediaType: MediaTypeConfig, Size: 1 << 30}, Layers: []Descriptor{d, d}}, errdef.Invalid},
	} {
		if err := CheckLayers(test.m, two); !errdef.Is(err, test.kind) {
			t.Errorf("%s: %v", test.summary, err)
		}
	}
	if err := CheckLayers(Manifest{Config: config, Layers: []Descriptor{d, d}}, two); err != nil {
		t.Errorf("the same layer twice: %v", err)
	}
}

func TestParseConfigRefuses(t *testing.T) {
	for summary, data := range map[string]string{
		"no rootfs":           `{}`,
		"NUL in a variable":   `{"rootfs":{"type":"layers"},"config":{"Env":["A=\u0000"]}}`,
		"NUL in the user":     `{"rootfs":{"type":"layers"},"config":{"User":"0\u0000"}}`,
		"a diff ID as a path": `{"rootfs":{"type":"layers","diff_ids":["../../x"]}}`,
		"rootfs twice":        `{"rootfs":{"type":"layers"},"RootFS":{"type":"layers"}}`,
		"too large":           `{"x":"` + strings.Repeat("x", MaxConfig) + `"}`,
	} {
		if c, err := ParseConfig([]byte(data)); err == nil {
			t.Errorf("%s: %+v", summary, c)
		}
	}
}

func TestPlatform(t *testing.T) {
	host := HostPlatform()
	for in, want := range map[string]string{
		"linux/arm64/v8": "linux/arm64", "linux/aarch64": "linux/arm64", "Linux/x86_64": "linux/amd64", "linux/arm": "linux/arm/v7",
		"linux/armhf": "linux/arm/v7", "linux/armel": "linux/arm/v6", "linux/arm/6": "linux/arm/v6", "linux/amd64/v1": "linux/amd64",
		"linux/amd64/v3": "linux/amd64/v3", "linux/i386": "linux/386", "macos/arm64": "darwin/arm64",
		"linux": "linux/" + host.Architecture, "arm64": host.OS + "/arm64", "linux/riscv64": "linux/riscv64",
	} {
		p, err := ParsePlatform(in)
		if err != nil || p.String() != want {
			t.Errorf("ParsePlatform(%q) = %s, %v; want %s", in, p, err, want)
		}
	}
	for _, in := range []string{"", "/", "linux/", "nonsense", "a/b/c/d", "linux/\x1b"} {
		if p, err := ParsePlatform(in); err == nil {
			t.Errorf("ParsePlatform(%q) = %s", in, p)
		}
	}
}

func TestSelect(t *testing.T) {
	index := func(platforms ...string) (x Index) {
		for i, s := range platforms {
			d := Descriptor{Size: int64(i)}
			if s != "" {
				parts := append(strings.Split(s, "/"), "")
				d.Platform = &Platform{OS: parts[0], Architecture: parts[1], Variant: parts[2]}
			}
			x.Manifests = append(x.Manifests, d)
		}
		return x
	}
	for _, test := range []struct {
		summary string
		index   Index
		want    string
		best    int // -1: none
	}{
		{"exact", index("linux/arm64", "linux/amd64"), "linux/amd64", 1},
		{"v8 is understood", index("linux/arm/v7", "linux/arm64/v8"), "linux/arm64", 1},
		{"the newest variant that runs", index("linux/arm/v5", "linux/arm/v6", "linux/arm/v8"), "linux/arm/v7", 1},
		{"a newer variant does not run", index("linux/amd64/v3"), "linux/amd64", -1},
		{"an older variant does", index("linux/amd64", "linux/amd64/v2"), "linux/amd64/v3", 1},
		{"32 bit as the last resort", index("linux/386", "linux/arm64"), "linux/amd64", 0},
		{"other system", index("windows/amd64"), "linux/amd64", -1},
		{"attestations are no images", index("unknown/unknown", "linux/amd64"), "linux/amd64", 1},
		{"the only one without a platform", index(""), "linux/amd64", 0},
		{"two without a platform", index("", ""), "linux/amd64", -1},
		{"empty", Index{}, "linux/amd64", -1},
	} {
		want, err := ParsePlatform(test.want)
		if err != nil {
			t.Fatal(err)
		}
		d, err := Select(test.index, want)
		if test.best < 0 {
			if !errdef.Is(err, errdef.NotFound) {
				t.Errorf("%s: %+v, %v", test.summary, d, err)
			}
		} else if err != nil || d.Size != int64(test.best) {
			t.Errorf("%s: %+v, %v", test.summary, d, err)
		}
	}
}

func FuzzParseManifest(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"config":` + aConfig + `,"layers":[` + aLayer + `]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := ParseManifest(data, "")
		if err != nil {
			return
		}
		if _, err := ParseIndex(data, ""); err == nil {
			t.Fatal("it is an index, too")
		}
		for _, l := range append(m.Layers, m.Config) {
			if l.Digest.Validate() != nil || l.Size < 0 {
				t.Fatalf("bad descriptor %+v", l)
			}
		}
	})
}

func FuzzParseIndex(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"manifests":[` + aLayer + `]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		x, err := ParseIndex(data, "")
		if err != nil {
			return
		}
		if _, err := ParseManifest(data, ""); err == nil {
			t.Fatal("it is a manifest, too")
		}
		_, _ = Select(x, HostPlatform())
	})
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(`{"os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:` + hexA + `"]},"config":{"Env":["a=b"]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := ParseConfig(data)
		if err == nil {
			_ = ChainIDs(c.RootFS.DiffIDs)
		}
	})
}

func BenchmarkParseManifestOfTenLayers(b *testing.B) {
	data := fmt.Appendf(nil, `{"schemaVersion":2,"config":%s,"layers":[%s%s]}`, aConfig, strings.Repeat(aLayer+",", 9), aLayer)
	for b.Loop() {
		if _, err := ParseManifest(data, MediaTypeManifest); err != nil {
			b.Fatal(err)
		}
	}
}
