// Command berth-full is all of berth. cmd/berth carries it inside itself, and calls it for what it leaves out.
package main

import (
	"fmt"
	"os"

	"berth/internal/cli"
	_ "berth/internal/entry" // its first instructions
	"berth/internal/fullcli"
	"berth/internal/host"
	"berth/internal/program"
)

func main() { os.Exit(run()) }

func run() int {
	if os.Args[0] == host.ProbeName {
		return probe()
	}
	return cli.Main(os.Args[1:], cli.Programs{Path: program.Path, Full: fullcli.Commands(), Template: fullcli.Template, Pattern: fullcli.Pattern})
}

// probe is the process that tries what this host allows.
func probe() int {
	if err := host.ProbeMain(os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
