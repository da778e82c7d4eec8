package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

var program string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "berth-init-")
	if err != nil {
		panic(err)
	}
	program = filepath.Join(dir, "docker-init")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		panic(string(out))
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// inside starts the program as PID 1 of a namespace, which takes everything with it when it ends.
func inside(t *testing.T, args ...string) *exec.Cmd {
	if os.Getuid() != 0 {
		t.Skip("a PID namespace needs root")
	}
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS}
	return cmd
}

func code(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	if err != nil {
		return -1
	}
	return 0
}

func TestExitStatusIsTheCommands(t *testing.T) {
	for _, c := range []struct {
		args []string
		want int
	}{
		{[]string{"--", "true"}, 0},
		{[]string{"true"}, 0},
		{[]string{"--", "sh", "-c", "exit 7"}, 7},
		{[]string{"--", "sh", "-c", "kill -KILL $$"}, 137},
		{[]string{"--", "no-such-command"}, 127},
		{[]string{"--", "/no/such/file"}, 127},
		{[]string{"--", "/etc/passwd"}, 126},
		{[]string{"--", "/etc"}, 126},
		{nil, 125},
	} {
		if err := inside(t, c.args...).Run(); code(err) != c.want {
			t.Errorf("%q ended with %v, not %d", c.args, err, c.want)
		}
	}
}

func TestSignalsReachTheCommand(t *testing.T) {
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT} {
		cmd := inside(t, "--", "sh", "-c", `for s in TERM USR1 INT HUP QUIT; do trap "echo $s; exit 3" $s; done; echo ready; while :; do sleep 0.02; done`)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		buffer := make([]byte, 64)
		if n, _ := out.Read(buffer); string(buffer[:n]) != "ready\n" {
			t.Fatalf("the command says %q", buffer[:n])
		}
		if err := cmd.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
		n, _ := out.Read(buffer)
		if err := cmd.Wait(); code(err) != 3 || "SIG"+strings.TrimSpace(string(buffer[:n])) != signalName(s) {
			t.Errorf("after %v the command said %q and ended with %v", s, buffer[:n], err)
		}
	}
}

func signalName(s syscall.Signal) string {
	return map[syscall.Signal]string{syscall.SIGTERM: "SIGTERM", syscall.SIGUSR1: "SIGUSR1", syscall.SIGINT: "SIGINT", syscall.SIGHUP: "SIGHUP", syscall.SIGQUIT: "SIGQUIT"}[s]
}

func TestOrphansAreReaped(t *testing.T) {
	// Twenty orphans end while the command lives; in /proc of the namespace no zombie may be left.
	cmd := inside(t, "--", "sh", "-c", `
		mount -t proc proc /proc || exit 99
		for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do (sh -c 'sleep 0.05' & ) ; done
		sleep 0.5
		cat /proc/[0-9]*/stat 2>/dev/null | grep -c ') Z '
		exit 0`)
	// The mount above is in a namespace of its own, and must not spread.
	cmd.SysProcAttr.Unshareflags = syscall.CLONE_NEWNS
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	began := time.Now()
	if err := cmd.Run(); err != nil || strings.TrimSpace(out.String()) != "0" {
		t.Errorf("%q zombies are left after %v: %v\n%s", strings.TrimSpace(out.String()), time.Since(began), err, &stderr)
	}
}

func TestTheCommandHasAGroupOfItsOwn(t *testing.T) {
	out, err := inside(t, "--", "sh", "-c", `set -- $(cat /proc/self/stat); echo $$`).Output()
	if err != nil || strings.TrimSpace(string(out)) == "1" {
		t.Errorf("the command is process %q, %v", out, err)
	}
	out, err = exec.Command(program, "--", "sh", "-c", `[ "$(ps -o pgid= -p $$ | tr -d ' ')" = $$ ] && echo own`).Output()
	if err != nil || string(out) != "own\n" {
		t.Errorf("the command's group: %q, %v", out, err)
	}
}

func TestTheProgramIsSmall(t *testing.T) {
	info, err := os.Stat(program)
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() > 1600<<10 {
		t.Errorf("the program has %d bytes", info.Size())
	}
}
