package plan

import (
	"cmp"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"berth/internal/host"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// mountOptions are the options of a mount, sorted by what they belong to.
type mountOptions struct {
	bind        bool
	recursive   bool // rbind
	attr        attr // of the mount
	all         attr // of the mount and everything below it: ro becomes rro
	propagation uint64
	propagates  bool // to mounts below, too
	settings    []setting
	subpath     string // only that part of the source
	idmap       bool   // owners are translated
	idmapAll    bool   // of everything below it, too
	copyUp      bool   // a new file system begins with what the root has in its place
	remount     bool   // only the attributes of the mount that is there change
}

// SubpathOption begins the option of a bind mount that names a part of the source, beneath which it is looked up. No other runtime knows it.
const SubpathOption = "x-berth.subpath="

// parseOptions sorts the options of the runtime spec (config.md, "Linux mount options").
func parseOptions(m specs.Mount) (mountOptions, error) {
	var o mountOptions
	o.bind = m.Type == "bind"
	for _, option := range m.Options {
		if p := propagationOf(option); p != 0 {
			o.propagation, o.propagates = p&^unix.MS_REC, p&unix.MS_REC != 0
			continue
		}
		if a, ok := attributeOf(option); ok {
			o.attr.set = o.attr.set&^a.clear | a.set
			o.attr.clear |= a.clear
			continue
		}
		if r, ok := strings.CutPrefix(option, "r"); ok {
			if a, ok := attributeOf(r); ok {
				o.all.set = o.all.set&^a.clear | a.set
				o.all.clear |= a.clear
				continue
			}
		}
		if sub, ok := strings.CutPrefix(option, SubpathOption); ok {
			o.subpath = sub
			continue
		}
		switch option {
		case "bind":
			o.bind = true
		case "rbind":
			o.bind, o.recursive = true, true
		case "defaults", "async", "loud", "nomand", "nolazytime", "noiversion":
		case "silent", "sync", "dirsync", "lazytime", "mand", "iversion":
			o.settings = append(o.settings, setting{key: option})
		case "idmap":
			o.idmap = true
		case "ridmap":
			o.idmap, o.idmapAll = true, true
		case "tmpcopyup":
			o.copyUp = true
		case "remount":
			o.remount = true
		default:
			key, value, has := strings.Cut(option, "=")
			if has && value == "" {
				return o, fmt.Errorf("the option %q of the mount at %s has no value", option, m.Destination)
			}
			o.settings = append(o.settings, setting{key: key, value: value})
		}
	}
	o.idmap = o.idmap || len(m.UIDMappings)+len(m.GIDMappings) > 0
	switch {
	case o.idmap && !o.bind:
		return o, fmt.Errorf("the mount at %s cannot translate owners: only bind mounts do", m.Destination)
	case (len(m.UIDMappings) == 0) != (len(m.GIDMappings) == 0):
		return o, fmt.Errorf("the mount at %s needs both uidMappings and gidMappings, or none", m.Destination)
	case o.copyUp && (o.bind || m.Type != "tmpfs"):
		return o, fmt.Errorf("the option \"tmpcopyup\" of the mount at %s is for a tmpfs alone", m.Destination)
	}
	return o, nil
}

func attributeOf(option string) (attr, bool) {
	const atime = unix.MOUNT_ATTR__ATIME
	switch option {
	case "ro":
		return attr{set: unix.MOUNT_ATTR_RDONLY}, true
	case "rw":
		return attr{clear: unix.MOUNT_ATTR_RDONLY}, true
	case "nosuid":
		return attr{set: unix.MOUNT_ATTR_NOSUID}, true
	case "suid":
		return attr{clear: unix.MOUNT_ATTR_NOSUID}, true
	case "nodev":
		return attr{set: unix.MOUNT_ATTR_NODEV}, true
	case "dev":
		return attr{clear: unix.MOUNT_ATTR_NODEV}, true
	case "noexec":
		return attr{set: unix.MOUNT_ATTR_NOEXEC}, true
	case "exec":
		return attr{clear: unix.MOUNT_ATTR_NOEXEC}, true
	case "noatime":
		return attr{set: unix.MOUNT_ATTR_NOATIME, clear: atime}, true
	case "strictatime", "norelatime":
		return attr{set: unix.MOUNT_ATTR_STRICTATIME, clear: atime}, true
	case "relatime", "atime", "nostrictatime":
		return attr{clear: atime}, true
	case "nodiratime":
		return attr{set: unix.MOUNT_ATTR_NODIRATIME}, true
	case "diratime":
		return attr{clear: unix.MOUNT_ATTR_NODIRATIME}, true
	case "nosymfollow":
		return attr{set: unix.MOUNT_ATTR_NOSYMFOLLOW}, true
	case "symfollow":
		return attr{clear: unix.MOUNT_ATTR_NOSYMFOLLOW}, true
	}
	return attr{}, false
}

// MountOptions are the options that Compile knows, besides those of file systems.
func MountOptions() []string {
	options := []string{
		"async", "bind", "defaults", "dirsync", "idmap", "iversion", "lazytime", "loud", "mand", "noiversion", "nolazytime", "nomand", "rbind",
		"remount", "ridmap", "silent", "sync", "tmpcopyup",
	}
	for _, o := range []string{
		"atime", "dev", "diratime", "exec", "noatime", "nodev", "nodiratime", "noexec", "norelatime", "nostrictatime", "nosuid", "nosymfollow",
		"relatime", "ro", "rw", "strictatime", "suid", "symfollow",
	} {
		options = append(options, o, "r"+o)
	}
	for _, o := range []string{"private", "shared", "slave", "unbindable"} {
		options = append(options, o, "r"+o)
	}
	slices.Sort(options)
	return options
}

func propagationOf(option string) uint64 {
	switch option {
	case "private":
		return unix.MS_PRIVATE
	case "rprivate":
		return unix.MS_PRIVATE | unix.MS_REC
	case "slave":
		return unix.MS_SLAVE
	case "rslave":
		return unix.MS_SLAVE | unix.MS_REC
	case "shared":
		return unix.MS_SHARED
	case "rshared":
		return unix.MS_SHARED | unix.MS_REC
	case "unbindable":
		return unix.MS_UNBINDABLE
	case "runbindable":
		return unix.MS_UNBINDABLE | unix.MS_REC
	}
	return 0
}

// openSources takes, before the root is cut off from the host's propagation, what is shared with the host by it, and what the root will cover.
// All else is taken when its turn has come (paths are the host's until the root is entered): a mount's place in mountinfo is by when it was
// made (Linux 6.8), and its source may be what an earlier mount shows.
func (c *compiler) openSources() {
	for i, m := range c.spec.Mounts {
		if c.in.Trees {
			break
		}
		if c.in.Shm && m.Destination == ShmPath || c.sources[mountKey(i)] != 0 {
			continue
		}
		o, err := parseOptions(m)
		if err == nil && o.bind && (o.propagation == unix.MS_SHARED || c.covered(m.Source)) {
			c.from("mount " + m.Destination)
			c.sources[mountKey(i)] = c.openTree("source", m.Source, o.subpath, o.recursive)
		}
	}
	if c.userNS {
		c.from("devices")
		for _, d := range c.spec.Linux.Devices {
			source := d.Path
			if at := c.in.DeviceSources[d.Path]; at != "" {
				source = at
			}
			c.sources["device "+d.Path] = c.openTree("source", source, "", false)
		}
	}
}

// covered reports whether a path of the host is below the place of the root, where something else is until then.
func (c *compiler) covered(source string) bool {
	elsewhere := c.in.Overlay != nil || path.Clean(c.in.MountPoint) != path.Clean(c.spec.Root.Path)
	return elsewhere && strings.HasPrefix(path.Clean(source)+"/", path.Clean(c.in.MountPoint)+"/")
}

// openTree takes a part of the host's files.
func (b *builder) openTree(name, source, subpath string, recursive bool) Ref {
	how, text := unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC, "OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC"
	if recursive {
		how, text = how|unix.AT_RECURSIVE, text+"|AT_RECURSIVE"
	}
	if subpath == "" {
		return b.get(name, "take "+source+" of the host", callOpenTree, atFDCWD, Str(source), flags(how, text))
	}
	whole := b.get("whole", "open "+source+" of the host", callOpenat, atFDCWD, Str(source), flags(unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, "O_PATH|O_DIRECTORY|O_CLOEXEC"))
	part := b.slot("part")
	b.openIn(part, "find "+subpath+" in it", whole, subpath, unix.O_PATH, inRoot)
	b.do("done with the whole", callClose, whole)
	fd := b.get(name, "take it", callOpenTree, Ref(part), empty, flags(how|unix.AT_EMPTY_PATH, text+"|AT_EMPTY_PATH"))
	b.do("done with its place", callClose, Ref(part))
	return fd
}

func mountKey(i int) string { return fmt.Sprint("mount ", i) }

// mounts attaches everything of spec.Mounts, in its order.
func (c *compiler) mounts() error {
	for i, m := range c.spec.Mounts {
		o, err := parseOptions(m)
		if err != nil {
			return err
		}
		c.from("mount " + m.Destination)
		image, isImage := c.in.Images[m.Destination]
		switch {
		case (o.idmap || o.copyUp) && !c.in.Given[i]:
			return fmt.Errorf("the mount at %s has not been made: its options take a parent with the rights of root", m.Destination)
		case o.remount:
			c.change(m, o)
		case isImage:
			c.attachImage(i, image)
		case o.bind:
			source := c.sources[mountKey(i)]
			if source == 0 {
				source = c.openTree("source", m.Source, o.subpath, o.recursive)
			}
			c.bind(source, m, o)
		case m.Type == "cgroup" && c.in.Host.Cgroup == host.CgroupV1:
			if h, one := c.named(o); one {
				c.hierarchyV1(m, o, h)
			} else {
				c.cgroupV1(m, o)
			}
		case m.Type == "cgroup" || m.Type == "cgroup2":
			c.fresh(m, "cgroup2", o, 0)
		case m.Type == "":
			return fmt.Errorf("the mount at %s has no type", m.Destination)
		default:
			c.fresh(m, m.Type, o, c.sources[mountKey(i)])
		}
	}
	return nil
}

// bind attaches an open source.
func (c *compiler) bind(source Ref, m specs.Mount, o mountOptions) {
	kind := aDirectory
	if c.in.FileSources[path.Join(m.Source, o.subpath)] {
		kind = aFile
	}
	at := c.target(c.root, m.Destination, "the place of "+m.Source, kind, inRoot)
	propagation, below := o.propagation, o.propagates
	if propagation == 0 {
		propagation, below = unix.MS_PRIVATE, true
	}
	c.setattrOrRemount("set what "+m.Destination+" shares with the host", source, attr{}, propagation, below)
	c.attach("mount it at "+m.Destination, source, at)
	c.setattrOrRemount("set its options", source, o.attr, 0, false)
	c.setattrOrRemount("set the options of all below it", source, o.all, 0, true)
}

// change changes the attributes of a mount that is there already.
func (c *compiler) change(m specs.Mount, o mountOptions) {
	s := c.slot("mount")
	c.openIn(s, "find the mount at "+m.Destination, c.root, m.Destination, unix.O_PATH, inRoot)
	c.setattrOrRemount("change its options", Ref(s), o.attr, o.propagation, o.propagates)
	c.setattrOrRemount("change the options of all below it", Ref(s), o.all, 0, true)
	c.do("done with it", callClose, Ref(s))
}

// fresh attaches a new file system, which the parent may have made already.
func (c *compiler) fresh(m specs.Mount, fstype string, o mountOptions, made Ref) {
	resolve := uint64(inRoot)
	destination := path.Clean(m.Destination)
	switch fstype {
	case "proc", "sysfs", "cgroup2":
		// Not through a link of the image: what is protected below would be somewhere else (runc CVE-2026-41579).
		resolve = noSymlinks
	}
	settings := o.settings
	if m.Source != "" {
		settings = append([]setting{{key: "source", value: m.Source}}, settings...)
	}
	what := "the place of " + destination
	if resolve == noSymlinks {
		what += fmt.Sprintf(" (a %q must be mounted on ordinary directory)", fstype)
	}
	at := c.target(c.root, destination, what, aDirectory, resolve)
	a := o.attr
	a.set |= o.all.set
	// What is mounted below it needs its place, and devices are still to come.
	later := fstype == "tmpfs" && a.set&unix.MOUNT_ATTR_RDONLY != 0
	if later {
		a.set &^= unix.MOUNT_ATTR_RDONLY
	}
	fd := made
	if made == 0 {
		fd = c.fsmount(path.Base(destination), fstype, settings, attr{set: a.set})
	} else {
		c.setattrOrRemount("set its options", fd, attr{set: a.set}, 0, false)
	}
	c.attach("mount it at "+destination, fd, at)
	if later {
		c.readonly = append(c.readonly, filled{fd, destination, a.set})
	}
	if o.propagation != 0 {
		c.setattrOrRemount("set what it shares", fd, attr{}, o.propagation, o.propagates)
	}
	switch {
	case destination == "/proc" && fstype == "proc":
		c.proc = fd
	case destination == "/dev" && fstype == "tmpfs":
		c.dev = fd
	case destination == "/dev/pts" && fstype == "devpts":
		c.pts = fd
	}
}

// filled is a mount that becomes read-only when all that is in it has been made.
type filled struct {
	fd   Ref
	at   string
	also uint64 // attributes that it has already
}

// closeFilled makes the mounts read-only that had to be filled first.
func (c *compiler) closeFilled() {
	for _, m := range c.readonly {
		c.from("mount " + m.at)
		a := attr{set: unix.MOUNT_ATTR_RDONLY}
		if !c.in.Host.MountSetattr() { // mount(2) takes away what it is not told again
			a.set |= m.also
		}
		c.setattrOrRemount("make "+m.at+" read-only", m.fd, a, 0, false)
	}
}

// cgroupV1 shows the hierarchies of version 1: a tmpfs with a mount of each, whose root, in a cgroup namespace, is the
// container's own group.
func (c *compiler) cgroupV1(m specs.Mount, o mountOptions) {
	at := c.target(c.root, m.Destination, "the place of "+m.Destination, aDirectory, noSymlinks)
	base := c.fsmount("cgroup", "tmpfs", []setting{{key: "source", value: "tmpfs"}, {key: "mode", value: "755"}}, attr{set: o.attr.set &^ unix.MOUNT_ATTR_RDONLY})
	c.attach("mount it at "+m.Destination, base, at)
	for _, h := range c.in.Host.CgroupMounts {
		name := path.Base(h.Path)
		c.do("make the place of "+name, callMkdirat, base, Str(name), flags(0o755, "0755"))
		fd := c.hierarchy(h, name, o.attr.set)
		c.attachAt("mount it at "+m.Destination+"/"+name, fd, base, name)
		c.do("done with it", callClose, fd)
		if controllers := strings.Split(h.Options, ","); len(controllers) > 1 {
			for _, short := range controllers {
				if short != name {
					c.do("give it its short name", callSymlinkat, Str(name), base, Str(short))
				}
			}
		}
	}
	c.setattrOrRemount("make it read-only", base, attr{set: o.attr.set & unix.MOUNT_ATTR_RDONLY}, 0, false)
}

// hierarchyV1 shows one hierarchy of version 1, by the options that it was mounted with.
func (c *compiler) hierarchyV1(m specs.Mount, o mountOptions, h host.CgroupMount) {
	at := c.target(c.root, m.Destination, "the place of "+m.Destination, aDirectory, noSymlinks)
	fd := c.hierarchy(h, path.Base(h.Path), o.attr.set)
	c.attach("mount it at "+m.Destination, fd, at)
	c.do("done with it", callClose, fd)
}

// hierarchy is a mount of a hierarchy of version 1, whose root is the container's own group.
func (c *compiler) hierarchy(h host.CgroupMount, name string, set uint64) Ref {
	if group := c.spec.Linux.CgroupsPath; group != "" && !c.has(specs.CgroupNamespace) {
		// Without a namespace a mount's root would be the host's.
		fd := c.get(name, "take the own group of the host's "+name, callOpenTree, atFDCWD, Str(path.Join(h.Path, group)),
			flags(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC, "OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC"))
		c.setattrOrRemount("set its options", fd, attr{set: set}, 0, false)
		return fd
	}
	settings := []setting{{key: "source", value: "cgroup"}}
	for option := range strings.SplitSeq(h.Options, ",") {
		key, value, _ := strings.Cut(option, "=")
		if key == "name" {
			settings = append(settings, setting{key: "none"})
		}
		settings = append(settings, setting{key: key, value: value})
	}
	return c.fsmount(name, "cgroup", settings, attr{set: set})
}

// named is the hierarchy of version 1 that a mount's options name as the host has it ("name=systemd").
func (c *compiler) named(o mountOptions) (host.CgroupMount, bool) {
	for _, h := range c.in.Host.CgroupMounts {
		key, value, _ := strings.Cut(h.Options, "=")
		if slices.ContainsFunc(o.settings, func(s setting) bool { return s.key == key && s.value == value }) {
			return h, true
		}
	}
	return host.CgroupMount{}, false
}

// setattrOrRemount is setattr, or mount(2) through /proc/self/fd on a kernel before 5.12.
func (c *compiler) setattrOrRemount(what string, fd Ref, a attr, propagation uint64, recursive bool) {
	if c.in.Host.MountSetattr() {
		c.setattr(what, fd, a, propagation, recursive)
		return
	}
	if propagation != 0 {
		n := propagation
		if recursive {
			n |= unix.MS_REC
		}
		c.remount(what, fd, n, propagationName(propagation))
	}
	if a.set != 0 {
		c.remount(what, fd, unix.MS_REMOUNT|unix.MS_BIND|oldFlags(a), "MS_REMOUNT|MS_BIND|"+a.String())
	}
}

// remount names the mount by its descriptor: mount(2) takes a path.
func (c *compiler) remount(what string, fd Ref, how uint64, text string) {
	c.do("give it a number that is its name", callDup3, fd, num(firstLayerFD), flags(unix.O_CLOEXEC, "O_CLOEXEC"))
	c.do(what, callMount, null, Str(fmt.Sprintf("/proc/self/fd/%d", firstLayerFD)), null, Int{uintptr(how), text}, null)
	c.do("done with the number", callClose, num(firstLayerFD))
}

func oldFlags(a attr) uint64 {
	var n uint64
	for _, f := range [][2]uint64{
		{unix.MOUNT_ATTR_RDONLY, unix.MS_RDONLY},
		{unix.MOUNT_ATTR_NOSUID, unix.MS_NOSUID},
		{unix.MOUNT_ATTR_NODEV, unix.MS_NODEV},
		{unix.MOUNT_ATTR_NOEXEC, unix.MS_NOEXEC},
		{unix.MOUNT_ATTR_NOATIME, unix.MS_NOATIME},
		{unix.MOUNT_ATTR_NODIRATIME, unix.MS_NODIRATIME},
	} {
		if a.set&f[0] != 0 {
			n |= f[1]
		}
	}
	return n
}

// maskAndProtect hides and write-protects parts of the tree. Last of the mounts, or one of ours could cover them.
func (c *compiler) maskAndProtect() {
	c.from("read-only paths")
	for _, name := range c.spec.Linux.ReadonlyPaths {
		s := c.slot("path")
		c.openIn(s, "find "+name, c.root, name, unix.O_PATH, inRoot)
		c.onlyIf(errnos(unix.ENOENT, unix.ENOTDIR), func() {
			fd := c.get("cover", "take it", callOpenTree, Ref(s), empty,
				flags(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE|unix.AT_EMPTY_PATH, "OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC|AT_RECURSIVE|AT_EMPTY_PATH"))
			if c.in.Host.MountSetattr() {
				c.setattr("make it read-only", fd, attr{set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC}, 0, true)
			}
			c.attach("cover "+name+" with it", fd, Ref(s))
			if !c.in.Host.MountSetattr() {
				c.protectOld(name, fd)
			}
			c.do("done with it", callClose, fd)
			c.do("done with its place", callClose, Ref(s))
		})
	}
	if len(c.spec.Linux.MaskedPaths) == 0 {
		return
	}
	c.from("masked paths")
	for _, name := range c.spec.Linux.MaskedPaths {
		s := c.slot("path")
		c.openIn(s, "find the directory "+name, c.root, name, unix.O_PATH|unix.O_DIRECTORY, inRoot)
		directory := len(c.p.Ops) - 1
		cover := c.get("cover", "take a cover", callOpenTree, c.hidden, empty,
			flags(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH, "OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC|AT_EMPTY_PATH"))
		c.attach("hide "+name, cover, Ref(s))
		c.do("done with it", callClose, cover)
		c.do("done with its place", callClose, Ref(s))
		covered := len(c.p.Ops) - 1
		c.p.Ops[directory].Tolerate = errnos(unix.ENOENT, unix.ENOTDIR)
		c.p.Ops[directory].SkipTolerated = covered - directory
		c.openIn(s, "or else find the file "+name, c.root, name, unix.O_PATH, inRoot)
		c.onlyIf(errnos(unix.ENOENT, unix.ENOTDIR), func() {
			// Still the host's: the root has not been entered (CVE-2025-31133). A read-only mount keeps its mode, owner and
			// times from the container's root, who could otherwise take it away from the whole host.
			null := c.get("cover", "take a cover", callOpenTree, atFDCWD, Str("/dev/null"), flags(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC, "OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC"))
			if c.in.Host.MountSetattr() {
				c.setattr("keep it as it is", null, attr{set: unix.MOUNT_ATTR_RDONLY}, 0, false)
			}
			c.attach("hide "+name, null, Ref(s))
			if !c.in.Host.MountSetattr() {
				c.remount("keep it as it is", null, unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, "MS_REMOUNT|MS_BIND|MS_RDONLY")
			}
			c.do("done with it", callClose, null)
			c.do("done with its place", callClose, Ref(s))
		})
		c.p.Ops[covered].SkipOK = len(c.p.Ops) - 1 - covered
	}
}

// protectOld write-protects a file or directory on a kernel before 5.12, where a mount is named by a path.
func (c *compiler) protectOld(name string, fd Ref) {
	c.remount("make "+name+" read-only", fd, unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC,
		"MS_REMOUNT|MS_BIND|MS_RDONLY|MS_NOSUID|MS_NODEV|MS_NOEXEC")
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
