package cgroup

import (
	"slices"

	"golang.org/x/sys/unix"
)

// Kinds of device and of access in struct bpf_cgroup_dev_ctx (linux/bpf.h).
const (
	bpfBlock, bpfChar           = 1, 2
	bpfMknod, bpfRead, bpfWrite = 1, 2, 4
)

// insn is one instruction of struct bpf_insn.
type insn struct {
	code     uint8
	dst, src uint8
	off      int16
	imm      int32
}

// Registers: the program gets its context in r1 and gives 0 (denied) or 1 in r0.
const (
	rResult = iota
	rContext
	rKind
	rAccess // what of the access asked for no rule has allowed yet
	rMajor
	rMinor
	rScratch
)

func load(dst uint8, off int16) insn {
	return insn{code: unix.BPF_LDX | unix.BPF_MEM | unix.BPF_W, dst: dst, src: rContext, off: off}
}

func alu(op, dst uint8, imm int32) insn {
	return insn{code: unix.BPF_ALU | op | unix.BPF_K, dst: dst, imm: imm}
}

// jumpUnless skips to the instruction at "to", filled in later, unless the register has that value.
func jumpUnless(dst uint8, value int32) insn {
	return insn{code: unix.BPF_JMP | bpfJNE | unix.BPF_K, dst: dst, imm: value, off: toNext}
}

const (
	bpfJNE  = 0x50
	bpfMov  = 0xb0
	bpfExit = 0x90
	toNext  = -1 // to be patched: the next rule
)

func answer(allow bool) []insn {
	value := int32(0)
	if allow {
		value = 1
	}
	return []insn{alu(bpfMov, rResult, value), {code: unix.BPF_JMP | bpfExit}}
}

// compileFilter turns rules into a program: from the last rule to the first, each kind of access asked for is decided by
// the first rule that names it. What no rule names is denied.
func compileFilter(all []rule) []insn {
	program := []insn{
		load(rKind, 0), // access << 16 | kind
		load(rMajor, 4),
		load(rMinor, 8),
		{code: unix.BPF_ALU | bpfMov | unix.BPF_X, dst: rAccess, src: rKind},
		alu(unix.BPF_AND, rKind, 0xffff),
		alu(unix.BPF_RSH, rAccess, 16),
	}
	for _, r := range slices.Backward(all) {
		var part []insn
		switch r.kind {
		case 'b':
			part = append(part, jumpUnless(rKind, bpfBlock))
		case 'c':
			part = append(part, jumpUnless(rKind, bpfChar))
		}
		if r.major != every {
			part = append(part, jumpUnless(rMajor, int32(r.major)))
		}
		if r.minor != every {
			part = append(part, jumpUnless(rMinor, int32(r.minor)))
		}
		unconditional := len(part) == 0
		mask := accessMask(r.access)
		whole := mask == bpfMknod|bpfRead|bpfWrite
		switch {
		case whole:
		case r.allow:
			part = append(part, alu(unix.BPF_AND, rAccess, ^mask), jumpUnless(rAccess, 0))
		default:
			part = append(part,
				insn{code: unix.BPF_ALU | bpfMov | unix.BPF_X, dst: rScratch, src: rAccess},
				alu(unix.BPF_AND, rScratch, mask),
				insn{code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, dst: rScratch, imm: 0, off: toNext})
		}
		part = append(part, answer(r.allow)...)
		for i := range part {
			if part[i].off == toNext {
				part[i].off = int16(len(part) - i - 1)
			}
		}
		program = append(program, part...)
		if unconditional && whole {
			return program // the verifier refuses what can never be reached
		}
	}
	return append(program, answer(false)...)
}

func accessMask(access string) int32 {
	mask := int32(0)
	for _, kind := range access {
		switch kind {
		case 'm':
			mask |= bpfMknod
		case 'r':
			mask |= bpfRead
		case 'w':
			mask |= bpfWrite
		}
	}
	return mask
}
