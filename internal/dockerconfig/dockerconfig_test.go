package dockerconfig

import (
	"os"
	"path/filepath"
	"testing"
)

func TestChoose(t *testing.T) {
	for _, c := range []struct {
		summary             string
		flagContext, host   string
		tls                 bool
		env                 map[string]string
		used                string
		context, want, from string
	}{
		{"Nothing is said", "", "", false, nil, "", "default", "", ""},
		{"The context in use", "", "", false, nil, "far", "far", "", "docker context use"},
		{"DOCKER_CONTEXT before the context in use", "", "", false, map[string]string{"DOCKER_CONTEXT": "near"}, "far", "near", "", "DOCKER_CONTEXT"},
		{"DOCKER_HOST before DOCKER_CONTEXT", "", "", false, map[string]string{"DOCKER_CONTEXT": "near", "DOCKER_HOST": "tcp://a"}, "far", "default", "tcp://a", "DOCKER_HOST"},
		{"--host before DOCKER_HOST", "", "tcp://b", false, map[string]string{"DOCKER_HOST": "tcp://a"}, "", "default", "tcp://b", "--host"},
		{"--context before DOCKER_HOST", "near", "", false, map[string]string{"DOCKER_HOST": "tcp://a"}, "", "near", "tcp://a", "--context"},
		{"The default context is what DOCKER_HOST says", "default", "", false, map[string]string{"DOCKER_HOST": "tcp://a"}, "", "default", "tcp://a", "DOCKER_HOST"},
		{"TLS is for a connection", "", "", true, nil, "", "default", tlsHost, "TLS"},
	} {
		got := Choose(c.flagContext, c.host, c.tls, func(name string) string { return c.env[name] }, c.used)
		if got.Context != c.context || got.Host != c.want || got.From != c.from {
			t.Errorf("%s: %+v", c.summary, got)
		}
	}
}

// Somebody may keep config.json elsewhere, with a mode of his choice.
func TestSetCurrentKeepsALinkAndAMode(t *testing.T) {
	dir := t.TempDir()
	real := filepath.Join(dir, "real.json")
	if err := os.WriteFile(real, []byte(`{"auths":{"a":{}}}`), 0o640); err != nil {
		t.Fatal(err)
	}
	d := Dir(filepath.Join(dir, "docker"))
	if err := os.Mkdir(string(d), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(real, filepath.Join(string(d), "config.json")); err != nil {
		t.Fatal(err)
	}
	if err := d.SetCurrent("far"); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(real)
	if err != nil || st.Mode().Perm() != 0o640 {
		t.Errorf("the mode is %v, %v", st.Mode(), err)
	}
	if to, err := os.Readlink(filepath.Join(string(d), "config.json")); err != nil || to != real {
		t.Errorf("the link is %q, %v", to, err)
	}
	if f, err := d.Load(); err != nil || f.CurrentContext != "far" {
		t.Errorf("%+v, %v", f, err)
	}
}
