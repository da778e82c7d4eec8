package policy

import (
	"os"
	"path/filepath"
	"testing"

	"berth/internal/errdef"
	"berth/internal/image/reference"
)

const text = `{
 "default": [{"type": "reject"}],
 "transports": {
  "docker": {
   "docker.io/library": [{"type": "insecureAcceptAnything"}],
   "docker.io/library/debian:bookworm": [{"type": "reject"}],
   "docker.io/library/signed": [{"type": "insecureAcceptAnything"}, {"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/k"}],
   "*.example.com": [{"type": "insecureAcceptAnything"}],
   "a.example.com:5000": [{"type": "sigstoreSigned"}]
  },
  "docker-archive": {"": [{"type": "insecureAcceptAnything"}]},
  "oci": {"/srv/images": [{"type": "insecureAcceptAnything"}]}
 }
}`

func policy(t *testing.T, text string) Policy {
	t.Helper()
	path := filepath.Join(t.TempDir(), "policy.json")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := Read([]string{path + ".none", path})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestTheLongestScopeCounts(t *testing.T) {
	p := policy(t, text)
	for name, want := range map[string]errdef.Kind{
		"debian":                     errdef.Unknown,
		"debian:bookworm":            errdef.Denied,
		"debian:bookworm-slim":       errdef.Unknown,
		"team/app":                   errdef.Denied,
		"signed":                     errdef.Unsupported,
		"b.example.com/x":            errdef.Unknown,
		"b.c.example.com:80/x":       errdef.Unknown,
		"example.com/x":              errdef.Denied,
		"badexample.com/x":           errdef.Denied,
		"a.example.com:5000/x/y":     errdef.Unsupported,
		"docker.io/libraryx/debian":  errdef.Denied,
		"localhost:5000/library/deb": errdef.Denied,
	} {
		ref, err := reference.Parse(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Registry(ref); errdef.KindOf(err) != want {
			t.Errorf("%s: %v", name, err)
		}
		if err := (Policy{}).Registry(ref); err != nil {
			t.Errorf("%s without a policy: %v", name, err)
		}
	}
	for _, tt := range []struct {
		transport, path string
		want            errdef.Kind
	}{
		{DockerArchive, "", errdef.Unknown},
		{OCIArchive, "/srv/images/a", errdef.Denied},
		{OCI, "/srv/images/a", errdef.Unknown},
		{OCI, "/srv/images/../a", errdef.Denied},
		{OCI, "/srv/imagesx", errdef.Denied},
	} {
		if err := p.File(tt.transport, tt.path, "x"); errdef.KindOf(err) != tt.want {
			t.Errorf("%s:%s: %v", tt.transport, tt.path, err)
		}
	}
}

func TestAPolicyThatCannotBeReadLetsNothingIn(t *testing.T) {
	for _, text := range []string{"", "{", `{}`, `{"default":[]}`, `{"default":[{"type":"reject"}],"transports":{"docker":{"x":[]}}}`} {
		path := filepath.Join(t.TempDir(), "policy.json")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Read([]string{path}); !errdef.Is(err, errdef.Invalid) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := Read([]string{t.TempDir()}); err == nil {
		t.Error("a directory is no policy")
	}
}
