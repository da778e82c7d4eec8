// Package hosts finds how registries are spoken to, in the files that people have for that: certificates in certs.d, as docker and podman
// have them; hosts.toml of containerd, also there; registries.conf of podman; and two keys of docker's daemon.json.
//
//	DIR/REGISTRY/hosts.toml            mirrors, and all that can be said of a server; the first that there is counts, and then
//	                                   no other file says anything of mirrors. DIR/_default is for registries without a directory
//	DIR/REGISTRY/*.crt                 authorities, beside the system's
//	DIR/REGISTRY/*.cert, *.key         certificates for a server that asks for one
//	registries.conf, registries.conf.d the tables [[registry]]: location, mirrors, insecure, blocked
//	daemon.json                        insecure-registries, registry-mirrors (of Docker Hub)
//
// It speaks to nobody. A file that cannot be understood is an error for the registries that it is about, never passed over.
package hosts

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"io/fs"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"berth/internal/errdef"
	"berth/internal/image/reference"
	"berth/internal/image/registry"
)

// Files is where to look, the more important first. Notice gets one line when a file may not be read; nil tells nobody.
type Files struct {
	Dirs       []string // certs.d
	Registries []string // registries.conf and what is added to it: a later one counts before an earlier one
	Daemon     []string // daemon.json
	Notice     func(string)
}

// Usual are the places of the user whose environment getenv has, then the machine's.
func Usual(getenv func(string) string) Files {
	var f Files
	config := getenv("XDG_CONFIG_HOME")
	if home := getenv("HOME"); config == "" && home != "" {
		config = filepath.Join(home, ".config")
	}
	main := "/etc/containers/registries.conf"
	added := []string{"/etc/containers/registries.conf.d"}
	if config != "" {
		for _, whose := range []string{"berth", "docker", "containers"} {
			f.Dirs = append(f.Dirs, filepath.Join(config, whose, "certs.d"))
		}
		f.Daemon = append(f.Daemon, filepath.Join(config, "docker/daemon.json"))
		added = append(added, filepath.Join(config, "containers/registries.conf.d"))
		if own := filepath.Join(config, "containers/registries.conf"); exists(own) {
			main = own
		}
	}
	f.Dirs = append(f.Dirs, "/etc/berth/certs.d", "/etc/docker/certs.d", "/etc/containers/certs.d")
	f.Daemon = append(f.Daemon, "/etc/docker/daemon.json")
	if own := getenv("CONTAINERS_REGISTRIES_CONF"); own != "" {
		f.Registries = []string{own}
		return f
	}
	f.Registries = []string{main}
	for _, dir := range added {
		more, _ := filepath.Glob(filepath.Join(dir, "*.conf")) // sorted; the pattern is well formed
		f.Registries = append(f.Registries, more...)
	}
	return f
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// Host says how a registry, "localhost:5000", is spoken to.
func (f Files) Host(name string) (registry.Host, error) {
	var h registry.Host
	fail := func(err error) (registry.Host, error) {
		return h, errdef.New(errdef.Invalid, "cannot tell how the registry %s is spoken to: %w", name, err)
	}
	if strings.ContainsAny(name, "/\\\x00") || name == ".." || name == "." { // it becomes a file's name
		return fail(errors.New("it is no host"))
	}
	trust, err := f.certificates(name)
	if err != nil {
		return fail(err)
	}
	h, found, err := f.hostsTOML(name, trust)
	if err != nil {
		return fail(err)
	}
	if !found {
		if h, err = f.podman(name, trust); err != nil {
			return h, err
		}
	}
	insecure, mirrors, err := f.docker(name)
	if err != nil {
		return fail(err)
	}
	if insecure {
		h.Insecure, h.RootCAs = true, nil
	}
	if !found && len(h.Mirrors) == 0 {
		h.Mirrors = mirrors
	}
	return h, nil
}

// trust is what is known of a server's certificates and of ours.
type trust struct {
	roots        *x509.CertPool // nil: the system's
	certificates []tls.Certificate
}

// names are the directories for a registry. A colon is not wanted in some file systems, nor by containerd.
func names(name string) []string {
	all := []string{name}
	if host, port, ok := cutPort(name); ok {
		all = append(all, host+"_"+port+"_")
	}
	if name == reference.DefaultDomain {
		all = append(all, "registry-1.docker.io", "index.docker.io")
	}
	return all
}

func cutPort(name string) (host, port string, ok bool) {
	i := strings.LastIndexByte(name, ':')
	if i < 0 || strings.HasSuffix(name, "]") {
		return name, "", false
	}
	return name[:i], name[i+1:], true
}

// certificates reads what is beside hosts.toml.
func (f Files) certificates(name string) (trust, error) {
	var t trust
	for _, dir := range f.Dirs {
		for _, n := range names(name) {
			entries, err := os.ReadDir(filepath.Join(dir, n))
			if err = f.absent(err, filepath.Join(dir, n)); err != nil {
				return t, err
			}
			for _, e := range entries {
				path := filepath.Join(dir, n, e.Name())
				switch filepath.Ext(path) {
				case ".crt":
					err = t.addRoot(path)
				case ".cert":
					err = t.addCertificate(path, strings.TrimSuffix(path, ".cert")+".key")
				case ".key":
					if cert := strings.TrimSuffix(path, ".key") + ".cert"; !exists(cert) {
						err = errdef.New(errdef.Invalid, "the key %s is without its certificate %s", path, cert)
					}
				}
				if err = f.absent(err, path); err != nil {
					return t, err
				}
			}
		}
	}
	return t, nil
}

// absent passes over what is not there, and says it of what is not for us to read.
func (f Files) absent(err error, path string) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		if f.Notice != nil {
			f.Notice(path + " is not used: it may not be read")
		}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	return nil
}

