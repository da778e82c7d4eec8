package registry

import (
	"context"
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"berth/internal/image/reference"
)

func mustParse(t *testing.T, name string) reference.Reference {
	t.Helper()
	ref, err := reference.Parse(name)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

func auth(userAndPassword string) string {
	return `{"auth":"` + base64.StdEncoding.EncodeToString([]byte(userAndPassword)) + `"}`
}

func TestCredentialsAreOnlyForTheirRegistry(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.json")
	text := `{"auths":{
		"https://index.docker.io/v1/":` + auth("hub:1") + `,
		"quay.io":` + auth("quay:a:b") + `,
		"quay.io/team":` + auth("team:2") + `,
		"quay.io/team/app":` + auth("app:3") + `,
		"https://old.example/v2/":` + auth("old:4") + `,
		"localhost:5000":` + auth("local:5") + `,
		"plain.example":{"username":"plain","password":"6"},
		"id.example":{"auth":"` + base64.StdEncoding.EncodeToString([]byte("u:")) + `","identitytoken":"idt"}
	}}`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	find := FromFiles([]string{filepath.Join(t.TempDir(), "missing"), path}, func(s string) { t.Error(s) })
	for name, want := range map[string]Credentials{
		"alpine":                 {Username: "hub", Password: "1"},
		"user/app":               {Username: "hub", Password: "1"},
		"quay.io/other/x":        {Username: "quay", Password: "a:b"},
		"quay.io/team/other":     {Username: "team", Password: "2"},
		"quay.io/team/app":       {Username: "app", Password: "3"},
		"quay.io/teamwork/x":     {Username: "quay", Password: "a:b"},
		"old.example/x":          {Username: "old", Password: "4"},
		"localhost:5000/x":       {Username: "local", Password: "5"},
		"localhost:5001/x":       {},
		"localhost/x":            {},
		"plain.example/x":        {Username: "plain", Password: "6"},
		"id.example/x":           {Username: "u", IdentityToken: "idt"},
		"evilquay.io/x":          {},
		"quay.io.evil.example/x": {},
		"sub.quay.io/x":          {},
	} {
		if got, err := find(context.Background(), mustParse(t, name)); err != nil || got != want {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestBrokenAuthFilesAreSaidAndPassedOver(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	broken := filepath.Join(dir, "broken")
	if err := os.WriteFile(broken, []byte(`{"auths": "secret`), 0o600); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	good := filepath.Join(dir, "good")
	if err := os.WriteFile(good, []byte(`{"auths":{"quay.io":`+auth("a:b")+`}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	var said []string
	find := FromFiles([]string{fifo, broken, empty, dir, good}, func(s string) { said = append(said, s) })
	got, err := find(context.Background(), mustParse(t, "quay.io/x"))
	if err != nil || got.Username != "a" {
		t.Errorf("%+v, %v", got, err)
	}
	if len(said) != 3 || strings.Contains(strings.Join(said, ""), "secret") {
		t.Errorf("said %q", said)
	}
}

func TestCredentialHelpers(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	script := `#!/bin/sh
server=$(cat)
case "$1 $server" in
"get quay.io") echo '{"ServerURL":"quay.io","Username":"me","Secret":"s"}' ;;
"get https://index.docker.io/v1/") echo '{"Username":"<token>","Secret":"idt"}' ;;
"get broken.example") echo "locked: ask your administrator"; exit 1 ;;
"get endless.example") exec yes ;;
*) echo "credentials not found in native keychain"; exit 1 ;;
esac
`
	if err := os.WriteFile(filepath.Join(dir, "docker-credential-test"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "config.json")
	text := `{"credsStore":"test","credHelpers":{"evil.example":"../../bin/sh","gone.example":"gone"},"auths":{"file.example":` + auth("f:g") + `,"quay.io":{}}}`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	find := FromFiles([]string{path}, nil)
	for _, tt := range []struct {
		name string
		want Credentials
		err  string
	}{
		{"quay.io/x", Credentials{Username: "me", Password: "s"}, ""},
		{"alpine", Credentials{IdentityToken: "idt"}, ""},
		{"unknown.example/x", Credentials{}, ""},
		{"file.example/x", Credentials{Username: "f", Password: "g"}, ""},
		{"broken.example/x", Credentials{}, "locked: ask your administrator"},
		{"endless.example/x", Credentials{}, "docker-credential-test"},
		{"evil.example/x", Credentials{}, "not the name of a credential helper"},
		{"gone.example/x", Credentials{}, "docker-credential-gone"},
	} {
		got, err := find(context.Background(), mustParse(t, tt.name))
		if got != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: %+v, %v", tt.name, got, err)
		}
	}
}

func TestAuthFilesFollowDockerAndPodman(t *testing.T) {
	env := func(pairs ...string) func(string) string {
		return func(name string) string {
			for i := 0; i < len(pairs); i += 2 {
				if pairs[i] == name {
					return pairs[i+1]
				}
			}
			return ""
		}
	}
	for _, tt := range []struct {
		getenv func(string) string
		want   string
	}{
		{env("HOME", "/h", "XDG_RUNTIME_DIR", "/r"), "/h/.docker/config.json /r/containers/auth.json /h/.config/containers/auth.json"},
		{env("HOME", "/h", "DOCKER_CONFIG", "/d", "XDG_RUNTIME_DIR", "/r", "XDG_CONFIG_HOME", "/c"), "/d/config.json /r/containers/auth.json /c/containers/auth.json"},
		{env("HOME", "/h", "REGISTRY_AUTH_FILE", "/a"), "/a"},
	} {
		if got := strings.Join(AuthFiles(tt.getenv), " "); got != tt.want {
			t.Errorf("%s, want %s", got, tt.want)
		}
	}
}
