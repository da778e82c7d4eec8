package plan

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"berth/internal/host"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Input is what a program is compiled from.
type Input struct {
	Spec *specs.Spec
	Host host.Facts
	// Overlay is the root file system; nil means the directory Spec.Root.Path.
	Overlay *Overlay
	// Served says that the root is a mount that the parent has, InRoot.
	Served bool
	// MountPoint is an existing directory of the host over which the root is mounted, in the container's own
	// mount namespace, until it becomes "/".
	MountPoint string
	// MakeWorkdir makes a working directory that is missing; with an overlay it is always made.
	MakeWorkdir bool
	// FileSources are the sources of bind mounts, with their subpaths, that are not directories.
	FileSources map[string]bool
	// Trees says that what is mounted from the host, the root and the sources of bind mounts, is given by the parent (CompileTrees).
	Trees bool
	// DeviceSources are where devices of the spec are on the host, where that is not the path that they have in the container.
	DeviceSources map[string]string
	// Given are the mounts of the spec, by number, that the parent makes (Prepared), each an input of its own.
	Given map[int]bool
	// Shm says that what is mounted at ShmPath is given by the parent.
	Shm bool
	// Filter is the compiled seccomp filter, or empty.
	Filter Filter
	// FilterFlags are seccomp(2)'s flags.
	FilterFlags uintptr
	// CgroupTasks counts the hierarchies of control groups whose file tasks is an input, for the child to enter by itself.
	CgroupTasks int
	// Inherit leaves standard input, output and error as the parent has them.
	Inherit bool
	// Create makes the child report that it is ready and wait for a start.
	Create bool
	// Await makes the child wait, when its file systems are mounted, until its parent lets it go on.
	Await bool
	// Tell makes it say that it waits there.
	Tell bool
	// Network says that the parent makes the new network namespace, which is then an input.
	Network bool
	// Loopback switches the loopback interface of a new network namespace on.
	Loopback bool
	// Program is the file to execute, where that is not what the process's first argument names.
	Program string
	// PreserveFDs is how many descriptors from 3 on the program is given.
	PreserveFDs int
	// Keyring is the name of the session keyring to join; empty leaves the caller's.
	Keyring string
	// Images are the mounts of the spec, by their destinations, that show an image.
	Images map[string]Image
	// NoSetgroups says that the user namespace forbids setgroups(2), as one made without newgidmap does.
	NoSetgroups bool
	// Origins says where parts of the spec come from, by keys like "mount /data", "hostname", "limits".
	Origins map[string]string
}

// Overlay is a root file system made of layers.
type Overlay struct {
	Lower       []string // directories, the topmost first
	Upper, Work string   // the writable layer
	// UserXattr keeps overlay's attributes in the user namespace (Linux 5.11), for containers without privilege.
	UserXattr bool
	// Volatile says that what is written is not to outlive a power cut: nothing is synced, neither on request nor when the
	// mount ends, which would otherwise wait for the whole file system of the upper layer (Linux 5.10).
	Volatile bool
}

// Image is what a mount shows: the option SubpathOption says which part, File that this is no directory.
type Image struct {
	Lower     []string // as Overlay's; two at least
	UserXattr bool
	File      bool
}

// InCgroup is the name of the input for the i-th hierarchy's file tasks.
func InCgroup(i int) string { return fmt.Sprintf("cgroup%d", i) }

// compiler is a builder with what it compiles.
type compiler struct {
	builder
	in   Input
	spec *specs.Spec

	root Ref // the container's "/"
	proc Ref // a procfs of our own, which nothing in the container can have prepared
	dev  Ref // the tmpfs at /dev, if there is one
	pts  Ref // the devpts at /dev/pts, if there is one
	// hidden is an empty file system that hides masked directories.
	hidden Ref
	// sources are the open mounts of bind mounts and devices, by path of the host.
	sources map[string]Ref
	userNS  bool
	// readonly are the mounts that closeFilled makes read-only.
	readonly []filled
}

