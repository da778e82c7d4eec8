#include "textflag.h"

// See entry_amd64.s.
#define CONSTANTS	0x160000

DATA	self<>+0(SB)/8, $"/proc/se"
DATA	self<>+8(SB)/8, $"lf/exe\x00\x00"
GLOBL	self<>(SB), RODATA, $16

// See entry_amd64.s.
TEXT ·command(SB),NOSPLIT|NOFRAME,$0-0
	MOVD	RSP, R19
	SUB	$256, R19, R20	// room for a struct statfs, then for a struct mount_attr
	ADD	$16, R19, R21	// argv + 1
argument:
	MOVD.P	8(R21), R1
	CBZ	R1, runtime
	// Words are compared with the zero that ends them. What is read behind a shorter one is the stack's, too.
	MOVWU	(R1), R2
	MOVD	$0x006e7572, R3	// run
	CMPW	R3, R2
	BEQ	starts
	MOVD	$0x746e7572, R3	// runt
	CMPW	R3, R2
	BEQ	runtimeCommand
	MOVD	$0x72617473, R3	// star
	CMPW	R3, R2
	BEQ	start
	MOVD	$0x61657263, R3	// crea
	CMPW	R3, R2
	BNE	argument
	MOVWU	3(R1), R2
	MOVD	$0x00657461, R3	// ate
	CMPW	R3, R2
	BEQ	starts
	B	argument
start:
	MOVHU	4(R1), R2
	MOVD	$0x0074, R3	// t
	CMPW	R3, R2
	BEQ	starts
	B	argument
runtimeCommand:
	MOVWU	4(R1), R2
	MOVD	$0x00656d69, R3	// ime
	CMPW	R3, R2
	BNE	argument
starts:
	MOVD	$43, R8	// statfs("/proc/self/exe", R20)
	MOVD	$self<>(SB), R0
	MOVD	R20, R1
	SVC
	CBNZ	R0, runtime
	MOVD	80(R20), R2	// f_flags
	TBNZ	$0, R2, calm	// ST_RDONLY

	MOVD	$428, R8	// open_tree(AT_FDCWD, "/proc/self/exe", OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC)
	MOVD	$-100, R0
	MOVD	$self<>(SB), R1
	MOVD	$0x80001, R2
	SVC
	TBNZ	$63, R0, runtime
	MOVD	R0, R21

	MOVD	$1, R2
	MOVD	R2, 0(R20)	// attr_set: MOUNT_ATTR_RDONLY
	MOVD	ZR, 8(R20)	// attr_clr
	MOVD	ZR, 16(R20)	// propagation
	MOVD	ZR, 24(R20)	// userns_fd
	MOVD	$442, R8	// mount_setattr(R21, "", AT_EMPTY_PATH, R20, 32)
	MOVD	R21, R0
	MOVD	$self<>+14(SB), R1
	MOVD	$0x1000, R2
	MOVD	R20, R3
	MOVD	$32, R4
	SVC
	CBNZ	R0, close

	MOVD	$281, R8	// execveat(R21, "", argv, envp, AT_EMPTY_PATH)
	MOVD	R21, R0
	MOVD	$self<>+14(SB), R1
	ADD	$8, R19, R2
	MOVD	(R19), R3
	ADD	$16, R19, R4
	ADD	R3<<3, R4, R3
	MOVD	$0x1000, R4
	SVC
close:
	MOVD	$57, R8	// close(R21)
	MOVD	R21, R0
	SVC
runtime:
	B	·program(SB)
calm:
	MOVD	$167, R8	// prctl(PR_GET_TIMERSLACK)
	MOVD	$30, R0
	SVC
	MOVD	$50000, R1	// anything else is the caller's own wish
	CMP	R1, R0
	BNE	runtime
	MOVD	$167, R8	// prctl(PR_SET_TIMERSLACK, host.calm)
	MOVD	$29, R0
	MOVD	$400001, R1
	SVC
	B	runtime

TEXT ·program(SB),NOSPLIT|NOFRAME,$0-0
	MOVD	8(RSP), R1	// argv[0]
	CBZ	R1, start
	MOVD	(R1), R1
	MOVD	$0x6f6d2d6874726562, R2	// berth-mo
	CMP	R2, R1
	BEQ	start

	MOVD	$22, R2	// MADV_POPULATE_READ
	MOVD	$runtime·text(SB), R0
	MOVD	$runtime·etext(SB), R1
	BL	·advise(SB)
	MOVD	$runtime·rodata(SB), R0
	MOVD	$CONSTANTS, R1
	ADD	R0, R1
	BL	·advise(SB)
	MOVD	$runtime·pclntab(SB), R0
	MOVD	$runtime·epclntab(SB), R1
	BL	·advise(SB)
	MOVD	$23, R2	// MADV_POPULATE_WRITE
	MOVD	$runtime·noptrdata(SB), R0
	MOVD	$runtime·ebss(SB), R1
	BL	·advise(SB)
start:
	B	_rt0_arm64_linux(SB)

// advise is madvise(R0, R1-R0, R2) for whole pages of whatever size the kernel has.
TEXT ·advise(SB),NOSPLIT|NOFRAME,$0-0
	AND	$~65535, R0
	SUB	R0, R1
	MOVD	$233, R8
	SVC
	RET
