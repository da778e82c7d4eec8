// Command berth-full is all of berth. cmd/berth carries it inside itself, and calls it for what it leaves out.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"

	"berth/internal/cli"
	"berth/internal/engine"
	"berth/internal/errdef"
	"berth/internal/fullcli"
	"berth/internal/host"
	"berth/internal/program"
	"berth/internal/runtime/userns"
	"berth/internal/settings"
)

// insideName is argv[0] of this program as root of the caller's user namespace.
const insideName = "berth-full-inside"

func main() { os.Exit(run()) }

func run() int {
	if os.Args[0] == host.ProbeName {
		return probe()
	}
	inside := os.Args[0] == insideName
	if inside {
		if err := userns.Enter(); err != nil {
			fmt.Fprintln(os.Stderr, "berth:", err)
			return 1
		}
	}
	if !inside && unpacks(os.Args[1:]) && !host.Probe().Privileged() {
		return again()
	}
	return cli.Main(os.Args[1:], cli.Programs{Path: program.Path, Full: fullcli.Commands(), Template: fullcli.Template})
}

func unpacks(args []string) bool {
	for _, a := range args {
		if fullcli.NeedsNamespace(a) {
			return true
		}
	}
	return false
}

// again runs this program inside the user namespace of the caller's containers. The roots are the caller's: inside, it
// would look like root's.
func again() int {
	v, _, err := settings.Load(nil)
	if err == nil {
		for name, value := range map[string]string{"BERTH_DATA_ROOT": v.DataRoot, "BERTH_RUN_ROOT": v.RunRoot} {
			if os.Getenv(name) == "" {
				err = errors.Join(err, os.Setenv(name, value))
			}
		}
	}
	if err == nil {
		err = userns.Ours().Run(insideName, os.Args[1:]...)
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	if err != nil {
		err = engine.Explained(v, err)
		fmt.Fprintln(os.Stderr, "berth:", err)
		if hint := errdef.HintOf(err); hint != "" {
			fmt.Fprintln(os.Stderr, "hint:", hint)
		}
		return 1
	}
	return 0
}

// probe is the process that tries what this host allows.
func probe() int {
	if err := host.ProbeMain(os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
