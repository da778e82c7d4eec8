package runtimecli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"berth/internal/errdef"
	"berth/internal/host"
	"berth/internal/runtime/lifecycle"
	"berth/internal/runtime/plan"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// maxHookOutput is how much of what a hook says is kept for the error that tells of it.
const maxHookOutput = 4096

// checkHooks refuses what config.md, "POSIX-platform Hooks", forbids.
func checkHooks(h *specs.Hooks) error {
	for _, hook := range all(h) {
		switch {
		case !filepath.IsAbs(hook.Path):
			return errdef.New(errdef.Invalid, "the path of a hook, %q, is not absolute", hook.Path)
		case hook.Timeout != nil && *hook.Timeout <= 0:
			return errdef.New(errdef.Invalid, "the timeout of the hook %s is %d, and must be greater than zero", hook.Path, *hook.Timeout)
		}
	}
	return nil
}

func all(h *specs.Hooks) []specs.Hook {
	if h == nil {
		return nil
	}
	var hooks []specs.Hook
	for _, list := range [][]specs.Hook{prestart(h), h.CreateRuntime, h.CreateContainer, h.StartContainer, h.Poststart, h.Poststop} {
		hooks = append(hooks, list...)
	}
	return hooks
}

func prestart(h *specs.Hooks) []specs.Hook {
	//lint:ignore SA1019 deprecated, and still written
	return h.Prestart
}

// runHooks runs hooks one after the other; the first that fails ends it. They get the state on standard input. They run
// in our namespaces, or inside.
func runHooks(name string, hooks []specs.Hook, s State, inside *joint) error {
	return runHooksFrom(name, 0, hooks, s, inside)
}

// runHooksFrom is runHooks for a part of them, which begins with the one of a number.
func runHooksFrom(name string, first int, hooks []specs.Hook, s State, inside *joint) error {
	if len(hooks) == 0 {
		return nil
	}
	state, err := json.Marshal(s)
	if err != nil {
		return err
	}
	for i, hook := range hooks {
		var said []byte
		if inside == nil {
			said, err = runHook(hook, state)
		} else {
			said, err = inside.runHook(hook, state)
		}
		if err != nil {
			text := ""
			if said := strings.TrimSpace(string(said)); said != "" {
				text = "; it said: " + said
			}
			return errdef.New(errdef.Invalid, "error running %s hook #%d: %s: %w%s", name, first+i, hook.Path, err, text)
		}
	}
	return nil
}

// runHook runs a hook in our namespaces.
func runHook(hook specs.Hook, state []byte) ([]byte, error) {
	said := &bounded{}
	cmd := exec.Command(hook.Path)
	if len(hook.Args) > 0 {
		cmd.Args = hook.Args
	}
	cmd.Env = hook.Env
	if cmd.Env == nil {
		cmd.Env = []string{}
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(state), said, said
	cmd.WaitDelay = time.Second // what it has started may hold its output open
	var err error
	if host.Exactly(func() { err = cmd.Start() }); err != nil {
		return nil, err
	}
	late := false
	if hook.Timeout != nil {
		timer := time.AfterFunc(time.Duration(*hook.Timeout)*time.Second, func() { late = true; _ = cmd.Process.Kill() })
		defer timer.Stop()
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	switch {
	case late:
		err = fmt.Errorf("it took more than %d s", *hook.Timeout)
	case errors.Is(err, exec.ErrWaitDelay):
		err = nil
	case err != nil && !errors.As(err, &exit) && errors.Is(err, unix.EPIPE):
		err = nil // it did not read its state
	}
	return said.data, err
}

// bounded keeps the beginning of what is written to it.
type bounded struct{ data []byte }

func (b *bounded) Write(p []byte) (int, error) {
	b.data = append(b.data, p[:min(len(p), maxHookOutput-len(b.data))]...)
	return len(p), nil
}

// joint is what a hook needs to run in the namespaces of a container.
type joint struct {
	host        host.Facts
	id          string
	pidfd       int
	namespaces  uintptr
	noSetgroups bool
	// as, if not nil, is the spec of the process with whose rights the hook runs: it comes in its place, as runc's startContainer hooks do.
	as *specs.Spec
}

// process is who the hook is.
func (j *joint) process(hook specs.Hook) (p *specs.Process, filter *specs.LinuxSeccomp) {
	p = &specs.Process{Args: hook.Args, Env: hook.Env, Cwd: "/"}
	if len(p.Args) == 0 {
		p.Args = []string{hook.Path}
	}
	if j.as == nil {
		every := plan.CapabilityNames(j.host.Bounding)
		p.Capabilities = &specs.LinuxCapabilities{Bounding: every, Effective: every, Permitted: every, Inheritable: every}
		return p, nil
	}
	own := j.as.Process
	if hook.Env == nil {
		p.Env = own.Env // as runc's have it; the spec says nothing of a hook without env
	}
	p.User, p.Capabilities, p.NoNewPrivileges, p.Rlimits = own.User, own.Capabilities, own.NoNewPrivileges, own.Rlimits
	p.ApparmorProfile, p.SelinuxLabel = own.ApparmorProfile, own.SelinuxLabel
	if !listens(j.as.Linux.Seccomp) { // nobody would answer for the hook
		filter = j.as.Linux.Seccomp
	}
	return p, filter
}

// runHook runs a hook in the container's namespaces.
func (j *joint) runHook(hook specs.Hook, state []byte) ([]byte, error) {
	in, give, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer in.Close()
	take, out, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, give.Close())
	}
	defer take.Close()
	process, filter := j.process(hook)
	r, err := lifecycle.Exec(lifecycle.ExecInput{
		ID: j.id, Host: j.host, Target: j.pidfd, Namespaces: j.namespaces, Program: hook.Path, NoSetgroups: j.noSetgroups, NoKeyring: true,
		Process: process, Seccomp: filter,
		Stdin: in, Stdout: out, Stderr: out,
	})
	_ = out.Close()
	if err != nil {
		return nil, errors.Join(err, give.Close())
	}
	defer unix.Close(r.PIDFD)
	go func() {
		_, _ = give.Write(state) // a hook need not read it
		_ = give.Close()
	}()
	said := &bounded{}
	done := make(chan struct{})
	go func() { _, _ = io.Copy(said, take); close(done) }()
	late := false
	if hook.Timeout != nil {
		timer := time.AfterFunc(time.Duration(*hook.Timeout)*time.Second, func() { late = true; _ = unix.PidfdSendSignal(r.PIDFD, unix.SIGKILL, nil, 0) })
		defer timer.Stop()
	}
	ws, err := wait(r.PID)
	if err != nil {
		return nil, err
	}
	select {
	case <-done:
	case <-time.After(time.Second): // what it has started may hold its output open
	}
	switch {
	case late:
		err = fmt.Errorf("it took more than %d s", *hook.Timeout)
	case ws.Signaled():
		err = fmt.Errorf("signal: %s", ws.Signal())
	case ws.ExitStatus() != 0:
		err = fmt.Errorf("exit status %d", ws.ExitStatus())
	}
	return said.data, err
}

// wait reaps a child.
func wait(pid int) (unix.WaitStatus, error) {
	var ws unix.WaitStatus
	for {
		if _, err := unix.Wait4(pid, &ws, 0, nil); err != unix.EINTR {
			return ws, os.NewSyscallError("wait4", err)
		}
	}
}
