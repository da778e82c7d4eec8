// Command arm64 is what runs inside the machine that test/arm64/run starts: its first process, the checks of berth there, and
// the program that tries system calls in a container. It makes no container by itself, and knows berth only as users do.
package main

import (
	"fmt"
	"os"
)

// The first argument says which of them: the kernel gives none to the first process.
func main() {
	var err error
	switch {
	case len(os.Args) == 2 && os.Args[1] == "calls":
		calls()
	case len(os.Args) == 2 && os.Args[1] == "check":
		err = check()
	case len(os.Args) == 2 && os.Args[1] == "boot":
		err = boot()
	case os.Getpid() == 1:
		err = unpacked()
	default:
		err = fmt.Errorf("usage: arm64 calls|check")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "arm64:", err)
	}
	if os.Getpid() == 1 {
		powerOff()
	}
	if err != nil {
		os.Exit(1)
	}
}
