#include "textflag.h"

// func spawn(nr, a1, a2, a3, a4, a5 uintptr, m *machine) (pid, errno uintptr)
//
// clone or clone3 with a stack of the child's own. The parent returns; the child never does: it goes on in
// run(m), on memory that it may share with its parent, whose stack it leaves alone.
TEXT ·spawn(SB),NOSPLIT|NOFRAME,$0-72
	MOVD	nr+0(FP), R8
	MOVD	a1+8(FP), R0
	MOVD	a2+16(FP), R1
	MOVD	a3+24(FP), R2
	MOVD	a4+32(FP), R3
	MOVD	a5+40(FP), R4
	MOVD	m+48(FP), R19	// the kernel keeps every register but R0
	SVC
	CBZ	R0, child
	CMN	$4095, R0
	BCC	ok
	NEG	R0, R0
	MOVD	$-1, R1
	MOVD	R1, pid+56(FP)
	MOVD	R0, errno+64(FP)
	RET
ok:
	MOVD	R0, pid+56(FP)
	MOVD	ZR, errno+64(FP)
	RET
child:
	// By way of a register: a child that bears another runs through here twice, on two stacks, and to the linker, which adds
	// up what one stack needs, that would be a cycle.
	MOVD	$·begin(SB), R1
	B	(R1)

// begin calls run with the machine of R19 on the child's stack.
TEXT ·begin(SB),NOSPLIT|NOFRAME,$0
	MOVD	R19, 8(RSP)
	BL	·run(SB)
	BRK

// func split(m *machine, flags uintptr) (errno uintptr)
//
// clone with the stack of the caller: the child returns 0. The parent, which may be sharing that stack, touches
// it no more: it keeps the child's pid in m.message, sends that to m.report, and exits. Only a failure to clone
// returns to the parent.
TEXT ·split(SB),NOSPLIT|NOFRAME,$0-24
	MOVD	m+0(FP), R19
	MOVD	flags+8(FP), R0
	MOVD	ZR, R1
	MOVD	ZR, R2
	MOVD	ZR, R3
	MOVD	ZR, R4
	MOVD	$220, R8	// clone
	SVC
	CBZ	R0, child
	CMN	$4095, R0
	BCC	parent
	NEG	R0, R0
	MOVD	R0, errno+16(FP)
	RET
child:
	MOVD	ZR, errno+16(FP)
	RET
parent:
	MOVW	$-1, R1
	MOVW	R1, 0(R19)
	MOVW	R0, 4(R19)
	MOVD	$64, R8	// write
	MOVD	8(R19), R0
	MOVD	R19, R1
	MOVD	$8, R2
	SVC
	MOVD	$94, R8	// exit_group
	MOVD	ZR, R0
	SVC
	BRK

// func variables() (first, end uintptr)
TEXT ·variables(SB),NOSPLIT|NOFRAME,$0-16
	MOVD	$runtime·noptrdata(SB), R0
	MOVD	R0, first+0(FP)
	MOVD	$runtime·enoptrbss(SB), R0
	MOVD	R0, end+8(FP)
	RET