// from makes the operations that follow say where they come from.
func (c *compiler) from(key string) {
	c.origin = c.in.Origins[key]
}

// usualOps is what a container with docker's defaults comes to, and some more.
const usualOps = 480

// Compile turns a spec into the program that makes its container. An error is about the spec.
func Compile(in Input) (*Program, error) {
	c := &compiler{in: in, spec: in.Spec, sources: map[string]Ref{}}
	if err := check(in.Spec); err != nil {
		return nil, err
	}
	c.p.Ops = make([]Op, 0, usualOps)
	c.input(InReport)
	for i := range in.CgroupTasks {
		c.input(InCgroup(i))
	}
	if in.Trees {
		c.treeInputs()
	}
	c.givenInputs()
	if in.Shm {
		for i, m := range in.Spec.Mounts {
			if m.Destination == ShmPath {
				c.sources[mountKey(i)] = c.input(InShm)
			}
		}
	}
	c.stdioInputs(in.Spec.Process, in.Inherit)
	if err := c.gateInputs(in.Create, in.FilterFlags); err != nil {
		return nil, err
	}
	c.reset()
	if in.Await && in.Tell {
		c.input(InHere)
	}
	if in.Await {
		c.p.Waits = true
		c.input(InGo)
		c.do("leave the parent the only one who can say so", callClose, c.input(InGoEnd))
	}
	c.do("let modes be what they say", callUmask, num(0))
	if err := c.namespaces(); err != nil {
		return nil, err
	}
	c.openSources()
	c.rootFS()
	if err := c.mounts(); err != nil {
		return nil, err
	}
	if err := c.devices(); err != nil {
		return nil, err
	}
	c.console(in.Spec.Process)
	c.await()
	c.loopback()
	if err := c.kernelSettings(); err != nil {
		return nil, err
	}
	c.closeFilled()
	c.maskAndProtect()
	c.enterRoot()
	if err := c.process(in.Spec.Process, finish{
		filter: in.Filter, filterFlags: in.FilterFlags, create: in.Create, keyring: in.Keyring, preserve: in.PreserveFDs,
	}); err != nil {
		return nil, err
	}
	return &c.p, nil
}

// gateInputs declares what a process that is created before it is started needs.
func (c *compiler) gateInputs(create bool, filterFlags uintptr) error {
	listens := finish{filterFlags: filterFlags}.listens()
	if listens && !create {
		return fmt.Errorf("SCMP_ACT_NOTIFY is not supported here: nobody could be asked before the process runs")
	}
	if listens {
		c.input(InListener)
	}
	if create {
		c.input(InReady)
		c.input(InStart)
		c.p.Waits = true
	}
	return nil
}

func namespaceFlag(t specs.LinuxNamespaceType) uint64 {
	switch t {
	case specs.PIDNamespace:
		return unix.CLONE_NEWPID
	case specs.NetworkNamespace:
		return unix.CLONE_NEWNET
	case specs.MountNamespace:
		return unix.CLONE_NEWNS
	case specs.IPCNamespace:
		return unix.CLONE_NEWIPC
	case specs.UTSNamespace:
		return unix.CLONE_NEWUTS
	case specs.UserNamespace:
		return unix.CLONE_NEWUSER
	case specs.CgroupNamespace:
		return unix.CLONE_NEWCGROUP
	case specs.TimeNamespace:
		return unix.CLONE_NEWTIME
	}
	return 0
}

// has reports whether the container has a namespace of type t that is not its parent's.
func (c *compiler) has(t specs.LinuxNamespaceType) bool {
	for _, n := range c.spec.Linux.Namespaces {
		if n.Type == t {
			return true
		}
	}
	return false
}

