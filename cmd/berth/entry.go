package main

// entry is the program's first instruction (the linker's -E), ahead of Go's runtime. A command that starts containers must run from a
// file that no container can write to (engine.Protect), which takes a second execve; to do that here saves the start of Go's
// runtime that would come before it, half of all that berth needs to get to its main function (docs/decisions/0013). It acts if an argument is a word
// by which containers are started, the file is not on a read-only mount yet, and a mount may be cloned (root, Linux 5.12);
// otherwise, and when anything fails, the program starts as ever, and Protect does what is left to do. It is never called.
//
//lint:ignore U1000 the linker refers to it
func entry()
