package build

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"berth/internal/build/cache"
	"berth/internal/build/dockerfile"
	"berth/internal/build/files"
	"berth/internal/container"
	"berth/internal/errdef"
	"berth/internal/image/merged"
	"berth/internal/state"

	"golang.org/x/sys/unix"
)

// Secret returns the value of a secret; fs.ErrNotExist says that there is none of that id.
type Secret func(id string) ([]byte, error)

// mounting makes the mounts of one RUN.
type mounting struct {
	b     *builder
	run   *dockerfile.Run
	on    []string    // the trees of the stage
	w     *cache.Work // of the step
	cfg   *container.Config
	ends  []func() error
	made  int
	agent int
	ram   *cache.Work // a directory of the run root, for what must not reach a disk
}

// end gives everything back.
func (m *mounting) end() error {
	var errs error
	for i := len(m.ends) - 1; i >= 0; i-- {
		errs = errors.Join(errs, m.ends[i]())
	}
	return errs
}

// all makes all mounts.
func (m *mounting) all(ctx context.Context) error {
	if s := m.run.Script; s.Name != "" {
		dir := filepath.Join(m.w.Dir, "script")
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, s.Name), []byte(s.Data), os.FileMode(s.Mode)); err != nil {
			return err
		}
		m.bind(dir, dockerfile.ScriptDir, true)
	}
	if m.b.CABundle != "" {
		if err := m.certificates(); err != nil {
			return fmt.Errorf("cannot mount the certificates of %s: %w", m.b.CABundle, err)
		}
	}
	for _, mount := range m.run.Mounts {
		var err error
		switch mount.Type {
		case "bind":
			err = m.files(ctx, mount)
		case "cache":
			err = m.cache(ctx, mount)
		case "tmpfs":
			err = m.tmpfs(mount)
		case "secret":
			err = m.secret(mount)
		case "ssh":
			err = m.ssh(mount)
		}
		if err != nil {
			return fmt.Errorf("cannot mount %s: %w", describe(mount), err)
		}
	}
	return nil
}

func describe(m dockerfile.Mount) string {
	if m.Target == "" {
		return "type=" + m.Type
	}
	return "type=" + m.Type + ",target=" + m.Target
}

func (m *mounting) bind(source, target string, readOnly bool) {
	m.cfg.Mounts = append(m.cfg.Mounts, container.Mount{
		Type: container.MountBind, Source: source, Target: target, ReadOnly: readOnly, Origin: "RUN --mount",
	})
}