// namespaces makes and joins namespaces and control groups. The child is born with its new namespaces, but for the
// cgroup namespace, whose root is the group that the process is in when it is made, and for those that must come
// after others were joined.
func (c *compiler) namespaces() error {
	var born, later uint64
	var joined []specs.LinuxNamespace
	split, network := false, false
	for _, n := range c.spec.Linux.Namespaces {
		f := namespaceFlag(n.Type)
		switch {
		case n.Path != "":
			joined = append(joined, n)
			split = split || n.Type == specs.PIDNamespace
		case n.Type == specs.CgroupNamespace || n.Type == specs.TimeNamespace:
			later |= f
		case n.Type == specs.NetworkNamespace && c.in.Network:
			network = true
		default:
			born |= f
		}
	}
	c.userNS = c.has(specs.UserNamespace) || c.in.Host.InUserNS
	if i := slices.IndexFunc(joined, func(n specs.LinuxNamespace) bool { return n.Type == specs.UserNamespace }); i >= 0 {
		// The user namespace gives the rights over those that are joined, and is to own those that are made.
		joined[0], joined[i] = joined[i], joined[0]
		later, split = later|born, split || born&unix.CLONE_NEWPID != 0
		born = 0
	}
	c.p.CloneFlags = uintptr(born)
	if born&unix.CLONE_NEWUSER != 0 {
		c.from("user namespace")
		maps := c.input(InMaps)
		c.do("leave the parent the only one who can say so", callClose, c.input(InMapsEnd))
		c.p.Waits = true
		c.add(Op{Special: WaitByte, Call: callRead, What: "wait for the id maps of the user namespace", Args: []Arg{maps, c.out(1), num(1)}})
		c.becomeRoot()
	}
	if network { // inputs come before all that is opened here
		c.input(InNetwork)
	}
	c.from("cgroup")
	for i := range c.in.CgroupTasks {
		c.do("enter the control group", callWrite, Ref(c.inputSlot(InCgroup(i))), Bytes{[]byte("0"), `"0"`}, num(1))
	}
	for _, n := range joined {
		c.from("namespace " + string(n.Type))
		fd := c.get("ns", "open the "+string(n.Type)+" namespace", callOpenat, atFDCWD, Str(n.Path), flags(unix.O_RDONLY|unix.O_CLOEXEC, "O_RDONLY|O_CLOEXEC"))
		f := namespaceFlag(n.Type)
		c.do("join the "+string(n.Type)+" namespace", callSetns, fd, flags(int(f), namespaceFlags(f)))
		c.do("done with it", callClose, fd)
		if n.Type == specs.UserNamespace {
			c.becomeRoot()
		}
	}
	if network {
		c.from("network")
		ns := Ref(c.inputSlot(InNetwork))
		c.do("join the network namespace that is made for it", callSetns, ns, flags(unix.CLONE_NEWNET, "CLONE_NEWNET"))
		c.do("done with it", callClose, ns)
	}
	if later != 0 {
		c.from("namespace cgroup")
		c.do("make the namespaces that come after", callUnshare, flags(int(later), namespaceFlags(later)))
		if later&unix.CLONE_NEWTIME != 0 {
			c.p.Waits = true // who shares memory cannot change his time namespace
			if err := c.timeOffsets(); err != nil {
				return err
			}
		}
	}
	if split {
		c.add(Op{Special: Clone, Call: callClone, What: "enter the pid namespace", Args: []Arg{flags(unix.CLONE_PARENT, "CLONE_PARENT")}})
	}
	return nil
}

// becomeRoot takes id 0 of a new user namespace, and what a change of ids takes away.
func (c *compiler) becomeRoot() {
	c.becomeFirst()
	c.do("be let into the own entry of /proc again", callPrctl, flags(unix.PR_SET_DUMPABLE, "PR_SET_DUMPABLE"), num(1), num(0), num(0), num(0))
}

// becomeFirst becomes root of the user namespace, or, where there is none, its first user: whoever is not mapped could own no file.
func (c *compiler) becomeFirst() {
	user, group := firstOf(c.spec.Linux.UIDMappings), firstOf(c.spec.Linux.GIDMappings)
	c.do(fmt.Sprintf("become the group %d of the user namespace", group), callSetresgid, num(group), num(group), num(group))
	c.do(fmt.Sprintf("become the user %d of the user namespace", user), callSetresuid, num(user), num(user), num(user))
}

