package dockerconfig

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"berth/internal/disk"
	"berth/internal/errdef"
)

// DefaultContext is the context that always is: what DOCKER_HOST says, or this machine.
const DefaultContext = "default"

// Local is the host that is this machine, on which no connection is made. In docker's files it is a host that nobody has named.
const Local = "local"

// tlsHost is what docker connects with when TLS is asked for and no host.
const tlsHost = "tcp://localhost:2376"

// endpointName is the one of docker's endpoints that is an engine.
const endpointName = "docker"

// TLSFiles are the files of a context's TLS material.
var TLSFiles = []string{"ca.pem", "cert.pem", "key.pem"}

// Context is a named endpoint.
type Context struct {
	Name string
	// Metadata and Endpoints are as meta.json has them, so that what others have put there stays.
	Metadata  map[string]any
	Endpoints map[string]map[string]any
}

// Description is the text that says what the context is for.
func (c Context) Description() string {
	s, _ := c.Metadata["Description"].(string)
	return s
}

// SetDescription replaces the description.
func (c *Context) SetDescription(s string) {
	c.Metadata = maps.Clone(c.Metadata)
	if c.Metadata == nil {
		c.Metadata = map[string]any{}
	}
	c.Metadata["Description"] = s
}

// Host is where the context's engine is: Local, or a URL.
func (c Context) Host() string {
	if s, _ := c.Endpoints[endpointName]["Host"].(string); s != "" {
		return s
	}
	return Local
}

// Choice is what a command line and its environment say of the engine that is meant.
type Choice struct {
	Context string // --context or DOCKER_CONTEXT
	Host    string // --host or DOCKER_HOST
	TLS     bool   // --tls, --tlsverify or DOCKER_TLS_VERIFY
	From    string // how the user has named it, for messages: "--host", "DOCKER_CONTEXT", "docker context use"
}

// Choose finds which engine is meant, by docker's rules: --context, --host, DOCKER_HOST, DOCKER_CONTEXT, the context in use.
func Choose(flagContext, flagHost string, tls bool, env func(string) string, used string) Choice {
	c := Choice{TLS: tls || env("DOCKER_TLS_VERIFY") != "", Host: env("DOCKER_HOST"), Context: DefaultContext}
	switch {
	case flagContext != "":
		c.Context, c.From = flagContext, "--context"
	case flagHost != "":
		c.Host, c.From = flagHost, "--host"
	case c.Host != "":
		c.From = "DOCKER_HOST"
	case env("DOCKER_CONTEXT") != "":
		c.Context, c.From = env("DOCKER_CONTEXT"), "DOCKER_CONTEXT"
	case used != "":
		c.Context, c.From = used, "docker context use"
	}
	if c.Context == DefaultContext && c.Host != "" && c.From != "--host" {
		c.From = "DOCKER_HOST"
	}
	if c.Host == "" && c.TLS {
		c.Host = tlsHost
		if c.Context == DefaultContext {
			c.From = "TLS"
		}
	}
	return c
}

// Get finds a context.
func (d Dir) Get(choice Choice, name string) (Context, error) {
	if name == DefaultContext {
		c := Context{Name: name, Metadata: map[string]any{}, Endpoints: map[string]map[string]any{endpointName: {"Host": Local, "SkipTLSVerify": false}}}
		if choice.Host != "" {
			c.Endpoints[endpointName]["Host"] = choice.Host
		}
		return c, nil
	}
	if err := CheckName(name); err != nil {
		return Context{}, err
	}
	path := filepath.Join(d.MetadataPath(name), "meta.json")
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Context{}, errdef.New(errdef.NotFound, "context %q: context not found: %w", name, err)
	}
	if err != nil {
		return Context{}, errdef.New(errdef.Denied, "cannot read the context %q: %w", name, err)
	}
	c, err := ParseMeta(data)
	if err == nil && c.Name != name {
		err = fmt.Errorf("its name is %q", c.Name)
	}
	if err != nil {
		return Context{}, errdef.New(errdef.Corrupt, "cannot read the context %q: %s: %w", name, path, err)
	}
	return c, nil
}

// ParseMeta reads a meta.json.
func ParseMeta(data []byte) (Context, error) {
	var c Context
	err := json.Unmarshal(data, &c)
	return c, err
}

// List are all contexts, the default one among them, by their names.
func (d Dir) List(choice Choice) ([]Context, error) {
	of, err := d.Get(choice, DefaultContext)
	if err != nil {
		return nil, err
	}
	of.SetDescription("Current DOCKER_HOST based configuration")
	all := []Context{of}
	entries, err := os.ReadDir(filepath.Join(string(d), "contexts/meta"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, errdef.New(errdef.Denied, "cannot list the contexts: %w", err)
	}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(string(d), "contexts/meta", e.Name(), "meta.json"))
		if errors.Is(err, fs.ErrNotExist) { // being made or removed
			continue
		}
		var c Context
		if err == nil {
			c, err = ParseMeta(data)
		}
		if err != nil {
			return nil, errdef.New(errdef.Corrupt, "cannot read the context in contexts/meta/%s: %w", e.Name(), err)
		}
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b Context) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

func idOf(name string) string {
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:])
}

// MetadataPath is the directory of a context's meta.json.
func (d Dir) MetadataPath(name string) string {
	return filepath.Join(string(d), "contexts/meta", idOf(name))
}

