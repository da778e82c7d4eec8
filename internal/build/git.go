package build

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"berth/internal/build/cache"
	"berth/internal/disk"
	"berth/internal/errdef"

	"golang.org/x/sys/unix"
)

// repository is a git repository as docker writes it: URL#ref:subdir, or URL?ref=…&subdir=….
type repository struct {
	url    string // without fragment and query
	ref    string // branch, tag or commit; "" is the default branch
	subdir string
	commit string // what the ref is to be, if it was said
	// foreign says that the address is a Dockerfile's: it is reached with the agent that was given to the build, and with no key of the user's.
	foreign bool
}

// isGit tells a repository from other sources, as docker does.
func isGit(s string) bool {
	for _, prefix := range []string{"git@", "git://", "ssh://", "github.com/"} {
		if strings.HasPrefix(s, prefix) {
			return true
		}
	}
	at, _, _ := strings.Cut(s, "#")
	at, _, _ = strings.Cut(at, "?")
	return (strings.HasPrefix(at, "http://") || strings.HasPrefix(at, "https://")) && strings.HasSuffix(at, ".git") || scpLike.MatchString(s)
}

// scpLike is the form USER@HOST:PATH of an address.
var scpLike = regexp.MustCompile(`^[a-zA-Z0-9-_]+@[a-zA-Z0-9-.]+:[^/].*$`)

var commitID = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)

// parseRepository reads the address of a repository. Nothing of it can be taken for an option of git's, or for a program.
func parseRepository(s string) (r repository, err error) {
	if strings.HasPrefix(s, "github.com/") {
		s = "https://" + s
	}
	at, fragment, _ := strings.Cut(s, "#")
	r.ref, r.subdir, _ = strings.Cut(fragment, ":")
	if strings.Contains(at, "://") {
		base, query, _ := strings.Cut(at, "?")
		at = base
		values, err := url.ParseQuery(query)
		if err != nil {
			return r, errdef.New(errdef.Invalid, "invalid git address %s: %w", s, err)
		}
		for key, list := range values {
			v := list[0]
			switch key {
			case "ref", "branch", "tag":
				r.ref = v
			case "subdir":
				r.subdir = v
			case "checksum", "commit":
				r.commit = v
			default:
				return r, errdef.New(errdef.Unsupported, "cannot understand %q in the git address %s", key, s)
			}
		}
	}
	r.url = at
	switch {
	case strings.HasPrefix(r.url, "-"), strings.HasPrefix(r.ref, "-"), strings.ContainsAny(s, "\x00\n\r"), strings.Contains(r.ref, ":"), strings.Contains(r.url, "::"):
		return r, errdef.New(errdef.Invalid, "invalid git address %q", s)
	case r.commit != "" && !commitID.MatchString(r.commit):
		return r, errdef.New(errdef.Invalid, "invalid checksum %q: it is a whole commit ID", r.commit)
	}
	return r, nil
}

// git runs the host's git: without the host's and the user's configuration, without hooks, and without any way to reach a repository but those that
// a server may be reached by.
func (s *session) git(ctx context.Context, dir string, r repository, args ...string) (string, error) {
	of := r.url
	program, err := exec.LookPath("git")
	if err != nil {
		return "", errdef.Hint(errdef.New(errdef.Unsupported, "cannot fetch %s: there is no git program on this host", of), "install git, or clone the repository and name its directory")
	}
	cmd := exec.CommandContext(ctx, program, append([]string{
		"-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", "-c", "protocol.ext.allow=never", "-c", "advice.detachedHead=false",
		"-c", "core.symlinks=true", "-c", "gc.auto=0", "-c", "maintenance.auto=false",
	}, args...)...)
	cmd.Dir = dir
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		switch strings.ToUpper(name) {
		case "PATH", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR":
			cmd.Env = append(cmd.Env, v)
		case "HOME", "USER", "LOGNAME", "SSH_AUTH_SOCK":
			if !r.foreign {
				cmd.Env = append(cmd.Env, v)
			}
		}
	}
	ssh := "ssh -o BatchMode=yes"
	if r.foreign {
		ssh += " -F none -o IdentityFile=none"
	}
	if socket := s.SSH["default"]; socket != "" {
		cmd.Env = append(cmd.Env, "SSH_AUTH_SOCK="+socket)
	}
	cmd.Env = append(cmd.Env, "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_TERMINAL_PROMPT=0", "GIT_ASKPASS=true",
		"GIT_ALLOW_PROTOCOL=https:http:ssh:git", "GIT_SSH_COMMAND="+ssh, "GIT_LFS_SKIP_SMUDGE=1", "LC_ALL=C")
	if header := s.gitHeader(of); header != "" { // not an argument, which everybody could read
		cmd.Env = append(cmd.Env, "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=http."+origin(of)+".extraHeader", "GIT_CONFIG_VALUE_0=Authorization: "+header)
	}
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if ctx.Err() != nil {
		return "", errdef.As(errdef.Cancelled, context.Cause(ctx))
	}
	if err != nil {
		last := strings.TrimSpace(said.String())
		last = last[strings.LastIndexByte(last, '\n')+1:]
		if last == "" {
			last = err.Error()
		}
		return "", errdef.New(errdef.Unavailable, "cannot fetch %s: git %s: %.500s", of, args[0], last)
	}
	return string(out), nil
}

