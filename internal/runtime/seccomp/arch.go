package seccomp

import (
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/internal/errdef"
)

// arch is one numbering of system calls.
type arch int

// The architectures; the columns of calls are in this order.
const (
	amd64 arch = iota
	i386
	x32
	arm64
	arm
	archCount
)

// x32Bit marks the number of a system call of x32, which shares AUDIT_ARCH_X86_64 with amd64
// (__X32_SYSCALL_BIT in the kernel's arch/x86/include/uapi/asm/unistd.h).
const x32Bit = 0x40000000

// armPrivate is __ARM_NR_BASE, where the private calls of 32-bit ARM begin.
const armPrivate = 0xf0000

func (a arch) String() string {
	switch a {
	case amd64:
		return "amd64"
	case i386:
		return "386"
	case x32:
		return "x32"
	case arm64:
		return "arm64"
	case arm:
		return "arm"
	}
	return "unknown"
}

// wide reports whether the arguments of a's calls come in 64-bit registers.
func (a arch) wide() bool { return a == amd64 || a == x32 || a == arm64 }

// audit returns the architecture as struct seccomp_data names it.
func (a arch) audit() uint32 {
	switch a {
	case i386:
		return unix.AUDIT_ARCH_I386
	case arm64:
		return unix.AUDIT_ARCH_AARCH64
	case arm:
		return unix.AUDIT_ARCH_ARM
	}
	return unix.AUDIT_ARCH_X86_64
}

// nativeArch returns the architecture that Go calls name.
func nativeArch(name string) (arch, error) {
	switch name {
	case "amd64":
		return amd64, nil
	case "arm64":
		return arm64, nil
	}
	return 0, errdef.New(errdef.Unsupported, "no system call table for a host of architecture %q", name)
}

// specArch returns the architecture that a runtime spec calls name.
func specArch(name specs.Arch) (arch, error) {
	switch name {
	case specs.ArchX86_64:
		return amd64, nil
	case specs.ArchX86:
		return i386, nil
	case specs.ArchX32:
		return x32, nil
	case specs.ArchAARCH64:
		return arm64, nil
	case specs.ArchARM:
		return arm, nil
	}
	return 0, errdef.Hint(errdef.New(errdef.Unsupported, "no system call table for architecture %q", name),
		"leave out of the profile's architectures all but SCMP_ARCH_X86_64, X86, X32, AARCH64 and ARM")
}

// Architectures are those that a filter can be for on a host whose architecture Go calls native.
func Architectures(native string) []string {
	if native == "arm64" {
		return []string{string(specs.ArchAARCH64), string(specs.ArchARM)}
	}
	return []string{string(specs.ArchX86), string(specs.ArchX86_64), string(specs.ArchX32)}
}

// call is one row of the table of system calls.
type call struct {
	name    string
	numbers [archCount]int32 // -1 where there is none
	int32s  uint8            // the arguments that are 32-bit integers, by bit
}

// x32Compat is the first number of the calls that x32 does not share with amd64: the kernel takes all their arguments
// as 32 bits (compat_sys_ functions).
const x32Compat = 512

// ints returns which arguments of the call the kernel takes as 32-bit integers on a, whatever their registers hold.
func (c *call) ints(a arch) uint8 {
	if a == x32 && c.numbers[x32] >= x32Compat {
		return 0xff
	}
	return c.int32s
}

// lookup finds a system call by name; nil means that no architecture has it.
func lookup(name string) *call {
	low, high := 0, len(calls)
	for low < high {
		middle := int(uint(low+high) / 2)
		if calls[middle].name < name {
			low = middle + 1
		} else {
			high = middle
		}
	}
	if low < len(calls) && calls[low].name == name {
		return &calls[low]
	}
	return nil
}

// nameOf returns the name of a call by its number on a.
func nameOf(a arch, number int32) string {
	for i := range calls {
		if calls[i].numbers[a] == number {
			return calls[i].name
		}
	}
	return "unknown system call"
}
