package plan

import (
	"encoding/binary"
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// InTree is the name of the input for a tree of the host's that is mounted in the container: 0 is the root.
func InTree(i int) string { return fmt.Sprintf("tree%d", i) }

// tree is a part of the host's files.
type tree struct {
	path      string
	subpath   string
	recursive bool
	mount     int // the mount of the spec that it is for, -1 for the root
}

// trees are what a container is given of the host's files.
func trees(s *specs.Spec) []tree {
	all := []tree{{s.Root.Path, "", true, -1}}
	for i, m := range s.Mounts {
		if o, err := parseOptions(m); err == nil && o.bind {
			all = append(all, tree{m.Source, o.subpath, o.recursive, i})
		}
	}
	return all
}

// treeInputs declares the trees as inputs.
func (c *compiler) treeInputs() {
	for i, t := range trees(c.spec) {
		fd := c.input(InTree(i))
		if t.mount >= 0 {
			c.sources[mountKey(t.mount)] = fd
		}
	}
}

// InTrees is the socket over which the trees come, in the order of InTree.
const InTrees = "trees"

// CompileTrees compiles the program of a process that takes hold of a container's trees and sends them to its parent, which gives them to
// the container's first process. It is for a container whose root is not the caller: he could not reach them himself. Copies of mounts can
// be made in a mount namespace of the own user namespace alone, so the process has one. n is how many there are.
func CompileTrees(s *specs.Spec) (_ *Program, n int) {
	b := &builder{p: Program{CloneFlags: unix.CLONE_NEWNS, Waits: true}}
	b.input(InReport)
	socket := b.input(InTrees)
	b.reset()
	all := trees(s)
	for _, t := range all {
		fd := b.openTree("tree", t.path, t.subpath, t.recursive)
		b.add(Op{Special: SendFD, Call: callSendmsg, What: "send it to the parent", Args: []Arg{socket, fd}})
		b.do("which now has it alone", callClose, fd)
	}
	return &b.p, len(all)
}

// CompileRoot compiles the program of a process that mounts a container's root, with what is bound into it, in a mount namespace of its own,
// sends the root to its parent, and waits until that is done with it. Nothing runs there: of a spec's mounts only those that bind are made.
func CompileRoot(in Input) (*Program, error) {
	c := &compiler{in: in, spec: in.Spec, sources: map[string]Ref{}}
	c.p.CloneFlags, c.p.Waits = unix.CLONE_NEWNS, true
	c.input(InReport)
	socket, word, end := c.input(InTrees), c.input(InGo), c.input(InGoEnd)
	c.givenInputs()
	c.reset()
	c.do("leave the parent the only one who can say so", callClose, end)
	c.do("let modes be what they say", callUmask, num(0))
	c.openSources()
	c.rootFS()
	if err := c.mounts(); err != nil {
		return nil, err
	}
	if c.spec.Root.Readonly {
		c.setattrOrRemount("make the root read-only", c.root, attr{set: unix.MOUNT_ATTR_RDONLY}, 0, false)
	}
	c.add(Op{Special: SendFD, Call: callSendmsg, What: "send it to the parent", Args: []Arg{socket, c.root}})
	c.add(Op{Special: WaitByte, Call: callRead, What: "wait until it is done with", Args: []Arg{word, c.out(1), num(1)}})
	return &c.p, nil
}

// ShmPath is where a container's shared memory is mounted.
const ShmPath = "/dev/shm"

// InRoot is the name of the input for a root that is mounted already, and attached to nothing.
const InRoot = "root"

// InFuse is the name of the input for an open /dev/fuse.
const InFuse = "fuse"

// fuseFD is the number of that one where it is named in text.
const fuseFD = firstLayerFD

// CompileFuse compiles the program of a process that makes a mount of which the other end of /dev/fuse is the file system, and sends it to its
// parent: without root that takes a mount namespace of the user namespace's own. The kernel judges by owner and mode, whoever asks.
func CompileFuse(source string) *Program {
	c := &compiler{sources: map[string]Ref{}}
	c.p.CloneFlags, c.p.Waits = unix.CLONE_NEWNS, true
	c.input(InReport)
	socket, fuse := c.input(InTrees), c.input(InFuse)
	c.reset()
	c.do("give the device a number that is its name", callDup3, fuse, num(fuseFD), flags(unix.O_CLOEXEC, "O_CLOEXEC"))
	mount := c.fsmount("root", "fuse", []setting{
		{key: "source", value: source},
		{key: "fd", value: fmt.Sprint(fuseFD)},
		{key: "rootmode", value: "40000"},
		{key: "user_id", value: "0"},
		{key: "group_id", value: "0"},
		{key: "allow_other"},
		{key: "default_permissions"},
	}, attr{})
	c.add(Op{Special: SendFD, Call: callSendmsg, What: "send it to the parent", Args: []Arg{socket, mount}})
	return &c.p
}

// InShm is the name of the input for the shared memory of another container.
const InShm = "shm"

// InMounts is a mount namespace to join.
const InMounts = "mounts"

// CompileShm compiles the program of a process that joins the mount namespace of a container, and its user namespace before if that is
// another one than the caller's, and sends its parent the mount of its shared memory. Links do not count: they are the container's.
func CompileShm(joinUser bool) *Program {
	b := &builder{p: Program{Waits: true}}
	b.input(InReport)
	user := Ref(NoSlot)
	if joinUser {
		user = b.input(InNamespace)
	}
	mounts, socket := b.input(InMounts), b.input(InTrees)
	b.reset()
	if joinUser {
		b.do("join the user namespace of the container", callSetns, user, flags(unix.CLONE_NEWUSER, "CLONE_NEWUSER"))
	}
	b.do("join its mount namespace", callSetns, mounts, flags(unix.CLONE_NEWNS, "CLONE_NEWNS"))
	at := b.slot("shm")
	b.openIn(at, "find its shared memory", atFDCWD, ShmPath, unix.O_PATH|unix.O_DIRECTORY, noSymlinks)
	fd := b.get("tree", "take it", callOpenTree, Ref(at), empty, flags(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH, "OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC|AT_EMPTY_PATH"))
	b.add(Op{Special: SendFD, Call: callSendmsg, What: "send it to the parent", Args: []Arg{socket, fd}})
	return &b.p
}

// InNamespace is a user namespace to join.
const InNamespace = "namespace"

// CompileReadOnly compiles the program of a process that joins a user namespace and sends its parent a read-only view of a file: a mount that
// is attached to nothing, and that nobody can write by.
func CompileReadOnly(path string) *Program {
	b := &builder{p: Program{Waits: true}}
	b.input(InReport)
	namespace, socket := b.input(InNamespace), b.input(InTrees)
	b.reset()
	b.do("join the user namespace", callSetns, namespace, flags(unix.CLONE_NEWUSER, "CLONE_NEWUSER"))
	b.do("have mounts of one's own", callUnshare, flags(unix.CLONE_NEWNS, "CLONE_NEWNS"))
	fd := b.get("file", "take "+path, callOpenTree, atFDCWD, Str(path), flags(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC, "OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC"))
	b.do("make it read-only", callMountSetattr, fd, Str(""), flags(unix.AT_EMPTY_PATH, "AT_EMPTY_PATH"), Bytes{readOnly(), "{MOUNT_ATTR_RDONLY}"}, num(len(readOnly())))
	b.add(Op{Special: SendFD, Call: callSendmsg, What: "send it to the parent", Args: []Arg{socket, fd}})
	return &b.p
}

// readOnly is a struct mount_attr (linux/mount.h).
func readOnly() []byte {
	attr := make([]byte, unix.MOUNT_ATTR_SIZE_VER0)
	binary.NativeEndian.PutUint64(attr, unix.MOUNT_ATTR_RDONLY)
	return attr
}