// origin is the server of an address, to which alone a token goes.
func origin(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return "https://invalid/"
	}
	return u.Scheme + "://" + u.Host + "/"
}

// gitHeader is what a server is to be shown, of BuildKit's secrets for that.
func (s *session) gitHeader(address string) string {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" {
		return ""
	}
	for _, id := range []string{"GIT_AUTH_HEADER." + u.Host, "GIT_AUTH_HEADER"} {
		if v, err := s.Secret(id); err == nil {
			return strings.TrimSpace(string(v))
		}
	}
	for _, id := range []string{"GIT_AUTH_TOKEN." + u.Host, "GIT_AUTH_TOKEN"} {
		if v, err := s.Secret(id); err == nil {
			return "basic " + base64.StdEncoding.EncodeToString([]byte("x-access-token:"+strings.TrimSpace(string(v))))
		}
	}
	return ""
}

// commitOf finds out which commit a repository's ref is.
func (s *session) commitOf(ctx context.Context, r repository) (string, error) {
	if commitID.MatchString(r.ref) {
		return r.ref, nil
	}
	ref := r.ref
	if ref == "" {
		ref = "HEAD"
	}
	out, err := s.git(ctx, "/", r, "ls-remote", "--", r.url, ref, ref+"^{}")
	if err != nil {
		return "", err
	}
	found, rank := "", 0
	for line := range strings.Lines(out) {
		id, name, ok := strings.Cut(strings.TrimSpace(line), "\t")
		if !ok || !commitID.MatchString(id) {
			continue
		}
		n := 1
		switch name { // a tag's commit comes before the tag itself, and a tag before a branch, as git has it
		case "refs/tags/" + ref + "^{}":
			n = 5
		case ref + "^{}", ref:
			n = 4
		case "refs/tags/" + ref:
			n = 3
		case "refs/heads/" + ref:
			n = 2
		}
		if n > rank {
			found, rank = id, n
		}
	}
	if found == "" {
		return "", errdef.New(errdef.NotFound, "repository %s does not contain ref %s", r.url, ref)
	}
	return found, nil
}

// checkout writes the files of a commit into a directory of its own, and returns where they, or those of the subdirectory, are.
func (s *session) checkout(ctx context.Context, r repository, commit string, keepGit bool) (dir string, err error) {
	if r.commit != "" && r.commit != commit {
		return "", errdef.New(errdef.Corrupt, "the commit of %s is %s, and not %s", r.url, commit, r.commit)
	}
	w, err := cache.BeginIn(filepath.Join(s.engine.Settings.DataRoot, "build", "steps"), "upper")
	if err != nil {
		return "", err
	}
	s.later(func() error { return w.End(s.engine.RemoveTree) })
	root := w.Upper()
	if _, err := s.git(ctx, root, r, "init", "-q", "--template="); err != nil {
		return "", err
	}
	if _, err := s.git(ctx, root, r, "remote", "add", "--", "origin", r.url); err != nil {
		return "", err
	}
	want := commit
	if r.ref != "" && !commitID.MatchString(r.ref) {
		want = r.ref
	} else if r.ref == "" {
		want = "HEAD"
	}
	_, err = s.git(ctx, root, r, "fetch", "-q", "--depth=1", "--no-tags", "--no-recurse-submodules", "--", "origin", want)
	if err != nil { // servers need not give a commit by its ID
		_, err = s.git(ctx, root, r, "fetch", "-q", "--no-recurse-submodules", "--", "origin", "+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*")
	}
	if err != nil {
		return "", err
	}
	if _, err := s.git(ctx, root, r, "checkout", "-q", "--detach", commit); err != nil {
		return "", err
	}
	if _, err := os.Lstat(filepath.Join(root, ".gitmodules")); err == nil {
		if _, err := s.git(ctx, root, r, "submodule", "-q", "update", "--init", "--recursive", "--depth=1"); err != nil {
			return "", err
		}
	}
	if !keepGit {
		if err := removeGit(root); err != nil {
			return "", err
		}
	}
	if r.subdir == "" {
		return root, nil
	}
	return beneath(root, r.subdir)
}

// removeGit removes what git keeps for itself: its directory, and the files that lead there from submodules.
func removeGit(root string) error {
	err := os.RemoveAll(filepath.Join(root, ".git"))
	return errors.Join(err, filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Name() == ".git" && d.Type().IsRegular() {
			err = os.Remove(p)
		}
		return err
	}))
}

// beneath is a directory of a tree that came from elsewhere; no link leads out of it.
func beneath(root, name string) (string, error) {
	f, err := os.Open(root)
	if err != nil {
		return "", err
	}
	defer f.Close()
	fd, err := disk.OpenIn(int(f.Fd()), path.Join(".", name), unix.O_PATH|unix.O_DIRECTORY, 0, disk.Beneath)
	if err != nil {
		return "", errdef.New(errdef.NotFound, "cannot use the subdirectory %s: %v", name, err)
	}
	defer unix.Close(fd)
	return os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
}
