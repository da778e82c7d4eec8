package runtimecli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/host"
	"berth/internal/runtime/plan"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// checkVersion refuses a config.json of another major version of the spec than this runtime's (config.md, "Specification version").
func checkVersion(version string) error {
	core, _, _ := strings.Cut(version, "+")
	core, _, _ = strings.Cut(core, "-")
	parts := strings.Split(core, ".")
	ok := len(parts) == 3
	for _, p := range parts {
		_, err := strconv.ParseUint(p, 10, 31)
		ok = ok && err == nil
	}
	if !ok {
		return errdef.New(errdef.Invalid, "the ociVersion %q is not a version such as %q", version, SpecVersion)
	}
	if parts[0] != strconv.Itoa(specs.VersionMajor) {
		return errdef.New(errdef.Unsupported, "config.json follows version %s of the runtime spec; this runtime follows %s", version, SpecVersion)
	}
	return nil
}

// checkAnnotations refuses what config.md ("Annotations") does.
func checkAnnotations(a map[string]string) error {
	if _, empty := a[""]; empty {
		return errdef.New(errdef.Invalid, "an annotation has no key")
	}
	return nil
}

// leaveOutOwn leaves out namespaces that are joined by a path and are the runtime's own: the container has none of that type to itself, and
// may not be given what belongs to one, such as a host name.
func leaveOutOwn(linux *specs.Linux) error {
	var failed error
	linux.Namespaces = slices.DeleteFunc(linux.Namespaces, func(n specs.LinuxNamespace) bool {
		if n.Path == "" {
			return false
		}
		var theirs, ours unix.Stat_t
		if err := unix.Stat(n.Path, &theirs); err != nil {
			failed = errors.Join(failed, errdef.New(errdef.Invalid, "cannot join the %s namespace: %w", n.Type, &os.PathError{Op: "stat", Path: n.Path, Err: err}))
			return false
		}
		name := map[specs.LinuxNamespaceType]string{specs.NetworkNamespace: "net", specs.MountNamespace: "mnt"}[n.Type]
		if name == "" {
			name = string(n.Type)
		}
		return unix.Stat("/proc/thread-self/ns/"+name, &ours) == nil && theirs.Ino == ours.Ino && theirs.Dev == ours.Dev
	})
	return failed
}

// grant leaves out capabilities that this kernel does not know or this process cannot give, with a warning, as config.md ("Linux process",
// capabilities) asks for. In a user namespace of its own a process has all that the kernel knows.
func (s Store) grant(p *specs.Process, h host.Facts, ownUser bool) {
	if p.Capabilities == nil {
		return
	}
	may := h.Bounding
	if ownUser {
		may = 1<<(h.LastCap+1) - 1
	}
	var refused []string
	for _, set := range []*[]string{&p.Capabilities.Bounding, &p.Capabilities.Effective, &p.Capabilities.Permitted, &p.Capabilities.Inheritable, &p.Capabilities.Ambient} {
		*set = slices.DeleteFunc(slices.Clone(*set), func(name string) bool {
			n, known := plan.CapabilityNumber(name)
			if known && may&(1<<n) != 0 {
				return false
			}
			if !slices.Contains(refused, name) {
				refused = append(refused, name)
			}
			return true
		})
	}
	if len(refused) > 0 && s.Warn != nil {
		s.Warn(fmt.Errorf("left out capabilities that are unknown or cannot be granted here: %s", strings.Join(refused, ", ")))
	}
}

// keepModes gives a tmpfs for which no mode is asked that of the directory in its place, as runc does.
func (b *bundle) keepModes() {
	mounts := b.in.Spec.Mounts
	if !slices.ContainsFunc(mounts, func(m specs.Mount) bool { return m.Type == "tmpfs" }) {
		return
	}
	root, err := os.Open(b.in.Spec.Root.Path)
	if err != nil {
		return // what then mounts it says why
	}
	defer root.Close()
	for i, m := range mounts {
		if m.Type != "tmpfs" || slices.ContainsFunc(m.Options, func(o string) bool { return strings.HasPrefix(o, "mode=") || o == "tmpcopyup" }) {
			continue
		}
		fd, err := disk.OpenIn(int(root.Fd()), filepath.Join("/", m.Destination), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0, disk.InRoot)
		if err != nil {
			continue // it will be made
		}
		var st unix.Stat_t
		if unix.Fstat(fd, &st) == nil {
			mounts[i].Options = append(slices.Clone(m.Options), fmt.Sprintf("mode=%04o", st.Mode&0o7777))
		}
		_ = unix.Close(fd)
	}
}