// firstOf is the lowest id of a map; without one it is 0, of a namespace that somebody else has mapped.
func firstOf(maps []specs.LinuxIDMapping) int {
	if len(maps) == 0 {
		return 0
	}
	first := maps[0].ContainerID
	for _, m := range maps {
		first = min(first, m.ContainerID)
	}
	return int(first)
}

func (c *compiler) inputSlot(name string) Slot {
	for i, n := range c.p.SlotNames {
		if n == name {
			return Slot(i + 1)
		}
	}
	return NoSlot
}

// rootFS mounts the container's root over MountPoint, in this mount namespace only.
func (c *compiler) rootFS() {
	c.from("root")
	propagation := uint64(unix.MS_SLAVE | unix.MS_REC)
	text := "MS_SLAVE|MS_REC"
	if strings.HasSuffix(c.spec.Linux.RootfsPropagation, "private") {
		propagation, text = unix.MS_PRIVATE|unix.MS_REC, "MS_PRIVATE|MS_REC"
	}
	c.do("keep mounts made here from the host", callMount, null, Str("/"), null, Int{uintptr(propagation), text}, null)
	place := c.get("place", "open the place of the root", callOpenat, atFDCWD, Str(c.in.MountPoint), flags(unix.O_PATH|unix.O_CLOEXEC, "O_PATH|O_CLOEXEC"))
	o := c.in.Overlay
	switch {
	case c.in.Served:
		c.root = Ref(c.inputSlot(InRoot))
	case o == nil && c.in.Trees:
		c.root = Ref(c.inputSlot(InTree(0)))
	case o == nil:
		c.root = c.get("root", "take the root file system", callOpenTree, atFDCWD, Str(c.spec.Root.Path),
			flags(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE, "OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC|AT_RECURSIVE"))
		c.setattrOrRemount("keep mounts below it from the host", c.root, attr{}, unix.MS_PRIVATE, true)
	case c.in.Host.OverlayByFD():
		c.root = c.overlayByFD("root", o, attr{})
	default:
		c.placeImages(place)
		c.placeHidden(place)
		c.root = c.overlayByName(o)
		return
	}
	c.placeImages(place)
	c.placeHidden(place) // a bundle's root has been taken from there by now
	c.attach("mount the root there", c.root, place)
}

// placeHidden makes the empty file system that hides masked directories, and attaches it where the root will cover it:
// before Linux 6.15 only a mount that is attached can be copied.
func (c *compiler) placeHidden(place Ref) {
	if len(c.spec.Linux.MaskedPaths) == 0 {
		return
	}
	origin := c.origin
	c.from("masked paths")
	c.hidden = c.fsmount("hidden", "tmpfs", []setting{{key: "source", value: "tmpfs"}, {key: "size", value: "0"}, {key: "nr_inodes", value: "1"}, {key: "mode", value: "0755"}},
		attr{set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC})
	c.attach("keep it where the root will cover it", c.hidden, place)
	c.origin = origin
}

// overlayByFD gives every layer as a descriptor: any number of layers, any length of path.
func (c *compiler) overlayByFD(name string, o *Overlay, a attr) Ref {
	var s []setting
	open := func(key, dir string) {
		fd := c.get("layer", "open a layer", callOpenat, atFDCWD, Str(dir), flags(unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, "O_PATH|O_DIRECTORY|O_CLOEXEC"))
		s = append(s, setting{key: key, fd: fd})
	}
	for _, dir := range o.Lower {
		open("lowerdir+", dir)
	}
	if o.Upper != "" {
		open("upperdir", o.Upper)
		open("workdir", o.Work)
	}
	return c.fsmount(name, "overlay", append(append(s, setting{key: "source", value: "overlay"}), overlayFlags(o)...), a)
}

