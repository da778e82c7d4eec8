#include "textflag.h"

// func spawn(nr, a1, a2, a3, a4, a5 uintptr, m *machine) (pid, errno uintptr)
//
// clone or clone3 with a stack of the child's own. The parent returns; the child never does: it goes on in
// run(m), on memory that it may share with its parent, whose stack it leaves alone.
TEXT ·spawn(SB),NOSPLIT|NOFRAME,$0-72
	MOVQ	nr+0(FP), AX
	MOVQ	a1+8(FP), DI
	MOVQ	a2+16(FP), SI
	MOVQ	a3+24(FP), DX
	MOVQ	a4+32(FP), R10
	MOVQ	a5+40(FP), R8
	MOVQ	m+48(FP), R12	// the kernel keeps every register but RAX, RCX and R11
	SYSCALL
	TESTQ	AX, AX
	JEQ	child
	CMPQ	AX, $0xfffffffffffff001
	JLS	ok
	NEGQ	AX
	MOVQ	$-1, pid+56(FP)
	MOVQ	AX, errno+64(FP)
	RET
ok:
	MOVQ	AX, pid+56(FP)
	MOVQ	$0, errno+64(FP)
	RET
child:
	// By way of a register: a child that bears another runs through here twice, on two stacks, and to the linker, which adds
	// up what one stack needs, that would be a cycle.
	LEAQ	·begin(SB), AX
	JMP	AX

// begin calls run with the machine of R12 on the child's stack.
TEXT ·begin(SB),NOSPLIT|NOFRAME,$0
	MOVQ	R12, 0(SP)
	CALL	·run(SB)
	INT	$3

// func split(m *machine, flags uintptr) (errno uintptr)
//
// clone with the stack of the caller: the child returns 0. The parent, which may be sharing that stack, touches
// it no more: it keeps the child's pid in m.message, sends that to m.report, and exits. Only a failure to clone
// returns to the parent.
TEXT ·split(SB),NOSPLIT|NOFRAME,$0-24
	MOVQ	m+0(FP), R12
	MOVQ	flags+8(FP), DI
	XORL	SI, SI
	XORL	DX, DX
	XORL	R10, R10
	XORL	R8, R8
	MOVL	$56, AX	// clone
	SYSCALL
	TESTQ	AX, AX
	JEQ	child
	CMPQ	AX, $0xfffffffffffff001
	JLS	parent
	NEGQ	AX
	MOVQ	AX, errno+16(FP)
	RET
child:
	MOVQ	$0, errno+16(FP)
	RET
parent:
	MOVL	$0xffffffff, 0(R12)
	MOVL	AX, 4(R12)
	MOVL	$1, AX	// write
	MOVQ	8(R12), DI
	MOVQ	R12, SI
	MOVL	$8, DX
	SYSCALL
	MOVL	$231, AX	// exit_group
	XORL	DI, DI
	SYSCALL
	INT	$3

// func variables() (first, end uintptr)
TEXT ·variables(SB),NOSPLIT|NOFRAME,$0-16
	LEAQ	runtime·noptrdata(SB), AX
	MOVQ	AX, first+0(FP)
	LEAQ	runtime·enoptrbss(SB), AX
	MOVQ	AX, end+8(FP)
	RET
