package seccomp

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// data is struct seccomp_data (include/uapi/linux/seccomp.h).
type data struct {
	number, arch uint32
	args         [6]uint64
}

func (d data) String() string {
	return fmt.Sprintf("arch %#x number %d (%#x) args %#x", d.arch, int32(d.number), d.number, d.args)
}

func (d data) bytes() (b [64]byte) {
	binary.LittleEndian.PutUint32(b[0:], d.number)
	binary.LittleEndian.PutUint32(b[4:], d.arch)
	for i, arg := range d.args {
		binary.LittleEndian.PutUint64(b[16+8*i:], arg)
	}
	return b
}

// run carries out a program as the kernel's documentation of classic BPF says (Documentation/networking/filter.rst).
// It knows more than the compiler uses: libseccomp's programs run here, too.
func run(program []unix.SockFilter, d data) (uint32, error) {
	memory := d.bytes()
	var a, x uint32
	var scratch [16]uint32
	for pc := 0; pc < len(program); pc++ {
		in := program[pc]
		jump := func(yes bool) {
			if yes {
				pc += int(in.Jt)
			} else {
				pc += int(in.Jf)
			}
		}
		switch in.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			if in.K%4 != 0 || in.K > 60 {
				return 0, fmt.Errorf("load from %d", in.K)
			}
			a = binary.LittleEndian.Uint32(memory[in.K:])
		case unix.BPF_LD | unix.BPF_MEM:
			a = scratch[in.K]
		case unix.BPF_ST:
			scratch[in.K] = a
		case unix.BPF_MISC | unix.BPF_TAX:
			x = a
		case unix.BPF_MISC | unix.BPF_TXA:
			a = x
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			a &= in.K
		case unix.BPF_JMP | unix.BPF_JA:
			pc += int(in.K)
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			jump(a == in.K)
		case unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K:
			jump(a > in.K)
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			jump(a >= in.K)
		case unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K:
			jump(a&in.K != 0)
		case unix.BPF_RET | unix.BPF_K:
			return in.K, nil
		default:
			return 0, fmt.Errorf("instruction %d has unknown code %#x", pc, in.Code)
		}
	}
	return 0, fmt.Errorf("the program runs past its end")
}

// check finds what the kernel would refuse (bpf_check_classic and seccomp_check_filter).
func check(program []unix.SockFilter) error {
	if len(program) == 0 || len(program) > maxInstructions {
		return fmt.Errorf("%d instructions", len(program))
	}
	for pc, in := range program {
		furthest := 0
		switch in.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			if in.K%4 != 0 || in.K > 60 {
				return fmt.Errorf("instruction %d loads from %d", pc, in.K)
			}
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, unix.BPF_RET | unix.BPF_K:
		case unix.BPF_JMP | unix.BPF_JA:
			furthest = int(in.K)
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K,
			unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K, unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K:
			furthest = int(max(in.Jt, in.Jf))
		default:
			return fmt.Errorf("instruction %d has code %#x", pc, in.Code)
		}
		if pc+1+furthest >= len(program) && in.Code != unix.BPF_RET|unix.BPF_K {
			return fmt.Errorf("instruction %d leads out of the program", pc)
		}
	}
	return nil
}