// Overlay's marks in extended attributes must be readable in the user namespace. index, metacopy and redirect_dir are
// off because an upper layer that used them could not become an image layer.
func overlayFlags(o *Overlay) []setting {
	s := []setting{{key: "index", value: "off"}, {key: "metacopy", value: "off"}}
	if o.Volatile {
		s = append(s, setting{key: "volatile"})
	}
	if o.UserXattr {
		return append(s, setting{key: "userxattr"})
	}
	return append(s, setting{key: "redirect_dir", value: "off"})
}

// firstLayerFD is where the descriptors of layers are moved to, so that their numbers are known.
const firstLayerFD = 512

// overlayByName is for kernels before 6.13. mount(2) takes a page of options, 4096 bytes; so the layers are open
// descriptors with known numbers, the working directory is /proc/self/fd, and the name of a layer is a number:
// 500 layers need 2,000 bytes.
func (c *compiler) overlayByName(o *Overlay) Ref {
	next := firstLayerFD
	open := func(dir string) string {
		fd := c.get("layer", "open a layer", callOpenat, atFDCWD, Str(dir), flags(unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, "O_PATH|O_DIRECTORY|O_CLOEXEC"))
		c.do("give it a number that is its name", callDup3, fd, num(next), flags(unix.O_CLOEXEC, "O_CLOEXEC"))
		c.do("keep only that", callClose, fd)
		next++
		return fmt.Sprint(next - 1)
	}
	lower := make([]string, len(o.Lower))
	for i, dir := range o.Lower {
		lower[i] = open(dir)
	}
	options := "lowerdir=" + strings.Join(lower, ":")
	if o.Upper != "" {
		options += ",upperdir=" + open(o.Upper) + ",workdir=" + open(o.Work)
	}
	for _, s := range overlayFlags(o) {
		options += "," + s.key
		if s.value != "" {
			options += "=" + s.value
		}
	}
	c.do("name layers by their descriptors", callChdir, Str("/proc/self/fd"))
	c.do("mount the root", callMount, Str("overlay"), Str(c.in.MountPoint), Str("overlay"), num(0), Str(options))
	c.do("leave /proc/self/fd", callChdir, Str("/"))
	for fd := firstLayerFD; fd < next; fd++ {
		c.do("done with a layer", callClose, num(fd))
	}
	return c.get("root", "open the root", callOpenat, atFDCWD, Str(c.in.MountPoint), flags(unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, "O_PATH|O_DIRECTORY|O_CLOEXEC"))
}

// enterRoot makes the root "/" and lets go of the host's.
func (c *compiler) enterRoot() {
	c.from("root")
	if wd := c.spec.Process.Cwd; (c.in.Overlay != nil || c.in.MakeWorkdir) && path.Clean(wd) != "/" {
		// docker makes a missing working directory; a bundle's owner is told instead.
		c.target(c.root, wd, "the working directory", aDirectory, inRoot)
	}
	if c.spec.Root.Readonly {
		c.setattrOrRemount("make the root read-only", c.root, attr{set: unix.MOUNT_ATTR_RDONLY}, 0, false)
	}
	c.do("stand in the root", callFchdir, c.root)
	c.do("make it /", callPivotRoot, Str("."), Str("."))
	c.do("let go of the host's root", callUmount2, Str("."), flags(unix.MNT_DETACH, "MNT_DETACH"))
	c.do("go to the new root", callChdir, Str("/"))
	if p := propagationOf(c.spec.Linux.RootfsPropagation); p != 0 && p&^unix.MS_REC != unix.MS_PRIVATE && p&^unix.MS_REC != unix.MS_SLAVE {
		c.do("share mounts as rootfsPropagation says", callMount, null, Str("/"), null, Int{uintptr(p), propagationName(p &^ unix.MS_REC)}, null)
	}
}

