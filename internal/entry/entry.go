// Package entry holds the first instructions of berth's programs (the linker's -E), ahead of Go's runtime. They decide nothing: where they cannot do
// what they are for, the program starts as ever. It has no Go that runs.
package entry

// command is the first instruction of cmd/berth. A command that starts containers must run from a
// file that no container can write to (engine.Protect), which takes a second execve; to do that here saves the start of Go's
// runtime that would come before it, half of all that berth needs to get to its main function (docs/decisions/0013). It acts if an argument is a word
// by which containers are started, the file is not on a read-only mount yet, and a mount may be cloned (root, Linux 5.12);
// otherwise, and when anything fails, the program starts as ever, and Protect does what is left to do. It goes on in program. It is never called.
//
//lint:ignore U1000 the linker refers to it
func command()

// program is the first instruction of cmd/berth-full. It has the kernel map what the program is about to touch, code, constants and
// variables, by four system calls instead of a hundred page faults (MADV_POPULATE_READ and _WRITE, Linux 5.14), which on a virtual machine
// without nested page tables cost ten microseconds each. A monitor, which lives long and should be small, does without.
//
//lint:ignore U1000 the linker refers to it
func program()

//lint:ignore U1000 assembly calls it
func advise()
