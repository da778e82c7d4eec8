// Package dockerconfig reads and writes docker's directory of client configuration, ~/.docker: config.json and the contexts
// beside it, in docker's own files, so that both programs see what the other one has written.
//
// It connects with nothing and knows no credentials: those are image/registry's. What it does not know of a file stays in it.
package dockerconfig

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"berth/internal/disk"
	"berth/internal/errdef"
)

// DirEnv is the variable that names the directory; --config is its flag.
const DirEnv = "DOCKER_CONFIG"

// Dir is a directory of client configuration, which need not exist.
type Dir string

// Default is the directory that DOCKER_CONFIG names, or ~/.docker.
func Default() Dir {
	if dir := os.Getenv(DirEnv); dir != "" {
		return Dir(dir)
	}
	return Dir(filepath.Join("/", os.Getenv("HOME"), ".docker"))
}

// File is what berth uses of config.json. Its HttpHeaders are for requests to a daemon, of which there are none.
type File struct {
	CurrentContext string           `json:"currentContext"`
	DetachKeys     string           `json:"detachKeys"`
	PsFormat       string           `json:"psFormat"`
	ImagesFormat   string           `json:"imagesFormat"`
	NetworksFormat string           `json:"networksFormat"`
	VolumesFormat  string           `json:"volumesFormat"`
	StatsFormat    string           `json:"statsFormat"`
	Proxies        map[string]Proxy `json:"proxies"`
}

// Proxy is how containers and builds are to reach the world.
type Proxy struct {
	HTTP  string `json:"httpProxy"`
	HTTPS string `json:"httpsProxy"`
	No    string `json:"noProxy"`
	FTP   string `json:"ftpProxy"`
	All   string `json:"allProxy"`
}

// Environment are the variables of the proxies for the local engine, KEY=VALUE, each in capitals and in small letters.
func (f File) Environment() []string {
	p := f.Proxies["default"]
	var env []string
	for _, v := range []struct{ name, value string }{{"HTTP_PROXY", p.HTTP}, {"HTTPS_PROXY", p.HTTPS}, {"NO_PROXY", p.No}, {"FTP_PROXY", p.FTP}, {"ALL_PROXY", p.All}} {
		if v.value != "" {
			env = append(env, v.name+"="+v.value, strings.ToLower(v.name)+"="+v.value)
		}
	}
	return env
}

func (d Dir) path() string { return filepath.Join(string(d), "config.json") }

// Load reads config.json. A file that is not there is an empty one.
func (d Dir) Load() (File, error) {
	var f File
	data, err := os.ReadFile(d.path())
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &f)
	}
	if err != nil {
		return File{}, errdef.New(errdef.Invalid, "cannot read docker's client configuration %s: %w", d.path(), err)
	}
	return f, nil
}

// SetCurrent makes a context the current one; "" or "default" leaves it to DOCKER_HOST. All else in config.json stays, and
// so do its mode and a link that stands in its place.
func (d Dir) SetCurrent(name string) error {
	path := d.path()
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	all := map[string]json.RawMessage{}
	mode := fs.FileMode(0o600)
	data, err := os.ReadFile(path)
	if err == nil {
		if st, err := os.Stat(path); err == nil {
			mode = st.Mode().Perm()
		}
		err = json.Unmarshal(data, &all)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errdef.New(errdef.Invalid, "cannot read docker's client configuration %s: %w", path, err)
	}
	if name == "" || name == DefaultContext {
		if _, has := all["currentContext"]; !has {
			return nil
		}
		delete(all, "currentContext")
	} else if all["currentContext"], err = json.Marshal(name); err != nil {
		return err
	}
	text, err := marshal(all, "\t")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return errdef.New(errdef.Denied, "cannot write docker's client configuration: %w", err)
	}
	if err := disk.Replace(path, text, mode, disk.Durable); err != nil {
		return errdef.New(errdef.Denied, "cannot write docker's client configuration: %w", err)
	}
	return nil
}

func marshal(v any, indent string) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", indent)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
