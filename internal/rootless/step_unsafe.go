package rootless

import (
	"encoding/binary"
	"errors"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A process can only join a user namespace while it has one thread (setns(2)), and a Go program never has. So the way there is an
// execve of a program without a runtime, made here, of one page: it joins, and executes what it was told to. Process, arguments,
// environment and descriptors stay what they were.

// Where the program's page lies, its text in that, and what it reads. Any address above vm.mmap_min_addr would do.
const (
	stepAddress     = 0x410000
	stepTextOffset  = 0x200
	stepDataOffset  = 0x800 // assembly: stepDataAddress is 0x410800
	stepTextBytes   = 0x200 // more than there is
	stepBytes       = 0x1000
	stepMessage     = "berth: cannot enter the user namespace of the containers\n"
	elfHeaderBytes  = 64
	elfSegmentBytes = 56
)

// step is what the program of one step reads; assembly: by the offsets of the fields.
type step struct {
	Namespace, Program, Lock int64 // descriptors; a lock of -1 is none
	Empty                    int64 // the string ""
	Length                   int64 // of the message, which follows
}

// stepText is the address of the program's text.
func stepText() unsafe.Pointer

// elfHeader and elfSegment are Elf64_Ehdr and Elf64_Phdr of linux/elf.h.
type (
	elfHeader struct {
		Ident                                                [16]byte
		Type, Machine                                        uint16
		Version                                              uint32
		Entry, Phoff, Shoff                                  uint64
		Flags                                                uint32
		Ehsize, Phentsize, Phnum, Shentsize, Shnum, Shstrndx uint16
	}
	elfSegment struct {
		Type, Flags                                uint32
		Offset, Vaddr, Paddr, Filesz, Memsz, Align uint64
	}
)

// elfMachines are the numbers of architectures (EM_X86_64, EM_AARCH64).
var elfMachines = map[string]uint16{"amd64": 62, "arm64": 183}

// stepProgram makes the program of one step, in memory.
func stepProgram(s step) (*os.File, error) {
	header := elfHeader{
		Ident: [16]byte{0x7f, 'E', 'L', 'F', 2 /* 64 bits */, 1 /* little-endian */, 1 /* version */},
		Type:  2 /* ET_EXEC */, Machine: elfMachines[runtime.GOARCH], Version: 1, Entry: stepAddress + stepTextOffset,
		Phoff: elfHeaderBytes, Ehsize: elfHeaderBytes, Phentsize: elfSegmentBytes, Phnum: 1,
	}
	segment := elfSegment{
		Type: 1 /* PT_LOAD */, Flags: 5 /* PF_R|PF_X */, Vaddr: stepAddress, Paddr: stepAddress,
		Filesz: stepBytes, Memsz: stepBytes, Align: stepBytes,
	}
	s.Length = int64(len(stepMessage))
	page := make([]byte, stepBytes)
	_, err1 := binary.Encode(page, binary.LittleEndian, &header)
	_, err2 := binary.Encode(page[elfHeaderBytes:], binary.LittleEndian, &segment)
	copy(page[stepTextOffset:], unsafe.Slice((*byte)(stepText()), stepTextBytes))
	n, err3 := binary.Encode(page[stepDataOffset:], binary.LittleEndian, &s)
	copy(page[stepDataOffset+n:], stepMessage)
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	return executable(page)
}

// executable is a program in memory. Since Linux 6.3 such a file says whether it may be executed.
func executable(program []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("berth", unix.MFD_CLOEXEC|unix.MFD_EXEC)
	if err == unix.EINVAL {
		fd, err = unix.MemfdCreate("berth", unix.MFD_CLOEXEC)
	}
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "berth")
	if _, err := f.Write(program); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
