// Package plan compiles an OCI runtime spec into a flat list of system calls that a cloned child carries out
// between clone and execve.
//
// It is pure: a spec and facts about the host go in, a Program comes out, the same on every machine; nothing
// is opened, looked up or changed here. internal/runtime/child lays a Program out in memory and runs it;
// `berth run --explain` prints it; the golden tests compare it as text.
//
// Words: an *operation* is one system call or one of a few special steps; a *slot* holds the result of an
// operation, most often a descriptor, for later ones; an *input* is a slot that the parent fills before the
// clone; a failure that an operation *tolerates* is not one.
package plan

import (
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// Call is a system call and its name.
type Call struct {
	Nr   uintptr
	Name string
}

// Slot is the place of a result. Slots count from 1; NoSlot throws the result away.
type Slot int

// NoSlot is the zero Slot.
const NoSlot Slot = 0

// Special says what an operation is when it is not a plain system call.
type Special uint8

const (
	Plain    Special = iota
	SendFD           // send the descriptor of slot Args[1] over the socket of slot Args[0] (SCM_RIGHTS)
	Reset            // put every signal's handler back to default
	Clone            // clone(CLONE_PARENT): the child goes on with the next operation, this process ends
	Expect           // fail with Errno unless Args[0] (Out) holds the bytes Args[1] at offset Args[2]
	Exec             // execve; of several in a row, the error that says most is reported
	Find             // whether there is a file to execute; of several in a row likewise
	WaitByte         // read one byte from slot Args[0]; end of file means the parent has gone: exit silently
	CloseAll         // close every descriptor from Args[0] on but the report pipe and the slots that follow
	Bear             // make the child of another program, whose parent this process is from then on
)

// Op is one operation.
type Op struct {
	Special Special
	Call    Call
	Args    []Arg
	Save    Slot
	// Tolerate are errors that are not failures.
	Tolerate []syscall.Errno
	// SkipOK and SkipTolerated are how many of the following operations are left out when this one
	// succeeds, or fails with a tolerated error.
	SkipOK, SkipTolerated int
	// Errno is reported by Expect.
	Errno syscall.Errno
	// What says what the operation is for; Origin the flag, the default or the field of the spec that asked for it.
	What, Origin string
}

// Arg is an argument of an operation.
type Arg interface{ arg() }

type (
	// Int is a number; Text is how it is printed when that says more.
	Int struct {
		V    uintptr
		Text string
	}
	// Str is a NUL-terminated string.
	Str string
	// Ref is the result of an earlier operation.
	Ref Slot
	// Bytes is memory that the kernel reads; Text says what is in it.
	Bytes struct {
		B    []byte
		Text string
	}
	// Out is memory that the kernel writes, N bytes. Two operations with the same ID share it.
	Out struct{ ID, N int }
	// Strings is a NULL-terminated array of strings: argv, envp.
	Strings []string
	// Filter is a struct sock_fprog that points at a BPF program.
	Filter struct {
		Code []unix.SockFilter
		Text string
	}
)

func (Int) arg()     {}
func (Str) arg()     {}
func (Ref) arg()     {}
func (Bytes) arg()   {}
func (Out) arg()     {}
func (Strings) arg() {}
func (Filter) arg()  {}

// Program is what a child does from clone to execve.
type Program struct {
	// CloneFlags are clone(2)'s CLONE_NEW* flags that the child is born with.
	CloneFlags uintptr
	// Waits says that the child waits for somebody, so it must not share its parent's memory.
	Waits bool
	// Inputs names the slots that the parent fills, from slot 1 on.
	Inputs []string
	// SlotNames names all slots, inputs first; the name of slot s is SlotNames[s-1].
	SlotNames []string
	Ops       []Op
}

// Has reports whether the program needs an input of that name.
func (p *Program) Has(input string) bool { return slices.Contains(p.Inputs, input) }

// Input names known to both sides. The parent gives a descriptor for each that a Program lists.
const (
	InReport  = "report"  // pipe: (index of operation, errno) of the failure; closed by execve
	InStdin   = "stdin"   //
	InStdout  = "stdout"  //
	InStderr  = "stderr"  //
	InConsole = "console" // socket that takes the master side of the terminal
	InReady   = "ready"   // pipe: one byte when everything but the execve is done
	InStart   = "start"   // pipe: a byte lets the child go on to execve
	// InListener is a socket that takes the descriptor by which somebody is asked about system calls.
	InListener = "listener"
	InMaps     = "maps"    // pipe: a byte says that the user namespace has its id maps
	InMapsEnd  = "mapsend" // the pipe's other end, of which the child must not keep a copy
	InNetwork  = "network" // the network namespace that the parent has made for the container
	InGo       = "go"      // pipe: a byte says that what the child is has been written down, and its network made
	InHere     = "here"    // pipe: one byte when the child waits at InGo, its namespaces and file systems made
	InGoEnd    = "goend"   // the pipe's other end, of which the child must not keep a copy
)
