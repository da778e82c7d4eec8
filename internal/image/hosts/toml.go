package hosts

import (
	"bytes"
	"errors"
	"io/fs"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"berth/internal/errdef"
	"berth/internal/image/reference"
	"berth/internal/image/registry"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// server is what hosts.toml says of one server, by containerd's names of the keys (docs/hosts.md there).
type server struct {
	Capabilities []string       `toml:"capabilities"`
	CA           any            `toml:"ca"`     // a path, or several
	Client       any            `toml:"client"` // a path, or several, or pairs of a certificate and a key
	SkipVerify   bool           `toml:"skip_verify"`
	Header       map[string]any `toml:"header"` // to a value, or several
	OverridePath bool           `toml:"override_path"`
	DialTimeout  string         `toml:"dial_timeout"`
}

// file is a hosts.toml.
type file struct {
	server
	Server string            `toml:"server"`
	Hosts  map[string]server `toml:"host"`
	order  []string          // of Hosts
}

// hostsTOML reads the hosts.toml of a registry, if there is one.
func (f Files) hostsTOML(name string, known trust) (h registry.Host, found bool, err error) {
	for _, n := range append(names(name), "_default") {
		for _, dir := range f.Dirs {
			path := filepath.Join(dir, n, "hosts.toml")
			data, err := read(path)
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
				if err = f.absent(err, path); err == nil {
					continue
				}
			}
			if err == nil {
				h, err = parseHosts(data, name, filepath.Dir(path), known)
			}
			if err != nil {
				return h, true, errdef.New(errdef.Invalid, "%s: %w", path, err)
			}
			return h, true, nil
		}
	}
	return h, false, nil
}

// parseHosts reads a hosts.toml for the registry name. Paths in it are as from dir.
func parseHosts(data []byte, name, dir string, known trust) (registry.Host, error) {
	var (
		h registry.Host
		f file
	)
	strict := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields()
	if err := strict.Decode(&f); err != nil {
		var unknown *toml.StrictMissingError
		if errors.As(err, &unknown) {
			return h, errdef.New(errdef.Invalid, "it has the unknown key %q", strings.Join(unknown.Errors[0].Key(), "."))
		}
		return h, err
	}
	f.order = orderOf(data, f.Hosts)
	own := f.Server
	if own == "" {
		own = "https://" + address(name)
	}
	h, _, err := f.host(own, dir, known)
	if err != nil {
		return h, err
	}
	if f.Server == "" { // as without the file: without TLS, if that is known to be so
		h.URL = nil
	}
	at, err := parseURL(own)
	if err != nil {
		return h, err
	}
	for _, key := range f.order {
		m, can, err := f.Hosts[key].host(key, dir, known)
		if err != nil {
			return h, err
		}
		if m.URL.Host == at.Host && can&registry.CanPush != 0 { // the registry itself
			m.Mirrors = h.Mirrors
			h = m
			continue
		}
		h.Mirrors = append(h.Mirrors, registry.Mirror{Host: m, Can: can, Namespace: m.URL.Host != address(name)})
	}
	return h, nil
}

// address is where a registry is.
func address(name string) string {
	if name == reference.DefaultDomain {
		return "registry-1.docker.io"
	}
	return name
}

// orderOf is the order in which the tables of hosts stand in the file: the first is asked first.
func orderOf(data []byte, hosts map[string]server) []string {
	var order []string
	p := unstable.Parser{}
	p.Reset(data)
	for p.NextExpression() {
		e := p.Expression()
		if e.Kind != unstable.Table {
			continue
		}
		var key []string
		for it := e.Key(); it.Next(); {
			key = append(key, string(it.Node().Data))
		}
		if len(key) < 2 || key[0] != "host" || slices.Contains(order, key[1]) {
			continue
		}
		if _, ok := hosts[key[1]]; ok {
			order = append(order, key[1])
		}
	}
	var rest []string // written in another way
	for key := range hosts {
		if !slices.Contains(order, key) {
			rest = append(rest, key)
		}
	}
	slices.Sort(rest)
	return append(order, rest...)
}