// TLSPath is the directory of a context's TLS material: ENDPOINT/FILE.
func (d Dir) TLSPath(name string) string {
	return filepath.Join(string(d), "contexts/tls", idOf(name))
}

// Material are the files of a context's TLS material, by the names in TLSFiles.
func (d Dir) Material(name string) (map[string][]byte, error) {
	all := map[string][]byte{}
	for _, file := range TLSFiles {
		data, err := os.ReadFile(filepath.Join(d.TLSPath(name), endpointName, file))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, errdef.New(errdef.Denied, "cannot read the TLS material of the context %q: %w", name, err)
		}
		all[file] = data
	}
	return all, nil
}

// Put writes a context; its meta.json comes last, and without that there is no context. With material nil what there is stays.
func (d Dir) Put(c Context, material map[string][]byte) error {
	if err := CheckName(c.Name); err != nil {
		return err
	}
	if c.Name == DefaultContext {
		return errdef.New(errdef.Invalid, "%q is a reserved context name", DefaultContext)
	}
	c.Endpoints = maps.Clone(c.Endpoints)
	if of := maps.Clone(c.Endpoints[endpointName]); of["Host"] == Local { // docker's word for it is none
		delete(of, "Host")
		c.Endpoints[endpointName] = of
	}
	if c.Metadata == nil {
		c.Metadata = map[string]any{}
	}
	text, err := marshal(c, "")
	if err != nil {
		return err
	}
	if err := d.put(c.Name, text, material); err != nil {
		return errdef.New(errdef.Denied, "cannot write the context %q: %w", c.Name, err)
	}
	return nil
}

func (d Dir) put(name string, meta []byte, material map[string][]byte) error {
	if material != nil {
		if err := os.RemoveAll(d.TLSPath(name)); err != nil {
			return err
		}
	}
	for _, file := range TLSFiles {
		data, has := material[file]
		if !has {
			continue
		}
		dir := filepath.Join(d.TLSPath(name), endpointName)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		if err := disk.Replace(filepath.Join(dir, file), data, 0o600, disk.Durable); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(d.MetadataPath(name), 0o755); err != nil {
		return err
	}
	return disk.Replace(filepath.Join(d.MetadataPath(name), "meta.json"), meta, 0o644, disk.Durable)
}

// Remove removes a context; its meta.json goes first.
func (d Dir) Remove(name string) error {
	err := os.Remove(filepath.Join(d.MetadataPath(name), "meta.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return errdef.New(errdef.NotFound, "context %q does not exist", name)
	}
	if err = errors.Join(err, os.RemoveAll(d.MetadataPath(name)), os.RemoveAll(d.TLSPath(name))); err != nil {
		return errdef.New(errdef.Denied, "cannot remove the context %q: %w", name, err)
	}
	return nil
}

// CheckName allows docker's names of contexts: a letter or digit, and one or more of these and _ . + -.
func CheckName(name string) error {
	const alphanumeric = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	if len(name) < 2 || !strings.Contains(alphanumeric, name[:1]) || strings.Trim(name, alphanumeric+"_.+-") != "" {
		return errdef.New(errdef.Invalid, "context name %q is invalid, names are validated against regexp \"^[a-zA-Z0-9][a-zA-Z0-9_.+-]+$\"", name)
	}
	return nil
}

// ApplyEndpoint changes where a context's engine is as --docker says, and returns its TLS material, nil if nothing is said of it.
func (c *Context) ApplyEndpoint(keys map[string]string) (map[string][]byte, error) {
	fail := func(format string, args ...any) (map[string][]byte, error) {
		return nil, errdef.New(errdef.Invalid, "unable to create docker endpoint config: "+format, args...)
	}
	of := map[string]any{"SkipTLSVerify": false}
	var material map[string][]byte
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		value := keys[key]
		switch key {
		case "host":
			if err := checkHost(value); err != nil {
				return fail("unable to apply docker endpoint options: %w", err)
			}
			of["Host"] = value
		case "skip-tls-verify":
			skip, err := strconv.ParseBool(value)
			if err != nil {
				return fail("skip-tls-verify: parsing %q: invalid syntax", value)
			}
			of["SkipTLSVerify"] = skip
		case "ca", "cert", "key":
			data, err := os.ReadFile(value)
			if err != nil {
				return fail("%w", err)
			}
			if material == nil {
				material = map[string][]byte{}
			}
			material[key+".pem"] = data
		default:
			return fail("unrecognized config key: %s", key)
		}
	}
	if (keys["cert"] == "") != (keys["key"] == "") {
		return fail("invalid docker endpoint options: cert and key must both be given")
	}
	c.Endpoints = maps.Clone(c.Endpoints)
	if c.Endpoints == nil {
		c.Endpoints = map[string]map[string]any{}
	}
	c.Endpoints[endpointName] = of
	return material, nil
}

// checkHost allows what docker connects with on Linux, and this machine.
func checkHost(host string) error {
	scheme, rest, has := strings.Cut(host, "://")
	switch {
	case host == Local:
		return nil
	case !has:
		return fmt.Errorf("unable to parse docker host `%s`", host)
	case !slices.Contains([]string{"unix", "tcp", "http", "https", "ssh", "fd"}, scheme):
		return errors.New("protocol not available")
	case rest == "":
		return fmt.Errorf("unable to parse docker host `%s`", host)
	}
	return nil
}
