package child

import (
	"errors"
	"fmt"
	"syscall"
	"unsafe"

	"berth/internal/runtime/plan"

	"golang.org/x/sys/unix"
)

// stackBytes is the stack of a child: run and what it calls need less than 1 KiB, which the linker checks.
const stackBytes = 16 << 10

// layout is a Program in memory, with all that it refers to.
type layout struct {
	m     *machine
	ops   []instruction
	slots []uintptr
	stack []byte
	out   map[int][]byte
	keep  []any
}

// lay puts p into memory. Every buffer is allocated on the heap, where nothing moves, and stays reachable through
// the layout.
func lay(p *plan.Program, inputs map[string]int) (*layout, error) {
	l := &layout{
		m:     new(machine),
		ops:   make([]instruction, len(p.Ops)),
		slots: make([]uintptr, len(p.SlotNames)+1),
		stack: make([]byte, stackBytes),
		out:   map[int][]byte{},
	}
	for i, name := range p.Inputs {
		fd, given := inputs[name]
		if !given {
			return nil, fmt.Errorf("the program needs the input %q, which was not given", name)
		}
		l.slots[i+1] = uintptr(fd)
	}
	report, given := inputs[plan.InReport]
	if !given {
		return nil, errors.New("a program needs a report pipe")
	}
	l.m.report = uintptr(report)
	for i := range p.Ops {
		if err := l.operation(&l.ops[i], &p.Ops[i]); err != nil {
			return nil, fmt.Errorf("operation %d (%s): %w", i, p.Ops[i].What, err)
		}
	}
	l.m.n = uintptr(len(l.ops))
	if len(l.ops) > 0 {
		l.m.ops = unsafe.Pointer(&l.ops[0])
	}
	l.m.slots = unsafe.Pointer(&l.slots[0])
	return l, nil
}

func (l *layout) operation(in *instruction, op *plan.Op) error {
	in.nr, in.special, in.save = op.Call.Nr, op.Special, uint16(op.Save)
	in.skipOK, in.skipTolerated = uint16(op.SkipOK), uint16(op.SkipTolerated)
	in.errno = uint16(op.Errno)
	if len(op.Tolerate) > len(in.tolerate) {
		return fmt.Errorf("it tolerates %d errors; %d fit", len(op.Tolerate), len(in.tolerate))
	}
	for i, e := range op.Tolerate {
		in.tolerate[i] = uint16(e)
	}
	if len(op.Args) > len(in.args) {
		return fmt.Errorf("it has %d arguments; a system call takes %d", len(op.Args), len(in.args))
	}
	for i, a := range op.Args {
		switch a := a.(type) {
		case plan.Int:
			in.args[i] = a.V
		case plan.Ref:
			in.args[i] = uintptr(a)
			in.refs |= 1 << i
		case plan.Str:
			s, err := unix.BytePtrFromString(string(a))
			if err != nil {
				return fmt.Errorf("%q holds a NUL byte", string(a))
			}
			in.args[i] = l.address(unsafe.Pointer(s), s)
		case plan.Bytes:
			if len(a.B) > 0 {
				in.args[i] = l.address(unsafe.Pointer(&a.B[0]), a.B)
			}
		case plan.Out:
			b := l.out[a.ID]
			if b == nil {
				b = make([]byte, a.N)
				l.out[a.ID] = b
			}
			in.args[i] = l.address(unsafe.Pointer(&b[0]), b)
		case plan.Strings:
			array, err := syscall.SlicePtrFromStrings(a)
			if err != nil {
				return errors.New("an argument or a variable holds a NUL byte")
			}
			in.args[i] = l.address(unsafe.Pointer(&array[0]), array)
		case plan.Filter:
			f := &unix.SockFprog{Len: uint16(len(a.Code)), Filter: &a.Code[0]}
			in.args[i] = l.address(unsafe.Pointer(f), f)
		}
	}
	switch op.Special {
	case plan.Expect:
		want, ok := op.Args[1].(plan.Bytes)
		if !ok {
			return errors.New("it expects bytes")
		}
		in.args[3] = uintptr(len(want.B))
	case plan.SendFD:
		control := make([]byte, unix.CmsgSpace(4))
		h := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
		h.Level, h.Type = unix.SOL_SOCKET, unix.SCM_RIGHTS
		h.SetLen(unix.CmsgLen(4))
		data := []byte{0}
		iov := &unix.Iovec{Base: &data[0]}
		iov.SetLen(1)
		message := &unix.Msghdr{Iov: iov, Control: &control[0]}
		message.SetIovlen(1)
		message.SetControllen(len(control))
		in.args[2] = l.address(unsafe.Pointer(message), message)
		in.args[3] = l.address(unsafe.Pointer(&control[unix.CmsgLen(0)]), control)
	}
	return nil
}

// address returns p as a number and keeps the object behind it.
func (l *layout) address(p unsafe.Pointer, object any) uintptr {
	l.keep = append(l.keep, object)
	return uintptr(p)
}

// top is where the child's stack begins: 16-byte aligned, with room for begin's argument above.
func (l *layout) top() uintptr {
	return (uintptr(unsafe.Pointer(&l.stack[0])) + stackBytes - 64) &^ 15
}

func (l *layout) stackBase() uintptr { return uintptr(unsafe.Pointer(&l.stack[0])) }
