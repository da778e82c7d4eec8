package plan

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// ParentInput is what the program of a container's parent-to-be is compiled from.
type ParentInput struct {
	// Args and Env are those of the program to execute, whose file is the input InProgram.
	Args, Env []string
	// Files is how many descriptors it is given, from 0 on.
	Files int
}

// InProgram is the file of the program that a parent executes.
const InProgram = "program"

// InFile is the name of the input for the descriptor that becomes number i.
func InFile(i int) string { return fmt.Sprintf("file%d", i) }

// CompileParent compiles the program of a process that makes the child of another program, in a session of its own, and then
// executes a program that stays as the child's parent. Until that execve it shares the memory of whoever made it.
func CompileParent(in ParentInput) *Program {
	b := &builder{}
	b.input(InReport)
	program := b.input(InProgram)
	files := make([]Ref, in.Files)
	for i := range files {
		files[i] = b.input(InFile(i))
	}
	b.reset()
	b.add(Op{Special: Bear, Call: callClone3, What: "make the container's first process"})
	b.do("live in a session of its own", callSetsid)
	b.do("keep no directory busy", callChdir, Str("/"))
	// All of them are moved above the numbers that are to be given, so that none is in another's way.
	move := func(f Ref) Ref {
		return b.get("moved", "move a descriptor out of the way", callFcntl, f, flags(unix.F_DUPFD_CLOEXEC, "F_DUPFD_CLOEXEC"), num(in.Files+1))
	}
	program = move(program)
	for i, f := range files {
		files[i] = move(f)
	}
	for i, f := range files {
		b.do("hand it on", callDup3, f, num(i), num(0))
	}
	b.do("give the program a number that is its name", callDup3, program, num(in.Files), flags(unix.O_CLOEXEC, "O_CLOEXEC"))
	b.letSignalsThrough()
	b.add(Op{Special: Exec, Call: callExecve, What: "become the monitor", Args: []Arg{Str(fmt.Sprintf("/proc/self/fd/%d", in.Files)), Strings(in.Args), Strings(in.Env)}})
	return &b.p
}

// CompileKeeper compiles the program of a process that is born with new namespaces, waits for a byte from its parent, and ends:
// long enough for the parent to take hold of the namespaces.
func CompileKeeper(namespaces uintptr) *Program {
	b := &builder{p: Program{CloneFlags: namespaces, Waits: true}}
	b.input(InReport)
	word, end := b.input(InGo), b.input(InGoEnd)
	b.reset()
	b.do("leave the parent the only one who can say so", callClose, end)
	b.add(Op{Special: WaitByte, Call: callRead, What: "wait until the namespaces are held", Args: []Arg{word, b.out(1), num(1)}})
	return &b.p
}
