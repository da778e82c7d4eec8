package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// answer is what an engine did with a step.
type answer struct {
	Stdout, Stderr string
	Exit           int // -1: it had not ended in time
}

// known are the answers of an engine to scenarios, by their keys.
type known map[string][]answer

// readKnown reads what write wrote; of a file that is not there, nothing is known.
func readKnown(path string) (known, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return known{}, nil
	}
	k := known{}
	if err == nil {
		err = json.Unmarshal(data, &k)
	}
	return k, err
}

func (k known) write(path string) error {
	data, err := json.Marshal(k)
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o600)
}

// patience is how long a step may take.
const patience = 60 * time.Second

// Where the engines keep everything, seen from inside. /run is of the walk's own, in memory.
const (
	runDir  = "/run/parity"
	workDir = runDir + "/work"
	homeDir = runDir + "/home"
)

// images are names under which both engines have the image of the walk, as the documentation uses them.
var images = []string{"box", "alpine", "busybox", "ubuntu", "ubuntu:22.04", "debian", "nginx", "nginx:alpine", "redis", "postgres", "hello-world"}

// walk is what a process in namespaces of its own does: it starts the engine, carries out every scenario and writes the answers to out, after
// each of them.
func walk(engine, berth, docker, dir, out string, scenarios []scenario) error {
	if err := smallHost(); err != nil {
		return err
	}
	start := startBerth
	if engine == "docker" {
		start = startDocker
	}
	stop, err := start(berth, docker, dir)
	if err != nil {
		return err
	}
	defer stop()
	for _, name := range images[1:] {
		if a := shell("docker tag box " + name); a.Exit != 0 {
			return fmt.Errorf("cannot name the image %s: %s", name, a.Stderr)
		}
	}
	answers := known{}
	for _, s := range scenarios {
		if err := errors.Join(os.RemoveAll(workDir), os.MkdirAll(workDir, 0o755), os.RemoveAll(homeDir), os.MkdirAll(homeDir, 0o700)); err != nil {
			return err
		}
		for _, step := range s.Steps {
			answers[s.key()] = append(answers[s.key()], shell(step.Command))
		}
		shell(`docker ps -aq | xargs -r docker rm -fv; docker volume ls -q | xargs -r docker volume rm -f; docker network prune -f`)
		if err := answers.write(out); err != nil {
			return err
		}
	}
	return nil
}

// smallHost makes the namespaces a host: /proc and an empty /run of their own, and the loopback.
func smallHost() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("cannot make the mounts private: %w", err)
	}
	for _, m := range []struct{ kind, at string }{{"proc", "/proc"}, {"tmpfs", "/run"}, {"tmpfs", "/dev/shm"}} {
		if err := unix.Mount(m.kind, m.at, m.kind, 0, ""); err != nil {
			return fmt.Errorf("cannot mount %s at %s: %w", m.kind, m.at, err)
		}
	}
	if unix.Access("/sys/fs/cgroup/memory", unix.F_OK) == nil {
		_ = unix.Unmount("/sys/fs/cgroup/unified", unix.MNT_DETACH) // not there: one version of control groups already
	}
	if err := unix.Sethostname([]byte("parity")); err != nil {
		return err
	}
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		return fmt.Errorf("cannot bring the loopback up: %w: %s", err, out)
	}
	// As docker's daemon sets it; berth would say so.
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
		return err
	}
	return os.MkdirAll(runDir+"/bin", 0o755)
}

// called makes `docker` in the walk's shell the program.
func called(program string) error {
	text := "#!/bin/sh\nexec " + program + " \"$@\"\n"
	return os.WriteFile(runDir+"/bin/docker", []byte(text), 0o755)
}

func startBerth(berth, _, dir string) (stop func(), err error) {
	if err := errors.Join(os.Setenv("BERTH_DATA_ROOT", runDir+"/data"), os.Setenv("BERTH_RUN_ROOT", runDir+"/r"), called(berth)); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(workDir, 0o755); err != nil {
		return nil, err
	}
	if a := shell("docker run --rm --network none box true"); a.Exit != 0 {
		return nil, fmt.Errorf("cannot run a container: %s", a.Stderr)
	}
	return func() { shell("docker system reset -f") }, nil
}

// startDocker starts a daemon and gives it the image that berth has inside itself.
func startDocker(berth, docker, dir string) (stop func(), err error) {
	if err := errors.Join(os.MkdirAll(workDir, 0o755), called(docker)); err != nil {
		return nil, err
	}
	if err := os.WriteFile(runDir+"/daemon.json", []byte("{}"), 0o600); err != nil {
		return nil, err
	}
	log, err := os.Create(dir + "/dockerd.log")
	if err != nil {
		return nil, err
	}
	defer log.Close()
	daemon := exec.Command("dockerd", "--config-file", runDir+"/daemon.json", "--data-root", runDir+"/docker", "--exec-root", runDir+"/x",
		"--pidfile", runDir+"/pid", "-H", "unix:///run/docker.sock", "--exec-opt", "native.cgroupdriver=cgroupfs", "--cgroup-parent", "/"+dockersGroup)
	daemon.Stdout, daemon.Stderr = log, log
	if err := daemon.Start(); err != nil {
		return nil, err
	}
	stop = func() {
		_ = daemon.Process.Signal(os.Interrupt)
		_ = daemon.Wait()
	}
	for begin := time.Now(); shell("docker version").Exit != 0; time.Sleep(50 * time.Millisecond) {
		if time.Since(begin) > time.Minute {
			stop()
			return nil, errors.New("docker's daemon does not answer")
		}
	}
	load := fmt.Sprintf("export BERTH_DATA_ROOT=%s/image BERTH_RUN_ROOT=%s/i; %s run --rm --network none box true && %s save box | docker load", runDir, runDir, berth, berth)
	if a := shell(load); a.Exit != 0 {
		stop()
		return nil, fmt.Errorf("cannot load the image: %s", a.Stderr)
	}
	return stop, nil
}

// dockersGroup holds the control groups of docker's containers.
const dockersGroup = "berth-parity"

// removeGroups removes what docker leaves of control groups.
func removeGroups() {
	for _, pattern := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/"} {
		dirs, _ := filepath.Glob(pattern + dockersGroup) // the pattern is well formed
		for _, d := range dirs {
			below, _ := filepath.Glob(d + "/*/") // of containers whose daemon has been killed
			for _, b := range append(below, d) {
				_ = os.Remove(b) // one in use stays, and is seen there
			}
		}
	}
}

// shell carries out a line as a user's shell would, in the scenario's directory.
func shell(line string) answer {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", line)
	cmd.Dir = workDir
	cmd.Env = []string{"PATH=" + runDir + "/bin:" + os.Getenv("PATH"), "HOME=" + homeDir, "TERM=xterm", "LANG=C.UTF-8"}
	for _, name := range []string{"BERTH_DATA_ROOT", "BERTH_RUN_ROOT"} {
		if value := os.Getenv(name); value != "" {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = 2 * time.Second
	err := cmd.Run()
	a := answer{Stdout: stdout.String(), Stderr: stderr.String()}
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		a.Exit = -1
	case errors.As(err, &exit):
		a.Exit = exit.ExitCode()
	case err != nil && !errors.Is(err, exec.ErrWaitDelay):
		a.Exit, a.Stderr = -1, strings.TrimSpace(a.Stderr+"\n"+err.Error())
	}
	return a
}
