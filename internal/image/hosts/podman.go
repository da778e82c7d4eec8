package hosts

import (
	"encoding/json"
	"errors"
	"io/fs"
	"net/url"
	"slices"
	"strings"

	"berth/internal/errdef"
	"berth/internal/image/reference"
	"berth/internal/image/registry"

	"github.com/pelletier/go-toml/v2"
)

// table is a [[registry]] of registries.conf (containers-registries.conf(5)).
type table struct {
	Prefix       string       `toml:"prefix"`
	Location     string       `toml:"location"`
	Insecure     bool         `toml:"insecure"`
	Blocked      bool         `toml:"blocked"`
	ByDigestOnly bool         `toml:"mirror-by-digest-only"`
	Mirrors      []tableEntry `toml:"mirror"`
}

type tableEntry struct {
	Location string `toml:"location"`
	Insecure bool   `toml:"insecure"`
	Pull     string `toml:"pull-from-mirror"`
}

// podman reads what registries.conf says of a registry.
func (f Files) podman(name string, known trust) (registry.Host, error) {
	var tables []table
	for _, path := range f.Registries {
		data, err := read(path)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			if err = f.absent(err, path); err == nil {
				continue
			}
		}
		if err == nil {
			tables, err = addTables(tables, data)
		}
		if err != nil {
			return registry.Host{}, errdef.New(errdef.Invalid, "cannot tell how the registry %s is spoken to: %s: %w", name, path, err)
		}
	}
	return fromTables(tables, name, known)
}

// addTables adds those of a file: one about what another was about takes its place.
func addTables(tables []table, data []byte) ([]table, error) {
	var read struct {
		Registry []table `toml:"registry"`
	}
	if err := toml.Unmarshal(data, &read); err != nil {
		return nil, err
	}
	for _, t := range read.Registry {
		if t.Prefix == "" {
			t.Prefix = t.Location
		}
		tables = slices.DeleteFunc(tables, func(old table) bool { return old.Prefix == t.Prefix })
		tables = append(tables, t)
	}
	return tables, nil
}

func fromTables(tables []table, name string, known trust) (registry.Host, error) {
	var h registry.Host
	known.apply(&h)
	tables = slices.DeleteFunc(tables, func(t table) bool { return !t.about(name) })
	// The longest first: it counts.
	slices.SortStableFunc(tables, func(a, b table) int { return len(b.Prefix) - len(a.Prefix) })
	for i, t := range tables {
		if err := t.add(&h, name, tables[:i], known); err != nil {
			return h, err
		}
	}
	return h, nil
}

// about reports whether a table is about a registry or a part of it. "*.example.com" is about all hosts below that.
func (t table) about(name string) bool {
	host, _, _ := strings.Cut(t.Prefix, "/")
	if rest, wild := strings.CutPrefix(t.Prefix, "*"); wild {
		return strings.HasSuffix(name, rest) && strings.HasPrefix(rest, ".")
	}
	return host == name
}

// below is the part of a repository's path behind the prefix, if the table is about it.
func (t table) below(path string) (string, bool) {
	_, prefix, _ := strings.Cut(t.Prefix, "/")
	if prefix == "" || path == prefix {
		return strings.TrimPrefix(path, prefix), true
	}
	rest, ok := strings.CutPrefix(path, prefix+"/")
	return "/" + rest, ok
}

// add makes mirrors of what a table says. Those before it are about longer prefixes, which count before it.
func (t table) add(h *registry.Host, name string, before []table, known trust) error {
	at := func(location string) func(path string) (string, bool) {
		_, prefix, _ := strings.Cut(location, "/")
		return func(path string) (string, bool) {
			if slices.ContainsFunc(before, func(b table) bool { _, longer := b.below(path); return longer }) {
				return "", false
			}
			rest, ok := t.below(path)
			return strings.Trim(prefix+"/"+strings.TrimPrefix(rest, "/"), "/"), ok
		}
	}
	if t.Blocked {
		if t.Prefix == name || strings.HasPrefix(t.Prefix, "*") {
			return errdef.New(errdef.Denied, "the registry %s is blocked by registries.conf", name)
		}
		// A part of the registry: there is nobody to be asked for it.
		h.Mirrors = append(h.Mirrors, registry.Mirror{Refused: "registries.conf blocks " + t.Prefix, Repository: at(t.Prefix), Instead: true, Can: registry.CanPull | registry.CanResolve | registry.CanPush, Host: registry.Host{URL: &url.URL{Scheme: "https", Host: name, Path: "/v2/"}}})
		return nil
	}
	server := func(location string, insecure bool) (registry.Host, error) {
		host, _, _ := strings.Cut(location, "/")
		u, err := parseURL(host)
		if err != nil {
			return registry.Host{}, errdef.New(errdef.Invalid, "registries.conf has the location %q, which is none", location)
		}
		s := registry.Host{URL: u, Insecure: insecure}
		u.Path = "/v2/"
		if insecure {
			u.Scheme = "" // with TLS or without
		}
		if host == name {
			known.apply(&s)
		}
		if host == reference.DefaultDomain {
			u.Host = address(host)
		}
		if insecure {
			s.RootCAs = nil
		}
		return s, nil
	}
	for _, m := range t.Mirrors {
		s, err := server(m.Location, m.Insecure)
		if err != nil {
			return err
		}
		can := registry.CanPull | registry.CanResolve
		switch {
		case m.Pull == "digest-only", m.Pull == "" && t.ByDigestOnly:
			can = registry.CanPull
		case m.Pull != "" && m.Pull != "all" && m.Pull != "tag-only":
			return errdef.New(errdef.Invalid, "registries.conf has the pull-from-mirror %q", m.Pull)
		}
		h.Mirrors = append(h.Mirrors, registry.Mirror{Host: s, Can: can, Repository: at(m.Location)})
	}
	if t.Prefix == name && (t.Location == "" || t.Location == name) {
		if t.Insecure {
			h.Insecure, h.RootCAs = true, nil
		}
		return nil
	}
	location := t.Location
	if location == "" {
		location = t.Prefix
	}
	if strings.HasPrefix(location, "*") {
		if t.Insecure {
			h.Insecure, h.RootCAs = true, nil
		}
		return nil
	}
	s, err := server(location, t.Insecure)
	if err != nil {
		return err
	}
	h.Mirrors = append(h.Mirrors, registry.Mirror{Host: s, Can: registry.CanPull | registry.CanResolve | registry.CanPush, Repository: at(location), Instead: true})
	return nil
}

// docker reads what docker's daemon.json says of a registry.
func (f Files) docker(name string) (insecure bool, mirrors []registry.Mirror, err error) {
	for _, path := range f.Daemon {
		data, err := read(path)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			if err = f.absent(err, path); err == nil {
				continue
			}
		}
		var said struct {
			Insecure []string `json:"insecure-registries"`
			Mirrors  []string `json:"registry-mirrors"`
		}
		if err == nil {
			err = json.Unmarshal(data, &said)
		}
		if err != nil {
			return false, nil, errdef.New(errdef.Invalid, "%s: %w", path, err)
		}
		insecure = insecure || slices.ContainsFunc(said.Insecure, func(entry string) bool { return inNetwork(entry, name) })
		if name != reference.DefaultDomain || mirrors != nil {
			continue
		}
		for _, text := range said.Mirrors {
			h, _, err := server{}.host(text, "", trust{})
			if err != nil {
				return false, nil, errdef.New(errdef.Invalid, "%s: %w", path, err)
			}
			mirrors = append(mirrors, registry.Mirror{Host: h, Can: registry.CanPull | registry.CanResolve})
		}
	}
	return insecure, mirrors, nil
}
