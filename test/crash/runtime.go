package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// bundleID is the ID of the container that commands of the OCI runtime make. It has the form of berth's own, by which what is left of
// them is found.
const bundleID = "b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0"

// runtimeScenarios are the commands that engines call.
func runtimeScenarios() []scenario {
	runtime := func(args ...string) []string { return append([]string{"runtime"}, args...) }
	bundle := []string{"--bundle", bundlePlaceholder}
	create := append(runtime("create"), append(bundle, bundleID)...)
	start := runtime("start", bundleID)
	list := []scenario{
		{"runtime create", theCommand, nil, create, afterRuntime},
		{"runtime start", theCommand, [][]string{create}, start, afterRuntime},
		{"runtime run -d", theCommand, nil, append(runtime("run", "-d"), append(bundle, bundleID)...), afterRuntime},
		{"runtime exec", theCommand, [][]string{create, start}, runtime("exec", bundleID, "true"), afterRuntime},
		{"runtime update", theCommand, [][]string{create, start}, runtime("update", "--pids-limit", "99", bundleID), afterRuntime},
		{"runtime kill", theCommand, [][]string{create, start}, runtime("kill", bundleID, "KILL"), afterRuntime},
		{"runtime delete", theCommand, [][]string{create}, runtime("delete", bundleID), afterRuntime},
		{"runtime delete --force", theCommand, [][]string{create, start}, runtime("delete", "--force", bundleID), afterRuntime},
	}
	return list
}

// bundlePlaceholder stands for the instance's bundle in a scenario's commands.
const bundlePlaceholder = "BUNDLE"

// placed is a command line with the instance's bundle in it.
func (in *instance) placed(args []string) []string {
	args = slices.Clone(args)
	for i, a := range args {
		if a == bundlePlaceholder {
			args[i] = filepath.Join(in.dir, "bundle")
		}
	}
	return args
}

// makeBundle makes the instance's bundle, once: with the tree of the image box.
func (in *instance) makeBundle() error {
	bundle := filepath.Join(in.dir, "bundle")
	if _, err := os.Stat(bundle); err == nil || in.user != nil {
		return nil
	}
	trees, err := filepath.Glob(filepath.Join(in.data(), "layers/*/tree"))
	if err != nil || len(trees) != 1 {
		return fmt.Errorf("the image box has %d layers: %w", len(trees), err)
	}
	if err := os.MkdirAll(filepath.Join(bundle, "rootfs"), 0o755); err != nil {
		return err
	}
	if out, err := exec.Command("cp", "-a", trees[0]+"/.", filepath.Join(bundle, "rootfs")).CombinedOutput(); err != nil {
		return fmt.Errorf("cp: %w: %s", err, out)
	}
	config := `{"ociVersion": "1.3.0", "root": {"path": "rootfs"},
 "process": {"args": ["/bin/sleep", "1000"], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}},
 "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}, {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"}],
 "hooks": {"createRuntime": [{"path": "/bin/true"}], "startContainer": [{"path": "/bin/true"}], "poststop": [{"path": "/bin/true"}]},
 "linux": {"cgroupsPath": "/berth-` + in.bundleGroup() + `", "resources": {"pids": {"limit": 50}},
  "namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "network"}]}}`
	return os.WriteFile(filepath.Join(bundle, "config.json"), []byte(config), 0o644)
}

// bundleGroup tells the control groups of instances that work at once apart; in.ids takes it for an ID.
func (in *instance) bundleGroup() string { return bundleID + "-" + filepath.Base(in.dir) }

// afterRuntime looks at what a killed command of the runtime has left: state knows it, delete --force deals with it, and the ID is free.
func afterRuntime(in *instance, _ outcome) (wrong []string) {
	in.ids[in.bundleGroup()] = true
	if _, err := in.berth("runtime", "list"); err != nil {
		wrong = append(wrong, err.Error())
	}
	out, err := in.berth("runtime", "state", bundleID)
	var state struct{ Status string }
	switch {
	case err != nil && !strings.Contains(err.Error(), "does not exist"):
		wrong = append(wrong, err.Error())
	case err == nil:
		known := []string{"creating", "created", "running", "paused", "stopped"}
		if err := json.Unmarshal([]byte(out), &state); err != nil || !slices.Contains(known, state.Status) {
			wrong = append(wrong, fmt.Sprintf("the state is %s (%v)", out, err))
		}
	}
	for _, args := range [][]string{
		{"runtime", "delete", "--force", bundleID},
		{"runtime", "create", "--bundle", bundlePlaceholder, bundleID},
		{"runtime", "delete", bundleID},
	} {
		if _, err := in.berth(in.placed(args)...); err != nil {
			wrong = append(wrong, fmt.Sprintf("of a container that was %q: %v", state.Status, err))
		}
	}
	if _, err := in.berth("runtime", "state", bundleID); err == nil || !strings.Contains(err.Error(), "does not exist") {
		wrong = append(wrong, errors.Join(errors.New("the container is not gone"), err).Error())
	}
	return wrong
}