func (t *trust) addRoot(path string) error {
	data, err := read(path)
	if err != nil {
		return err
	}
	if t.roots == nil {
		if t.roots, err = x509.SystemCertPool(); err != nil {
			t.roots = x509.NewCertPool()
		}
	} else {
		t.roots = t.roots.Clone()
	}
	if !t.roots.AppendCertsFromPEM(data) {
		return errdef.New(errdef.Invalid, "%s has no certificate of the form PEM", path)
	}
	return nil
}

// addCertificate reads a certificate and its key, which may be in one file.
func (t *trust) addCertificate(cert, key string) error {
	if key == "" {
		key = cert
	}
	certPEM, err := read(cert)
	if err != nil {
		return err
	}
	keyPEM, err := read(key)
	if errors.Is(err, fs.ErrNotExist) {
		return errdef.New(errdef.Invalid, "the certificate %s is without its key %s", cert, key)
	}
	if err != nil {
		return err
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return errdef.New(errdef.Invalid, "cannot use the certificate %s with %s: %w", cert, key, err)
	}
	t.certificates = append(slices.Clip(t.certificates), pair)
	return nil
}

// maxFile is more than any of these files has.
const maxFile = 4 << 20

func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = errdef.New(errdef.Invalid, "%s has more than %d bytes", path, maxFile)
	}
	return data, err
}

func (t trust) apply(h *registry.Host) { h.RootCAs, h.Certificates = t.roots, t.certificates }

// parseURL reads the URL of a server, which may be a host alone.
func parseURL(s string) (*url.URL, error) {
	if !strings.Contains(s, "://") {
		s = "https://" + s
	}
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, errdef.New(errdef.Invalid, "%q is not the URL of a server", s)
	}
	if _, err := reference.Parse(hostOf(u) + "/x"); err != nil {
		return nil, errdef.New(errdef.Invalid, "%q is not the URL of a server: %w", s, err)
	}
	return u, nil
}

// hostOf is a URL's host as a reference has it: a word alone would be a path there.
func hostOf(u *url.URL) string {
	if u.Port() == "" && !strings.ContainsAny(u.Host, ".") && u.Host != "localhost" {
		return u.Host + ":443"
	}
	return u.Host
}

// inNetwork reports whether a host is one that docker's insecure-registries has: itself, or an address of a network.
func inNetwork(entry, name string) bool {
	if entry == name {
		return true
	}
	network, err := netip.ParsePrefix(entry)
	if err != nil {
		return false
	}
	host, _, _ := cutPort(name)
	ip, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && network.Contains(ip.Unmap())
}