// point makes an empty place for a mount below all layers, unless there is something, so that none has to be made in the layer.
func (m *mounting) point(target string, dir bool) error {
	found, err := merged.Resolve(m.on, target, true)
	if errors.Is(err, unix.ENOTDIR) {
		return errdef.New(errdef.Invalid, "something on the way to %s is not a directory", target)
	}
	if err != nil || found.Kind != 0 {
		return err
	}
	place := filepath.Join(state.StepPoints(m.w.Dir), found.Path)
	if dir {
		return os.MkdirAll(place, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(place), 0o755); err != nil {
		return err
	}
	return os.WriteFile(place, nil, 0o644)
}

// files mounts files of the context or of a stage. What is written there is nobody's.
func (m *mounting) files(ctx context.Context, mount dockerfile.Mount) error {
	tree, err := m.b.tree(ctx, mount.From)
	if err != nil {
		return err
	}
	source := mount.Source
	if source == "" {
		source = "."
	}
	item, err := tree.Find(source)
	if errors.Is(err, fs.ErrNotExist) {
		return notFound(source)
	}
	if err != nil {
		return err
	}
	defer item.Close()
	if err := m.point(mount.Target, item.Dir != nil); err != nil {
		return err
	}
	if mount.ReadOnly && !fromHost(mount.From) && !m.run.Insecure {
		if at, ok := item.Place(); ok { // in one layer, which nobody changes
			m.bind(at, mount.Target, true)
			return nil
		}
	}
	m.made++
	dir := filepath.Join(m.w.Dir, "mount"+strconv.Itoa(m.made))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	l, err := files.Open(dir, nil, m.b.now)
	if err != nil {
		return err
	}
	defer l.Close()
	if err := l.Copy(ctx, item, "/it", files.Options{Anonymous: fromHost(mount.From)}); err != nil {
		return err
	}
	m.bind(filepath.Join(dir, "it"), mount.Target, mount.ReadOnly)
	return nil
}

// cache mounts a directory that outlives the build.
func (m *mounting) cache(ctx context.Context, mount dockerfile.Mount) error {
	id := mount.ID
	if mount.From != nil {
		id += "\x00" + string(m.b.results[mount.From].top()) + "\x00" + mount.Source
	} else if path.Join("/", mount.Source) != "/" {
		return errdef.New(errdef.Unsupported, "a cache has a source only if it is filled from a stage or an image")
	}
	dir, unlock, err := m.b.cache.Dir(ctx, id, mount.Sharing, func(dir string) error { return m.fill(ctx, dir, mount) })
	if err != nil {
		return err
	}
	m.ends = append(m.ends, func() error { unlock(); return nil })
	if err := m.point(mount.Target, true); err != nil {
		return err
	}
	m.bind(dir, mount.Target, mount.ReadOnly)
	return nil
}

// fill makes the first content of a cache.
func (m *mounting) fill(ctx context.Context, dir string, mount dockerfile.Mount) error {
	mode, owner := uint32(0o755), files.Owner{}
	if mount.Mode != nil {
		mode = *mount.Mode
	}
	if mount.UID != nil {
		owner.UID = int(*mount.UID)
	}
	if mount.GID != nil {
		owner.GID = int(*mount.GID)
	}
	if err := errors.Join(os.Chown(dir, owner.UID, owner.GID), unix.Chmod(dir, mode)); err != nil {
		return err
	}
	if mount.From == nil {
		return nil
	}
	tree, err := m.b.tree(ctx, mount.From)
	if err != nil {
		return err
	}
	item, err := tree.Find(path.Join(".", mount.Source))
	if errors.Is(err, fs.ErrNotExist) {
		return notFound(mount.Source)
	}
	if err != nil {
		return err
	}
	defer item.Close()
	if item.Dir == nil {
		return errdef.New(errdef.Invalid, "%s is not a directory", mount.Source)
	}
	l, err := files.Open(dir, nil, m.b.now)
	if err != nil {
		return err
	}
	defer l.Close()
	return l.Copy(ctx, item, "/", files.Options{})
}

func (m *mounting) tmpfs(mount dockerfile.Mount) error {
	if err := m.point(mount.Target, true); err != nil {
		return err
	}
	m.cfg.Mounts = append(m.cfg.Mounts, container.Mount{
		Type: container.MountTmpfs, Target: mount.Target, ReadOnly: mount.ReadOnly, TmpfsBytes: mount.Bytes, Options: []string{"exec"}, Origin: "RUN --mount",
	})
	return nil
}

// memory makes a directory where the instance keeps what dies with the boot.
func (m *mounting) memory() (string, error) {
	if m.ram == nil {
		w, err := cache.BeginIn(filepath.Join(m.b.engine.Settings.RunRoot, "build"))
		if err != nil {
			return "", err
		}
		m.ram = w
		m.ends = append(m.ends, func() error { return w.End(os.RemoveAll) })
	}
	m.made++
	return filepath.Join(m.ram.Dir, strconv.Itoa(m.made)), nil
}

// secret mounts a secret as a file, or makes it a variable. Nothing of it is on disk beyond what the run root is on.
func (m *mounting) secret(mount dockerfile.Mount) error {
	id := mount.Source
	if id == "" {
		id = mount.ID
	}
	if id == "" {
		id = path.Base(mount.Target)
	}
	value, err := m.b.Secret(id)
	if errors.Is(err, fs.ErrNotExist) {
		if !mount.Required {
			return nil
		}
		return errdef.Hint(errdef.New(errdef.NotFound, "secret %s: not found", id), "give it with --secret id=%s,src=FILE", id)
	}
	if err != nil {
		return err
	}
	if mount.Env != nil {
		name := *mount.Env
		if name == "" {
			name = id
		}
		m.cfg.Env = append(m.cfg.Env, name+"="+string(value))
		if mount.Target == "" {
			return nil
		}
	}
	target := "/run/secrets/" + path.Base(id)
	if mount.Target != "" {
		target = dockerfile.Absolute(m.run.Workdir, mount.Target)
	}
	file, err := m.memory()
	if err != nil {
		return err
	}
	if err := os.WriteFile(file, value, 0o400); err != nil {
		return err
	}
	if err := own(file, mount, 0o400); err != nil {
		return err
	}
	if err := m.point(target, false); err != nil {
		return err
	}
	m.bind(file, target, true)
	return nil
}

// own gives a file the owner and the mode that a mount asks for.
func own(file string, mount dockerfile.Mount, mode uint32) error {
	uid, gid := 0, 0
	if mount.UID != nil {
		uid = int(*mount.UID)
	}
	if mount.GID != nil {
		gid = int(*mount.GID)
	}
	if mount.Mode != nil {
		mode = *mount.Mode
	}
	return errors.Join(os.Chown(file, uid, gid), unix.Chmod(file, mode))
}

// ssh mounts the socket of an agent, which can sign and list its keys, and nothing else.
func (m *mounting) ssh(mount dockerfile.Mount) error {
	id := mount.ID
	if id == "" {
		id = "default"
	}
	agent, ok := m.b.SSH[id]
	if !ok {
		if !mount.Required {
			return nil
		}
		return errdef.Hint(errdef.New(errdef.NotFound, "no SSH key %q forwarded from the client", id), "give it with --ssh %s", id)
	}
	target := "/run/buildkit/ssh_agent." + strconv.Itoa(m.agent)
	if mount.Target != "" {
		target = dockerfile.Absolute(m.run.Workdir, mount.Target)
	}
	m.agent++
	socket, err := m.memory()
	if err != nil {
		return err
	}
	stop, err := forwardAgent(socket, agent)
	if err != nil {
		return err
	}
	m.ends = append(m.ends, stop)
	if err := own(socket, mount, 0o600); err != nil {
		return err
	}
	if err := m.point(target, false); err != nil {
		return err
	}
	m.bind(socket, target, true)
	if !slices.ContainsFunc(m.cfg.Env, func(v string) bool { return strings.HasPrefix(v, "SSH_AUTH_SOCK=") }) {
		m.cfg.Env = append(m.cfg.Env, "SSH_AUTH_SOCK="+target)
	}
	return nil
}

// certificateFiles are where programs look for the certificates that they trust: on Debian and Alpine, Red Hat, SUSE, and where OpenSSL was built so.
var certificateFiles = [...]string{
	"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem",
}

// certificateVariables name a file of certificates to OpenSSL, Go, curl, Python, Node and git.
var certificateVariables = [...]string{"SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "PIP_CERT", "NODE_EXTRA_CA_CERTS", "GIT_SSL_CAINFO"}

// certificatesPoint is where the certificates are in any case: no package has a file there.
const certificatesPoint = "/run/berth/ca-certificates.crt"

// maxCertificates bounds a file of certificates, in bytes.
const maxCertificates = 16 << 20

// certificates has a command trust further certificates: those that the tree has, and the bundle, are mounted together over each file that programs
// look at, and variables name it. None of that is in the layer, in the configuration or in the key of the cache.
func (m *mounting) certificates() error {
	bundle, err := os.ReadFile(m.b.CABundle)
	if err != nil {
		return err
	}
	have := []byte{}
	var over []string
	for _, name := range certificateFiles {
		found, err := merged.Resolve(m.on, name, true)
		if err != nil || found.Kind != unix.S_IFREG || slices.Contains(over, "/"+found.Path) {
			continue
		}
		text, err := merged.ReadFile(m.on, found.Path, maxCertificates)
		if err != nil {
			return err
		}
		if over = append(over, "/"+found.Path); len(have) == 0 {
			have = append(bytes.TrimRight(text, "\n"), '\n')
		}
	}
	file := filepath.Join(m.w.Dir, "certificates")
	if err := os.WriteFile(file, append(have, bundle...), 0o644); err != nil {
		return err
	}
	for _, target := range append(over, certificatesPoint) {
		if err := m.point(target, false); err != nil {
			return err
		}
		m.bind(file, target, true)
	}
	for _, name := range certificateVariables {
		if !slices.ContainsFunc(m.cfg.Env, func(v string) bool { return strings.HasPrefix(v, name+"=") }) {
			m.cfg.Env = append(m.cfg.Env, name+"="+certificatesPoint)
		}
	}
	return nil
}
