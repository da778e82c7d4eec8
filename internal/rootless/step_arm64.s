#include "textflag.h"

// See step_amd64.s.
TEXT ·step(SB),NOSPLIT|NOFRAME,$0-0
	MOVD	RSP, R19
	MOVD	$0x410000, R20
	ADD	$0x800, R20	// stepDataAddress

	MOVD	$268, R8	// setns(namespace, CLONE_NEWUSER)
	MOVD	0(R20), R0
	MOVD	$0x10000000, R1
	SVC
	CBNZ	R0, fail

	MOVD	$149, R8	// setresgid(0, 0, 0)
	MOVD	ZR, R0
	MOVD	ZR, R1
	MOVD	ZR, R2
	SVC
	CBNZ	R0, fail

	MOVD	$57, R8	// close(namespace)
	MOVD	0(R20), R0
	SVC
	MOVD	$57, R8	// close(lock)
	MOVD	16(R20), R0
	SVC
	MOVD	$25, R8	// fcntl(program, F_SETFD, FD_CLOEXEC)
	MOVD	8(R20), R0
	MOVD	$2, R1
	MOVD	$1, R2
	SVC

	MOVD	$281, R8	// execveat(program, "", argv, envp, AT_EMPTY_PATH)
	MOVD	8(R20), R0
	ADD	$24, R20, R1
	ADD	$8, R19, R2
	MOVD	0(R19), R3
	ADD	R3<<3, R19, R3
	ADD	$16, R3, R3
	MOVD	$0x1000, R4
	SVC
fail:
	MOVD	$64, R8	// write(2, message, length)
	MOVD	$2, R0
	ADD	$40, R20, R1
	MOVD	32(R20), R2
	SVC
	MOVD	$94, R8	// exit_group(125)
	MOVD	$125, R0
	SVC
	BRK

// func stepText() unsafe.Pointer
TEXT ·stepText(SB),NOSPLIT,$0-8
	MOVD	$·step(SB), R0
	MOVD	R0, ret+0(FP)
	RET
