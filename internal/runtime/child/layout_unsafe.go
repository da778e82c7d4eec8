package child

import (
	"errors"
	"fmt"
	"strings"
	"unsafe"

	"berth/internal/runtime/plan"

	"golang.org/x/sys/unix"
)

// stackBytes is the stack of a child: run and what it calls need less than 1 KiB, which the linker checks.
const stackBytes = 16 << 10

// layout is a Program in memory, with all that it refers to: in a region, so that a child that is a copy of this process need have nothing
// else of what this process has in its memory.
type layout struct {
	region region
	m      *machine
	ops    []instruction
	slots  []uintptr
	stack  uintptr
	out    map[int]uintptr
}

// lay puts p into memory, where it stays until release.
func lay(p *plan.Program, inputs map[string]int) (_ *layout, err error) {
	l := &layout{out: map[int]uintptr{}}
	defer func() {
		if err != nil {
			l.release()
		}
	}()
	if l.m, err = put(&l.region, machine{}); err != nil {
		return nil, err
	}
	if l.ops, err = take[instruction](&l.region, len(p.Ops)); err != nil {
		return nil, err
	}
	if l.slots, err = take[uintptr](&l.region, len(p.SlotNames)+1); err != nil {
		return nil, err
	}
	stack, err := take[byte](&l.region, stackBytes)
	if err != nil {
		return nil, err
	}
	l.stack = address(stack)
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
	var err error
	for i, a := range op.Args {
		switch a := a.(type) {
		case plan.Int:
			in.args[i] = a.V
		case plan.Ref:
			in.args[i] = uintptr(a)
			in.refs |= 1 << i
		case plan.Str:
			in.args[i], err = l.text(string(a))
		case plan.Bytes:
			in.args[i], err = l.bytes(a.B)
		case plan.Out:
			if l.out[a.ID] == 0 {
				l.out[a.ID], err = l.bytes(make([]byte, a.N))
			}
			in.args[i] = l.out[a.ID]
		case plan.Strings:
			in.args[i], err = l.texts(a)
		case plan.Filter:
			in.args[i], err = l.filter(a.Code)
		}
		if err != nil {
			return err
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
		in.args[2], in.args[3], err = l.message()
	}
	return err
}

// text is a string that ends with a NUL byte.
func (l *layout) text(s string) (uintptr, error) {
	if strings.IndexByte(s, 0) >= 0 {
		return 0, fmt.Errorf("%q holds a NUL byte", s)
	}
	b, err := take[byte](&l.region, len(s)+1)
	copy(b, s)
	return address(b), err
}

// texts is an array of pointers to texts, which ends with a null pointer.
func (l *layout) texts(list []string) (uintptr, error) {
	array, err := take[uintptr](&l.region, len(list)+1)
	if err != nil {
		return 0, err
	}
	for i, s := range list {
		if strings.IndexByte(s, 0) >= 0 {
			return 0, errors.New("an argument or a variable holds a NUL byte")
		}
		if array[i], err = l.text(s); err != nil {
			return 0, err
		}
	}
	return address(array), nil
}

// bytes is a copy of b; the null pointer if there are none.
func (l *layout) bytes(b []byte) (uintptr, error) {
	if len(b) == 0 {
		return 0, nil
	}
	c, err := take[byte](&l.region, len(b))
	copy(c, b)
	return address(c), err
}

func (l *layout) filter(code []unix.SockFilter) (uintptr, error) {
	c, err := take[unix.SockFilter](&l.region, len(code))
	if err != nil {
		return 0, err
	}
	copy(c, code)
	f, err := put(&l.region, unix.SockFprog{Len: uint16(len(c)), Filter: &c[0]})
	return uintptr(unsafe.Pointer(f)), err
}

// message is one byte with a descriptor, which is written to the second address before it is sent.
func (l *layout) message() (header, descriptor uintptr, err error) {
	control, err := take[byte](&l.region, unix.CmsgSpace(4))
	if err != nil {
		return 0, 0, err
	}
	h := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
	h.Level, h.Type = unix.SOL_SOCKET, unix.SCM_RIGHTS
	h.SetLen(unix.CmsgLen(4))
	data, err := put(&l.region, byte(0))
	if err != nil {
		return 0, 0, err
	}
	iov, err := put(&l.region, unix.Iovec{Base: data})
	if err != nil {
		return 0, 0, err
	}
	iov.SetLen(1)
	message, err := put(&l.region, unix.Msghdr{Iov: iov, Control: &control[0]})
	if err != nil {
		return 0, 0, err
	}
	message.SetIovlen(1)
	message.SetControllen(len(control))
	return uintptr(unsafe.Pointer(message)), uintptr(unsafe.Pointer(&control[unix.CmsgLen(0)])), nil
}

// top is where the child's stack begins: 16-byte aligned, with room for begin's argument above.
func (l *layout) top() uintptr { return (l.stack + stackBytes - 64) &^ 15 }

// thread is what a thread of this program has for itself: Go's code on amd64 reads the word before it after calls of assembly (the goroutine, which no
// child has). It is at the stack's upper end.
func (l *layout) thread() uintptr { return l.stack + stackBytes - 16 }

// release gives the memory back. A child that shares it must have left it; one that is a copy has its own.
func (l *layout) release() { l.region.release() }
