#include "textflag.h"

// The types and the short strings of a program, which the linker puts before what is long, as the programs that it carries.
#define CONSTANTS	0x160000

DATA	self<>+0(SB)/8, $"/proc/se"
DATA	self<>+8(SB)/8, $"lf/exe\x00\x00"
GLOBL	self<>(SB), RODATA, $16

// The kernel leaves argc, argv, NULL, envp, NULL at the initial stack pointer, which Go's runtime wants to find as it was. What is
// below is free.
TEXT ·command(SB),NOSPLIT|NOFRAME,$0-0
	MOVQ	SP, R12
	LEAQ	-256(R12), R13	// room for a struct statfs, then for a struct mount_attr
	LEAQ	16(R12), R14	// argv + 1
argument:
	MOVQ	(R14), SI
	TESTQ	SI, SI
	JEQ	runtime
	ADDQ	$8, R14
	// Words are compared with the zero that ends them. What is read behind a shorter one is the stack's, too.
	MOVL	(SI), AX
	CMPL	AX, $0x006e7572	// run
	JEQ	starts
	CMPL	AX, $0x746e7572	// runt
	JEQ	runtimeCommand
	CMPL	AX, $0x72617473	// star
	JEQ	start
	CMPL	AX, $0x61657263	// crea
	JNE	argument
	MOVL	3(SI), AX
	CMPL	AX, $0x00657461	// ate
	JEQ	starts
	JMP	argument
start:
	MOVW	4(SI), AX
	CMPW	AX, $0x0074	// t
	JEQ	starts
	JMP	argument
runtimeCommand:
	MOVL	4(SI), AX
	CMPL	AX, $0x00656d69	// ime
	JNE	argument
starts:
	MOVL	$137, AX	// statfs("/proc/self/exe", R13)
	LEAQ	self<>(SB), DI
	MOVQ	R13, SI
	SYSCALL
	TESTQ	AX, AX
	JNE	runtime
	MOVQ	80(R13), AX	// f_flags
	TESTQ	$1, AX	// ST_RDONLY
	JNE	calm

	MOVL	$428, AX	// open_tree(AT_FDCWD, "/proc/self/exe", OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC)
	MOVQ	$-100, DI
	LEAQ	self<>(SB), SI
	MOVL	$0x80001, DX
	SYSCALL
	TESTQ	AX, AX
	JLT	runtime
	MOVQ	AX, R14

	MOVQ	$1, 0(R13)	// attr_set: MOUNT_ATTR_RDONLY
	MOVQ	$0, 8(R13)	// attr_clr
	MOVQ	$0, 16(R13)	// propagation
	MOVQ	$0, 24(R13)	// userns_fd
	MOVL	$442, AX	// mount_setattr(R14, "", AT_EMPTY_PATH, R13, 32)
	MOVQ	R14, DI
	LEAQ	self<>+14(SB), SI
	MOVL	$0x1000, DX
	MOVQ	R13, R10
	MOVL	$32, R8
	SYSCALL
	TESTQ	AX, AX
	JNE	close

	MOVL	$322, AX	// execveat(R14, "", argv, envp, AT_EMPTY_PATH)
	MOVQ	R14, DI
	LEAQ	self<>+14(SB), SI
	LEAQ	8(R12), DX
	MOVQ	(R12), CX
	LEAQ	16(R12)(CX*8), R10
	MOVL	$0x1000, R8
	SYSCALL
close:
	MOVL	$3, AX	// close(R14)
	MOVQ	R14, DI
	SYSCALL
runtime:
	JMP	·program(SB)
calm:
	MOVL	$157, AX	// prctl(PR_GET_TIMERSLACK)
	MOVL	$30, DI
	SYSCALL
	CMPQ	AX, $50000	// anything else is the caller's own wish
	JNE	runtime
	MOVL	$157, AX	// prctl(PR_SET_TIMERSLACK, host.calm)
	MOVL	$29, DI
	MOVL	$400001, SI
	SYSCALL
	JMP	runtime

TEXT ·program(SB),NOSPLIT|NOFRAME,$0-0
	MOVQ	8(SP), SI	// argv[0]
	TESTQ	SI, SI
	JEQ	start
	MOVQ	$0x6f6d2d6874726562, AX	// berth-mo
	CMPQ	AX, (SI)
	JEQ	start

	MOVL	$22, DX	// MADV_POPULATE_READ
	LEAQ	runtime·text(SB), DI
	LEAQ	runtime·etext(SB), SI
	CALL	·advise(SB)
	LEAQ	runtime·rodata(SB), DI
	LEAQ	CONSTANTS(DI), SI
	CALL	·advise(SB)
	LEAQ	runtime·pclntab(SB), DI
	LEAQ	runtime·epclntab(SB), SI
	CALL	·advise(SB)
	MOVL	$23, DX	// MADV_POPULATE_WRITE
	LEAQ	runtime·noptrdata(SB), DI
	LEAQ	runtime·ebss(SB), SI
	CALL	·advise(SB)
start:
	JMP	_rt0_amd64_linux(SB)

// advise is madvise(DI, SI-DI, DX) for whole pages.
TEXT ·advise(SB),NOSPLIT|NOFRAME,$0-0
	ANDQ	$~4095, DI
	SUBQ	DI, SI
	MOVL	$28, AX
	SYSCALL
	RET
