//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0

// Command berth is the program that users call. It holds what must start quickly (run, exec, ps, stop, the monitor), and
// carries the rest inside itself as a second program, berth-full.
package main

import (
	"fmt"
	"os"

	"berth/internal/cli"
	"berth/internal/engine"
	_ "berth/internal/entry" // its first instructions
	"berth/internal/host"
	"berth/internal/program"
)

func main() { os.Exit(run()) }

func run() int {
	// By which name it was called: three of them are berth calling itself.
	switch os.Args[0] {
	case engine.MonitorName:
		if err := engine.MonitorMain(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return 0
	case host.ProbeName:
		return probe()
	case engine.RemoverName:
		if err := engine.RemoverMain(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return 0
	}
	return cli.MainAs(os.Args[0], os.Args[1:], cli.Programs{Path: program.Path})
}

// probe is the process that tries what this host allows.
func probe() int {
	if err := host.ProbeMain(os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
