package plan

import (
	"berth/internal/host"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// ForeignInput is what a call of another OCI runtime is compiled from.
type ForeignInput struct {
	Host host.Facts
	// Overlay is the container's root, which is mounted at MountPoint, or nil.
	Overlay    *Overlay
	MountPoint string
	// Shm is where the input InShm is mounted, or empty.
	Shm string
	// Parts are of the host's files what is mounted elsewhere for the runtime to find.
	Parts []Part
	// Program is the runtime's file; Args and Env are those of the call, and Dir is where it is made.
	Program   string
	Args, Env []string
	Dir       string
}

// Part is what a name leads to beneath a directory, whatever links there are, and where that is mounted.
type Part struct {
	Dir, Name string
	Recursive bool
	At        string
}

// CompileForeign compiles the program of a process that executes another OCI runtime. What it mounts for it nobody else sees: the root of a
// container is in the mount namespace of the call alone, and then in the container's, so that nothing is left when both have gone.
func CompileForeign(in ForeignInput) *Program {
	s := &specs.Spec{Root: &specs.Root{}, Linux: &specs.Linux{}}
	c := &compiler{in: Input{Spec: s, Host: in.Host, Overlay: in.Overlay, MountPoint: in.MountPoint}, spec: s, sources: map[string]Ref{}}
	c.input(InReport)
	stdio := []Ref{c.input(InStdin), c.input(InStdout), c.input(InStderr)}
	shm := Ref(NoSlot)
	if in.Shm != "" {
		shm = c.input(InShm)
	}
	c.reset()
	c.do("let modes be what is usual", callUmask, Int{0o022, "022"})
	switch {
	case in.Overlay != nil:
		c.p.CloneFlags = unix.CLONE_NEWNS
		c.rootFS()
	case in.Shm != "" || len(in.Parts) > 0:
		c.p.CloneFlags = unix.CLONE_NEWNS
		c.do("keep mounts made here from the host", callMount, null, Str("/"), null, flags(unix.MS_SLAVE|unix.MS_REC, "MS_SLAVE|MS_REC"), null)
	}
	c.from("mounts")
	attachAt := func(fd Ref, at string) {
		place := c.get("place", "open the place of the mount", callOpenat, atFDCWD, Str(at), flags(unix.O_PATH|unix.O_CLOEXEC, "O_PATH|O_CLOEXEC"))
		c.attach("mount it there", fd, place)
		c.do("done with the place", callClose, place)
	}
	if in.Shm != "" {
		attachAt(shm, in.Shm)
	}
	for _, part := range in.Parts {
		fd := c.openTree("part", part.Dir, part.Name, part.Recursive)
		attachAt(fd, part.At)
		c.do("done with the part", callClose, fd)
	}
	c.from("")
	for i, f := range stdio {
		c.do("hand on a standard stream", callDup3, f, num(i), num(0))
	}
	c.do("be in the bundle", callChdir, Str(in.Dir))
	c.letSignalsThrough()
	c.add(Op{Special: Exec, Call: callExecve, What: "become the runtime", Args: []Arg{Str(in.Program), Strings(in.Args), Strings(in.Env)}})
	return &c.p
}
