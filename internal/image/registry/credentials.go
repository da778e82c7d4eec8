package registry

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"berth/internal/errdef"
	machine "berth/internal/host"
	"berth/internal/image/reference"
)

// Credentials are what was entered for one registry. The zero value is anonymous.
type Credentials struct {
	Username, Password string
	IdentityToken      string // OAuth 2 refresh token, given to the token server
	RegistryToken      string // Bearer token, given to the registry
}

// AuthFiles lists where credentials are looked for, the first file that knows the registry wins: the one that
// $REGISTRY_AUTH_FILE names and then no other; docker's; podman's of this login session and of this user.
func AuthFiles(getenv func(string) string) []string {
	if file := getenv("REGISTRY_AUTH_FILE"); file != "" {
		return []string{file}
	}
	var files []string
	home := getenv("HOME")
	if dir := getenv("DOCKER_CONFIG"); dir != "" {
		files = append(files, filepath.Join(dir, "config.json"))
	} else if home != "" {
		files = append(files, filepath.Join(home, ".docker/config.json"))
	}
	if dir := getenv("XDG_RUNTIME_DIR"); dir != "" {
		files = append(files, filepath.Join(dir, "containers/auth.json"))
	} else {
		files = append(files, filepath.Join("/run/containers", strconv.Itoa(machine.Caller().UID), "auth.json"))
	}
	if dir := getenv("XDG_CONFIG_HOME"); dir != "" {
		files = append(files, filepath.Join(dir, "containers/auth.json"))
	} else if home != "" {
		files = append(files, filepath.Join(home, ".config/containers/auth.json"))
	}
	return files
}

// FromFiles returns an Options.Credentials that reads files, of docker's and podman's common format, when a registry
// asks for credentials. A file that cannot be read is told to notice and passed over, as docker does.
func FromFiles(files []string, notice func(string)) func(context.Context, reference.Reference) (Credentials, error) {
	return func(ctx context.Context, ref reference.Reference) (Credentials, error) {
		for _, path := range files {
			file, err := readAuthFile(path)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				if notice != nil {
					notice(fmt.Sprintf("credentials in %s are not used: %v", path, err))
				}
				continue
			}
			found, err := file.find(ctx, ref)
			if err != nil {
				return Credentials{}, fmt.Errorf("cannot find credentials for %s as %s says: %w", ref.Domain, path, err)
			}
			if found != (Credentials{}) {
				return found, nil
			}
		}
		return Credentials{}, nil
	}
}

// authFile is docker's config.json and podman's auth.json (containers-auth.json(5)), as far as it is about registries.
type authFile struct {
	Auths       map[string]authEntry `json:"auths"`
	CredsStore  string               `json:"credsStore"`
	CredHelpers map[string]string    `json:"credHelpers"`
}

type authEntry struct {
	Auth          string `json:"auth"` // base64 of "user:password"
	Username      string `json:"username"`
	Password      string `json:"password"`
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

func readAuthFile(path string) (authFile, error) {
	const most = 4 << 20
	var file authFile
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return file, err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return file, errors.Join(err, fmt.Errorf("%s is not a regular file", path))
	}
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	switch {
	case err != nil:
		return file, err
	case len(data) > most:
		return file, fmt.Errorf("it has more than %d bytes", most)
	case len(strings.TrimSpace(string(data))) == 0: // docker takes an empty file for {}
		return file, nil
	}
	// The error must not show what is in the file.
	if err := json.Unmarshal(data, &file); err != nil {
		return file, errors.New("it is not JSON of the expected form")
	}
	return file, nil
}

// hubServer is the name under which docker keeps Docker Hub's credentials.
const hubServer = "https://index.docker.io/v1/"

// find looks for credentials for the repository of ref: a helper for the registry, then the general helper, then the
// file itself.
func (a authFile) find(ctx context.Context, ref reference.Reference) (Credentials, error) {
	server := ServerName(ref.Domain)
	helper := a.helper(server, ref.Domain)
	if helper != "" {
		found, err := askHelper(ctx, helper, server)
		if err != nil || found != (Credentials{}) {
			return found, err
		}
	}
	// Podman keeps credentials for parts of a registry, too: the longest match wins.
	for name := ref.Repository(); ; name = name[:strings.LastIndexByte(name, '/')] {
		if entry, ok := a.entry(name); ok {
			return entry.credentials()
		}
		if !strings.Contains(name, "/") {
			return Credentials{}, nil
		}
	}
}

// entry finds the entry that means name, a registry or a part of one. Old versions of docker wrote URLs.
func (a authFile) entry(name string) (authEntry, bool) {
	if entry, ok := a.Auths[name]; ok {
		return entry, true
	}
	if strings.Contains(name, "/") {
		return authEntry{}, false
	}
	if name == reference.DefaultDomain {
		if entry, ok := a.Auths[hubServer]; ok {
			return entry, true
		}
	}
	var best string
	for key := range a.Auths {
		rest, ok := strings.CutPrefix(key, "https://")
		if !ok {
			rest, ok = strings.CutPrefix(key, "http://")
		}
		host, _, _ := strings.Cut(rest, "/")
		if ok && (host == name || host == "index.docker.io" && name == reference.DefaultDomain) && (best == "" || key < best) {
			best = key // the first in order, so that the answer does not depend on the map's
		}
	}
	entry, ok := a.Auths[best]
	return entry, ok && best != ""
}

func (e authEntry) credentials() (Credentials, error) {
	c := Credentials{e.Username, e.Password, e.IdentityToken, e.RegistryToken}
	if e.Auth != "" {
		text, err := base64.StdEncoding.DecodeString(e.Auth)
		user, password, ok := strings.Cut(string(text), ":")
		if err != nil || !ok {
			return Credentials{}, errdef.New(errdef.Invalid, `"auth" is not the base64 form of user:password`)
		}
		c.Username, c.Password = user, strings.TrimRight(password, "\x00") // docker pads with NUL
	}
	return c, nil
}
