package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"berth/internal/host"
	"berth/test/tiny"
)

// driversPart is the name of the part that needs the host's own systemd, and so is not run in namespaces, nor unless it is asked for.
const driversPart = "drivers"

// drivers compares what makes the control group: systemd, asked for a scope, and mkdir.
func drivers() error {
	if len(host.Probe().Groups.Systemd) == 0 {
		return errors.New(driversPart + ": no systemd can be asked here")
	}
	program, err := filepath.Abs(*program)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("/var/tmp", "berth-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	root, err := tree(dir)
	if err != nil {
		return err
	}
	berth := []string{program, "--data-root", dir + "/d", "--run-root", dir + "/r"}
	image := exec.Command("sh", "-c", "tar -C "+root+" -c . | "+program+" --data-root "+dir+"/d --run-root "+dir+"/r import - tiny")
	if out, err := image.CombinedOutput(); err != nil {
		return fmt.Errorf("berth does not import: %w: %s", err, out)
	}
	var all []contender
	for _, name := range []string{"systemd", "cgroupfs"} {
		all = append(all, contender{name: name, argv: with(berth, "--cgroup-manager", name, "run", "--rm", "--network", "none", "tiny", tiny.Program)})
	}
	return compare("run --rm --network none, by driver of control groups", *rounds, all)
}
