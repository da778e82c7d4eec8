package plan

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// ParentInput is what the program of a container's parent-to-be is compiled from.
type ParentInput struct {
	// Path is the program to execute, with its arguments and environment.
	Path      string
	Args, Env []string
	// Files is how many descriptors it is given, from 0 on.
	Files int
}

// InFile is the name of the input for the descriptor that becomes number i.
func InFile(i int) string { return fmt.Sprintf("file%d", i) }

// parentFDs is where descriptors are moved to before they get their numbers, so that none is in another's way.
const parentFDs = 256

// CompileParent compiles the program of a process that makes the child of another program, in a session of its own, and then
// executes a program that stays as the child's parent. Until that execve it shares the memory of whoever made it.
func CompileParent(in ParentInput) *Program {
	b := &builder{}
	b.input(InReport)
	files := make([]Ref, in.Files)
	for i := range files {
		files[i] = b.input(InFile(i))
	}
	b.reset()
	b.add(Op{Special: Bear, Call: callClone3, What: "make the container's first process"})
	b.do("live in a session of its own", callSetsid)
	b.do("keep no directory busy", callChdir, Str("/"))
	for i, f := range files {
		files[i] = b.get("moved", "move a descriptor out of the way", callFcntl, f, flags(unix.F_DUPFD_CLOEXEC, "F_DUPFD_CLOEXEC"), num(parentFDs))
	}
	for i, f := range files {
		b.do("hand it on", callDup3, f, num(i), num(0))
	}
	b.letSignalsThrough()
	b.add(Op{Special: Exec, Call: callExecve, What: "become the monitor", Args: []Arg{Str(in.Path), Strings(in.Args), Strings(in.Env)}})
	return &b.p
}
