package seccomp

import "golang.org/x/sys/unix"

// Offsets in struct seccomp_data (include/uapi/linux/seccomp.h). Arguments are 64-bit and, on every architecture
// here, little-endian.
const (
	offsetNumber = 0
	offsetArch   = 4
	offsetArgs   = 16
)

// A label is a place to jump to: a position in assembler.code if it is not negative, otherwise the verdict actions[^label].
type label int32

func verdictLabel(action int32) label { return label(^action) }

// assembler writes a program from its end to its beginning, because jumps only go forward: whatever is jumped to is
// there already. code is in reverse order until it is finished.
type assembler struct {
	code    []unix.SockFilter
	actions []uint32
	returns [16]int32 // position of the newest return of the first verdicts, plus 1
}

// near returns a position for to that the next two instructions reach, whose offsets have eight bits: verdicts are
// written again, other code is reached through a long jump.
func (s *assembler) near(to label) int32 {
	const reach = 250
	if to >= 0 {
		if len(s.code)-int(to) <= reach {
			return int32(to)
		}
		return s.emit(unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JA, K: uint32(len(s.code) - int(to) - 1)})
	}
	action := int32(^to)
	if int(action) < len(s.returns) {
		if at := s.returns[action]; at > 0 && len(s.code)-int(at-1) <= reach {
			return at - 1
		}
	}
	at := s.emit(unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: s.actions[action]})
	if int(action) < len(s.returns) {
		s.returns[action] = at + 1
	}
	return at
}

func (s *assembler) emit(instruction unix.SockFilter) int32 {
	s.code = append(s.code, instruction)
	return int32(len(s.code) - 1)
}

// load writes: accumulator = the 32 bits at offset; goes on to what was written last.
func (s *assembler) load(offset uint32) label {
	return label(s.emit(unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}))
}

// and writes: accumulator &= mask; goes on to what was written last.
func (s *assembler) and(mask uint32) {
	s.emit(unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: mask})
}

// jump writes: if the accumulator compares with k then go to yes, otherwise to no. test is BPF_JEQ, JGT, JGE or JSET.
func (s *assembler) jump(test uint16, k uint32, yes, no label) label {
	y := s.near(yes)
	n := s.near(no)
	here := int32(len(s.code))
	return label(s.emit(unix.SockFilter{
		Code: unix.BPF_JMP | unix.BPF_K | test, K: k,
		Jt: uint8(here - y - 1), Jf: uint8(here - n - 1),
	}))
}

// begin makes sure that the program that ends here starts at start.
func (s *assembler) begin(start label) {
	at := s.near(start)
	if int(at) != len(s.code)-1 {
		s.emit(unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JA, K: uint32(len(s.code) - int(at) - 1)})
	}
}

// finish returns the program in its order.
func (s *assembler) finish() []unix.SockFilter {
	program := make([]unix.SockFilter, len(s.code))
	for i, instruction := range s.code {
		program[len(program)-1-i] = instruction
	}
	return program
}