// await waits until the parent has done its part; when the parent has gone, so does the child.
func (c *compiler) await() {
	if !c.in.Await {
		return
	}
	c.from("")
	if c.in.Tell {
		here := Ref(c.inputSlot(InHere))
		c.do("say that file systems and namespaces are there", callWrite, here, Bytes{[]byte{1}, `"\1"`}, num(1))
		c.do("once", callClose, here)
	}
	word := Ref(c.inputSlot(InGo))
	c.add(Op{Special: WaitByte, Call: callRead, What: "wait until what the container holds is written down", Args: []Arg{word, c.out(1), num(1)}})
	c.do("done with it", callClose, word)
}

// loopback switches lo on: a new network namespace has it switched off.
func (c *compiler) loopback() {
	if !c.in.Loopback {
		return
	}
	c.from("network")
	request := make([]byte, unix.IFNAMSIZ+24) // struct ifreq
	copy(request, "lo")
	request[unix.IFNAMSIZ] = unix.IFF_UP
	s := c.get("socket", "speak to the network", callSocket, flags(unix.AF_INET, "AF_INET"), flags(unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, "SOCK_DGRAM|SOCK_CLOEXEC"), num(0))
	c.do("switch the loopback interface on", callIoctl, s, flags(unix.SIOCSIFFLAGS, "SIOCSIFFLAGS"), Bytes{request, "{lo, IFF_UP}"})
	c.do("done with it", callClose, s)
}

// kernelSettings are the names of the host and the sysctls.
func (c *compiler) kernelSettings() error {
	if h := c.spec.Hostname; h != "" {
		if !c.has(specs.UTSNamespace) {
			return fmt.Errorf("a host name needs a uts namespace of the container's own")
		}
		c.from("hostname")
		c.do("set the host name", callSethostname, Str(h), num(len(h)))
	}
	if d := c.spec.Domainname; d != "" {
		if !c.has(specs.UTSNamespace) {
			return fmt.Errorf("a domain name needs a uts namespace of the container's own")
		}
		c.from("domainname")
		c.do("set the domain name", callSetdomain, Str(d), num(len(d)))
	}
	for _, key := range sortedKeys(c.spec.Linux.Sysctl) {
		if err := c.sysctlAllowed(key); err != nil {
			return err
		}
		c.from("sysctl " + key)
		value := c.spec.Linux.Sysctl[key]
		s := c.slot("sysctl")
		c.openIn(s, "find the sysctl "+key, c.procfs(), "sys/"+sysctlPath(key), unix.O_WRONLY, beneath)
		c.do("set "+key, callWrite, Ref(s), Bytes{[]byte(value), fmt.Sprintf("%q", value)}, num(len(value)))
		c.do("done with it", callClose, Ref(s))
	}
	return nil
}

// sysctlAllowed refuses a sysctl that is not the container's alone (runtime-spec, config-linux.md, sysctl).
func (c *compiler) sysctlAllowed(key string) error {
	owner, file := specs.LinuxNamespaceType(""), sysctlPath(key)
	switch {
	case strings.HasPrefix(file, "net/"):
		owner = specs.NetworkNamespace
	case strings.HasPrefix(file, "fs/mqueue/"), strings.HasPrefix(file, "kernel/shm"), strings.HasPrefix(file, "kernel/msg"), file == "kernel/sem":
		owner = specs.IPCNamespace
	case file == "kernel/domainname":
		owner = specs.UTSNamespace
	}
	switch {
	case owner == "" || file != path.Clean(file):
		return fmt.Errorf("the sysctl %q belongs to the whole host, not to a container", key)
	case !c.has(owner):
		return fmt.Errorf("the sysctl %q needs a %s namespace of the container's own", key, owner)
	}
	return nil
}

// procfs is a procfs that the container cannot have tampered with: its own /proc, which we have just made, or one that
// is attached to nothing.
func (c *compiler) procfs() Ref {
	if c.proc == 0 {
		c.proc = c.fsmount("proc", "proc", []setting{{key: "source", value: "proc"}}, attr{})
	}
	return c.proc
}
