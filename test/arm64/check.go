package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// slow is how many times slower than usual an emulated machine is taken to be.
const slow = "8"

// A step is a command of the shell, with what it is to say and the status it is to end with.
type step struct {
	name    string
	command string
	status  int
	want    string // a regular expression that must be found in what it says
	user    bool   // not root
}

// what forbids and allows system calls, in the words of calls.
const (
	forbidden = `getpid: done\nkeyctl: EPERM\nuserfaultfd: EPERM\nunshare: EPERM\nclone3: ENOSYS\n`
	permitted = `getpid: done\nkeyctl: done\nuserfaultfd: done\nunshare: EPERM\nclone3: EINVAL\n`
)

var steps = []step{
	{name: "the machine is arm64, with control groups of version 2", command: "uname -m; cat /sys/fs/cgroup/cgroup.controllers", want: `^aarch64\n.*memory.*pids`},
	{name: "system check misses nothing that is needed", command: "berth system check", want: `ok +control groups +version 2\n`},
	{name: "run", command: "berth run --rm box echo hello", want: `^hello\n$`},
	{name: "the container is arm64, too", command: "berth run --rm box uname -m", want: `^aarch64\n$`},
	{name: "exit code of the program", command: "berth run --rm box sh -c 'exit 7'", status: 7},
	{name: "exit code of a signal", command: "berth run --rm --init box sh -c 'kill -9 $$'", status: 137},
	{name: "exit code 127: no such program", command: "berth run --rm box /none", status: 127, want: `/none`},
	{name: "exit code 126: no program", command: "berth run --rm box /etc/passwd", status: 126, want: `/etc/passwd`},
	{name: "exit code 125: no such image", command: "berth run --pull never --rm none/such true", status: 125},
	{name: "standard input", command: "echo some words | berth run --rm -i box wc -w", want: `^ *2\n$`},
	{name: "a terminal", command: "berth run --rm -t box tty", want: `/dev/pts/0|/dev/console`},
	{name: "run -d", command: "berth run -d --name web -m 64m --pids-limit 50 box sh -c 'trap \"echo ending; exit 3\" TERM; echo ready; while :; do sleep 1; done'", want: `^[0-9a-f]{64}\n$`},
	{name: "logs", command: "until berth logs web | grep ready; do sleep 1; done", want: `^ready\n$`},
	{name: "exec", command: "berth exec -e A=b -w /tmp web sh -c 'echo $A; pwd; cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max'", want: `^b\n/tmp\n67108864\n50\n$`},
	{name: "exec: exit code", command: "berth exec web sh -c 'exit 9'", status: 9},
	{name: "ps", command: "berth ps --format '{{.Names}} {{.State}}'", want: `^web running\n$`},
	{name: "pause and unpause", command: "berth pause web && berth inspect --format '{{.State.Status}}' web && berth unpause web", want: `paused\n`},
	{name: "explain finds no difference from the plan", command: "berth explain web", want: `(?m)^0 differences`},
	{name: "stop", command: "berth stop -t 60 web && berth inspect --format '{{.State.ExitCode}}' web && berth logs web", want: `web\n3\nready\nending\n`},
	{name: "start again", command: "berth start web && berth exec web echo there && berth kill web && berth wait web", want: `web\nthere\nweb\n137\n`},
	{name: "rm", command: "berth rm web && berth ps -aq", want: `^web\n$`},
	{name: "nothing is left", command: "find /sys/fs/cgroup -name 'berth-*'; grep -c overlay /proc/mounts", status: 1, want: `^0\n$`},
	{name: "seccomp: calls are forbidden by their 64-bit numbers", command: "berth run --rm -v /probe:/probe:ro box /probe/64 calls", want: "^" + forbidden + "$"},
	{name: "seccomp: and by their 32-bit numbers", command: "berth run --rm -v /probe:/probe:ro box /probe/32 calls", want: "^" + forbidden + "$"},
	{name: "seccomp: in exec, too", command: "berth run -d --name calls -v /probe:/probe:ro box sleep 1000 >/dev/null; berth exec calls /probe/64 calls; berth rm -f calls >/dev/null", want: "^" + forbidden + "$"},
	{name: "seccomp: not with unconfined", command: "berth run --rm --security-opt seccomp=unconfined -v /probe:/probe:ro box /probe/64 calls", want: "^" + permitted + "$"},
	{name: "seccomp: nor by 32-bit numbers", command: "berth run --rm --security-opt seccomp=unconfined -v /probe:/probe:ro box /probe/32 calls", want: "^" + permitted + "$"},
	{name: "save and load", command: "berth create --name kept box true >/dev/null && berth save -o /tmp/box.tar box && berth rm kept && berth rmi box && berth load -i /tmp/box.tar && berth run --rm box echo loaded", want: `Loaded image: \S*box:latest\nloaded\n$`},
	{name: "without root", command: "id -u; berth run --rm box sh -c 'id -u; echo hello'", want: `^1000\n0\nhello\n$`, user: true},
	{name: "without root: seccomp", command: "berth run --rm -v /probe:/probe:ro box /probe/64 calls", want: "^" + forbidden + "$", user: true},
}