// host is one server at a URL, and what it can do.
func (s server) host(at, dir string, known trust) (h registry.Host, can registry.Ability, err error) {
	if h.URL, err = parseURL(at); err != nil {
		return h, 0, err
	}
	h.URL.Path = strings.TrimSuffix(h.URL.Path, "/")
	if !s.OverridePath && !strings.HasSuffix(h.URL.Path, "/v2") {
		h.URL.Path += "/v2"
	}
	h.URL.Path += "/"
	if can, err = ability(s.Capabilities); err != nil {
		return h, 0, err
	}
	if s.DialTimeout != "" {
		if h.DialTimeout, err = time.ParseDuration(s.DialTimeout); err != nil || h.DialTimeout <= 0 {
			return h, 0, errdef.New(errdef.Invalid, "dial_timeout %q is no time", s.DialTimeout)
		}
	}
	if h.Header, err = header(s.Header); err != nil {
		return h, 0, err
	}
	if err := s.trust(dir, &known); err != nil {
		return h, 0, err
	}
	known.apply(&h)
	if s.SkipVerify {
		h.Insecure, h.RootCAs = true, nil
	}
	return h, can, nil
}

// trust adds the server's authorities and our certificates to what is known.
func (s server) trust(dir string, known *trust) error {
	in := func(path string) string {
		if path == "" || filepath.IsAbs(path) {
			return path
		}
		return filepath.Join(dir, path)
	}
	paths, ok := stringsOf(s.CA)
	if !ok {
		return errdef.New(errdef.Invalid, "ca is neither a path nor a list of paths")
	}
	for _, path := range paths {
		if err := known.addRoot(in(path)); err != nil {
			return err
		}
	}
	if paths, ok = stringsOf(s.Client); ok {
		for _, path := range paths {
			if err := known.addCertificate(in(path), ""); err != nil {
				return err
			}
		}
		return nil
	}
	pairs, _ := s.Client.([]any)
	for _, p := range pairs {
		pair, ok := stringsOf(p)
		if !ok || len(pair) < 1 || len(pair) > 2 {
			return errdef.New(errdef.Invalid, "client is no path, and no list of paths or of pairs of a certificate and a key")
		}
		if err := known.addCertificate(in(pair[0]), in(append(pair, "")[1])); err != nil {
			return err
		}
	}
	if len(pairs) == 0 {
		return errdef.New(errdef.Invalid, "client is no path, and no list of paths or of pairs of a certificate and a key")
	}
	return nil
}

func ability(names []string) (can registry.Ability, err error) {
	if names == nil { // containerd's default
		return registry.CanPull | registry.CanResolve | registry.CanPush, nil
	}
	for _, name := range names {
		switch name {
		case "pull":
			can |= registry.CanPull
		case "resolve":
			can |= registry.CanResolve
		case "push":
			can |= registry.CanPush
		case "referrers": // of containerd 2.2; those who give manifests give these
		default:
			return 0, errdef.New(errdef.Invalid, "%q is not one of the capabilities pull, resolve and push", name)
		}
	}
	return can, nil
}

func header(given map[string]any) (http.Header, error) {
	if len(given) == 0 {
		return nil, nil
	}
	h := http.Header{}
	for name, value := range given {
		values, ok := stringsOf(value)
		if !ok {
			return nil, errdef.New(errdef.Invalid, "the header %q is neither text nor a list of texts", name)
		}
		for _, v := range values {
			if strings.ContainsAny(name+v, "\r\n\x00") {
				return nil, errdef.New(errdef.Invalid, "the header %q has more than one line", name)
			}
			h.Add(name, v)
		}
	}
	return h, nil
}

// stringsOf reads a text or a list of texts.
func stringsOf(v any) ([]string, bool) {
	switch v := v.(type) {
	case nil:
		return nil, true
	case string:
		return []string{v}, true
	case []any:
		var all []string
		for _, one := range v {
			s, ok := one.(string)
			if !ok {
				return nil, false
			}
			all = append(all, s)
		}
		return all, true
	}
	return nil, false
}
