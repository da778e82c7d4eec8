// Package policy says which images may be taken, by podman's policy.json (containers-policy.json(5)): a requirement "reject" or
// "insecureAcceptAnything" for each scope. It verifies no signatures: what asks for one is refused, never let through.
//
// Without a file everything may be taken, as with docker.
package policy

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"berth/internal/errdef"
	"berth/internal/image/reference"
)

// Policy is a policy.json. The zero value lets everything in.
type Policy struct {
	path       string // "" is no file
	Default    []requirement
	Transports map[string]map[string][]requirement
}

type requirement struct {
	Type string `json:"type"`
}

// Transports, by podman's names: where an image comes from.
const (
	Docker        = "docker"
	DockerArchive = "docker-archive"
	OCI           = "oci"
	OCIArchive    = "oci-archive"
	Dir           = "dir"
)

// Files are the places of the file, the first that there is counts.
func Files(getenv func(string) string) []string {
	files := []string{"/etc/containers/policy.json"}
	config := getenv("XDG_CONFIG_HOME")
	if home := getenv("HOME"); config == "" && home != "" {
		config = filepath.Join(home, ".config")
	}
	if config != "" {
		files = append([]string{filepath.Join(config, "containers/policy.json")}, files...)
	}
	return files
}

const maxFile = 4 << 20

// Read reads the first of files that there is.
func Read(files []string) (Policy, error) {
	for _, path := range files {
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return Policy{}, errdef.New(errdef.Denied, "cannot read the policy about images: %w", err)
		}
		data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
		_ = f.Close()
		if err == nil && len(data) > maxFile {
			err = errdef.New(errdef.Invalid, "it has more than %d bytes", maxFile)
		}
		var p Policy
		if err == nil {
			p, err = parse(data)
		}
		if err != nil {
			return p, errdef.New(errdef.Invalid, "cannot use the policy about images in %s: %w", path, err)
		}
		p.path = path
		return p, nil
	}
	return Policy{}, nil
}

func parse(data []byte) (Policy, error) {
	var p Policy
	if err := json.Unmarshal(data, &p); err != nil {
		return p, err
	}
	if len(p.Default) == 0 {
		return p, errors.New(`its "default" has no requirement`)
	}
	for _, scopes := range p.Transports {
		for scope, all := range scopes {
			if len(all) == 0 {
				return p, errdef.New(errdef.Invalid, "the scope %q has no requirement", scope)
			}
		}
	}
	return p, nil
}

// Registry says whether an image of a registry may be taken: nil, or errdef.Denied or Unsupported. What counts is the longest scope
// that there is: the reference, its repository and the parts of that up to the registry, "*.example.com" for registries below it, "".
func (p Policy) Registry(ref reference.Reference) error {
	return p.allow(Docker, registryScopes(ref), ref.Familiar())
}

func registryScopes(ref reference.Reference) []string {
	name := ref.Repository()
	scopes := []string{name + ":" + ref.Tag, name}
	if ref.Digest != "" {
		scopes[0] = name + "@" + string(ref.Digest)
	}
	for strings.Contains(name, "/") {
		name = name[:strings.LastIndexByte(name, '/')]
		scopes = append(scopes, name)
	}
	host, _, _ := strings.Cut(name, ":")
	for {
		_, rest, ok := strings.Cut(host, ".")
		if !ok {
			return scopes
		}
		scopes = append(scopes, "*."+rest)
		host = rest
	}
}

// File says the same of an image in a file or a directory; path is "" where it has none. The scopes are the path, with a name after a colon for "oci" and
// "oci-archive", and the directories above.
func (p Policy) File(transport, path, name string) error {
	var scopes []string
	if abs, err := filepath.Abs(path); err == nil && path != "" && transport != DockerArchive { // which has no scopes
		if name != "" {
			scopes = append(scopes, abs+":"+name)
		}
		for ; abs != "/"; abs = filepath.Dir(abs) {
			scopes = append(scopes, abs)
		}
	}
	return p.allow(transport, scopes, transport+":"+path)
}

func (p Policy) allow(transport string, scopes []string, what string) error {
	if p.path == "" {
		return nil
	}
	all := p.Default
	for _, scope := range append(scopes, "") {
		if found, ok := p.Transports[transport][scope]; ok {
			all = found
			break
		}
	}
	for _, r := range all {
		switch r.Type {
		case "insecureAcceptAnything":
		case "reject":
			return errdef.New(errdef.Denied, "the policy in %s rejects %s", p.path, what)
		default:
			return errdef.Hint(errdef.New(errdef.Unsupported, "the policy in %s asks for a signature of %s (%.60q), and berth verifies none", p.path, what, r.Type),
				"use a tool that does, or change the policy")
		}
	}
	return nil
}