// check takes all steps and tests, says PASS or FAIL of each, and how many there were of both at the end: only then is what
// test/arm64/run looks for complete.
func check() error {
	commandLine, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	short := strings.Contains(string(commandLine), "berth.short")
	passed, failed := 0, 0
	report := func(name string, began time.Time, err error, said string) {
		if err == nil {
			passed++
			fmt.Printf("PASS %s (%.1f s)%s\n", name, time.Since(began).Seconds(), said)
			return
		}
		failed++
		fmt.Printf("FAIL %s: %v\n", name, err)
	}
	for _, s := range steps {
		began := time.Now()
		report(s.name, began, s.take(), "")
	}
	tests, err := filepath.Glob("/tests/*.test")
	if err != nil {
		return err
	}
	for _, path := range tests {
		began := time.Now()
		said, err := test(path, short)
		report("tests of "+packageOf(path), began, err, said)
	}
	fmt.Printf("arm64: %d passed, %d failed\n", passed, failed)
	return nil
}

func (s step) take() error {
	out, status, err := run("/", s.user, 2*time.Minute, "/bin/sh", "-c", s.command)
	switch {
	case err != nil:
		return fmt.Errorf("%w; it said:\n%s", err, out)
	case status != s.status:
		return fmt.Errorf("the status is %d and should be %d; it said:\n%s", status, s.status, out)
	case !regexp.MustCompile(s.want).MatchString(out):
		return fmt.Errorf("there is no %s in what it said:\n%s", s.want, out)
	}
	return nil
}

func packageOf(path string) string {
	return strings.ReplaceAll(strings.TrimSuffix(filepath.Base(path), ".test"), "+", "/")
}

// test runs a compiled test in its package's folder, and returns how many of its tests passed and were skipped.
func test(path string, short bool) (string, error) {
	arguments := []string{"-test.v", "-test.timeout=10m"}
	name := packageOf(path)
	if short {
		arguments = append(arguments, "-test.short")
	}
	if name == "internal/cli" {
		scripts, err := os.ReadFile("/tests/scripts")
		if err != nil {
			return "", err
		}
		arguments = append(arguments, "-test.run", "^TestScript$/^scripts$/^("+strings.TrimSpace(string(scripts))+")$")
	}
	out, status, err := run("/tree/"+name, false, 15*time.Minute, path, arguments...)
	if err == nil && status != 0 {
		err = fmt.Errorf("the status is %d", status)
	}
	if err != nil {
		return "", fmt.Errorf("%w; it said:\n%s", err, out)
	}
	return fmt.Sprintf(": %d passed, %d skipped", strings.Count(out, "--- PASS: "), strings.Count(out, "--- SKIP: ")), nil
}

// run returns what a program said on both streams, and its status.
func run(dir string, user bool, limit time.Duration, program string, arguments ...string) (string, int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, arguments...)
	cmd.Dir = dir
	cmd.WaitDelay = 5 * time.Second
	cmd.Env = []string{
		"PATH=/usr/bin:/bin:/sbin", "HOME=/root", "BERTH_BINARY=/usr/bin/berth", "BERTH_ATTACKER=/usr/bin/attacker",
		"BERTH_TEST_SLOW=" + slow, "TMPDIR=/tmp",
	}
	if user {
		cmd.Env = append(cmd.Env, "HOME=/home/user")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000}}
	}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return string(out), 0, fmt.Errorf("it took more than %s", limit)
	case errors.As(err, &exit):
		return string(out), exit.ExitCode(), nil
	}
	return string(out), 0, err
}
