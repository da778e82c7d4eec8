package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"mvdan.cc/sh/v3/expand"
	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"
)

// Variables that number puts into a script: how many jobs the shell has started, and in which job a command runs.
const (
	jobsVariable  = "__box_jobs"
	inJobVariable = "__box_job"
)

// number tells background commands apart: "COMMAND &" becomes { jobs=$((jobs+1)); { job=$jobs; COMMAND; } & }, so that
// "kill $!" finds its processes. The interpreter calls its jobs g1, g2 … in the same order.
func number(node syntax.Node) {
	syntax.Walk(node, func(node syntax.Node) bool {
		stmt, ok := node.(*syntax.Stmt)
		if !ok || !stmt.Background || stmt.Cmd == nil {
			return true
		}
		inner := &syntax.Stmt{Position: stmt.Position, Cmd: stmt.Cmd, Negated: stmt.Negated, Redirs: stmt.Redirs}
		number(inner)
		background := &syntax.Stmt{Position: stmt.Position, Background: true, Cmd: &syntax.Block{Stmts: []*syntax.Stmt{
			assign(inJobVariable, "$"+jobsVariable), inner,
		}}}
		stmt.Cmd = &syntax.Block{Stmts: []*syntax.Stmt{assign(jobsVariable, "$(("+jobsVariable+"+1))"), background}}
		stmt.Background, stmt.Negated, stmt.Redirs = false, false, nil
		return false
	})
}

func assign(name, value string) *syntax.Stmt {
	file, err := syntax.NewParser().Parse(strings.NewReader(name+"="+value), "")
	if err != nil {
		panic(err) // the text is ours
	}
	return file.Stmts[0]
}

// ours marks the names of the commands that the shell adds to the interpreter's. No program can be called so.
const ours = "\x00"

// call sees every simple command before the interpreter does.
func (s *shell) call(ctx context.Context, args []string) ([]string, error) {
	hc := interp.HandlerCtx(ctx)
	if s.children.killed(jobOf(hc)) != 0 {
		return []string{ours + "die"}, nil
	}
	if _, due := s.traps.due(); due && s.isMain(hc) {
		return append([]string{ours + "traps"}, args...), nil
	}
	if args[0] == "command" && len(args) > 1 {
		switch args[1] {
		case "exec", "kill", "trap", "wait", "umask":
			args = args[1:]
		}
	}
	switch args[0] {
	case "exec":
		if len(args) > 1 {
			return append([]string{ours + "exec"}, args[1:]...), nil
		}
	case "kill", "trap", "wait", "umask":
		return append([]string{ours + args[0]}, args[1:]...), nil
	}
	return args, nil
}

// isMain reports whether a command runs in the shell itself and not in a subshell, which here is a goroutine. The
// interpreter's API does not tell; TestExecKeepsTheProcess fails if its field is called differently one day.
func (s *shell) isMain(hc interp.HandlerContext) bool {
	runner := reflect.ValueOf(hc).FieldByName("runner")
	return runner.IsValid() && runner.Pointer() == reflect.ValueOf(s.runner).Pointer()
}

func jobOf(hc interp.HandlerContext) string { return hc.Env.Get(inJobVariable).String() }

// exec runs a command that is neither a function nor a builtin of the interpreter.
func (s *shell) exec(ctx context.Context, args []string) error {
	hc := interp.HandlerCtx(ctx)
	name, own := strings.CutPrefix(args[0], ours)
	if !own {
		err := s.program(ctx, hc, args, s.replace && s.isMain(hc))
		if trapErr := s.runTraps(ctx, hc); trapErr != nil {
			return trapErr
		}
		return err
	}
	switch name {
	case "die":
		return hc.Builtin(ctx, []string{"exit", strconv.Itoa(128 + int(s.children.killed(jobOf(hc))))})
	case "traps":
		if err := s.runTraps(ctx, hc); err != nil {
			return err
		}
		return hc.Builtin(ctx, append([]string{"eval"}, quote(args[1:])...))
	case "exec":
		err := s.program(ctx, hc, args[1:], s.isMain(hc) && !isPipe(hc.Stdin))
		return hc.Builtin(ctx, []string{"exit", strconv.Itoa(exitCode(err))})
	case "kill":
		return s.kill(hc, args[1:])
	case "trap":
		return s.trap(ctx, hc, args[1:])
	case "wait":
		return s.wait(ctx, hc, args[1:])
	}
	return umask(hc, args[1:])
}

func quote(args []string) []string {
	quoted := make([]string, len(args))
	for i, arg := range args {
		quoted[i] = "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
	}
	return quoted
}

func exitCode(err error) int {
	if code, ok := err.(interp.ExitStatus); ok {
		return int(code)
	}
	if err != nil {
		return 1
	}
	return 0
}

// isPipe reports whether a goroutine of this process may be writing to r: an end of a pipe that Go made is called "|0".
func isPipe(r io.Reader) bool {
	file, ok := r.(*os.File)
	return ok && strings.HasPrefix(file.Name(), "|")
}

// program finds and runs a program; replace executes it in place of the shell.
func (s *shell) program(ctx context.Context, hc interp.HandlerContext, args []string, replace bool) error {
	path, err := interp.LookPathDir(hc.Dir, hc.Env, args[0])
	if err != nil {
		if strings.Contains(args[0], "/") {
			if info, statErr := os.Stat(args[0]); statErr == nil {
				why := "permission denied"
				if info.IsDir() {
					why = "is a directory"
				}
				fmt.Fprintf(hc.Stderr, "%s: %s: %s\n", s.name, args[0], why)
				return interp.ExitStatus(126)
			}
		}
		fmt.Fprintf(hc.Stderr, "%s: %s: not found\n", s.name, args[0])
		return interp.ExitStatus(127)
	}
	attr := &syscall.ProcAttr{Dir: hc.Dir, Env: environment(hc.Env), Sys: &syscall.SysProcAttr{}}
	files, finish, err := streams(hc)
	if err != nil {
		return err
	}
	if replace {
		_ = s.become(path, args, attr, files) // what it cannot execute is tried and told below: a script without "#!"
	}
	attr.Files = []uintptr{files[0].Fd(), files[1].Fd(), files[2].Fd()}
	var started *child
	for delay := time.Millisecond; ; delay *= 2 {
		started, err = s.children.run(path, args, attr, jobOf(hc))
		// Another goroutine's child may hold the file open for writing until it executes: https://go.dev/issue/22315.
		if err != syscall.ETXTBSY || delay > 300*time.Millisecond {
			break
		}
		time.Sleep(delay)
	}
	if err == syscall.ENOEXEC { // a script without "#!"
		started, err = s.children.run("/proc/self/exe", append([]string{"sh", path}, args[1:]...), attr, jobOf(hc))
	}
	if err != nil {
		finish()
		fmt.Fprintf(hc.Stderr, "%s: %s: %v\n", s.name, args[0], err)
		return interp.ExitStatus(126)
	}
	<-started.ended
	finish()
	if !started.status.Signaled() {
		if code := started.status.ExitStatus(); code != 0 {
			return interp.ExitStatus(code)
		}
		return nil
	}
	signal := started.status.Signal()
	if signal == syscall.SIGINT && s.interactive && s.interrupt != nil {
		s.interrupt()
		return ctx.Err()
	}
	return interp.ExitStatus(128 + int(signal))
}

// become replaces the process by a program. It returns only if that fails.
func (s *shell) become(path string, args []string, attr *syscall.ProcAttr, files [3]*os.File) error {
	for i, file := range files {
		if fd := int(file.Fd()); fd != i {
			if err := unix.Dup3(fd, i, 0); err != nil {
				return os.NewSyscallError("dup3", err)
			}
		}
	}
	if err := os.Chdir(attr.Dir); err != nil {
		return err
	}
	return syscall.Exec(path, args, attr.Env)
}

// streams are the files for a program's standard streams. What is no file (a command substitution collects in memory)
// is carried by a pipe until finish.
func streams(hc interp.HandlerContext) (files [3]*os.File, finish func(), err error) {
	var copies sync.WaitGroup
	var ours []*os.File
	finish = func() {
		for _, file := range ours {
			_ = file.Close()
		}
		copies.Wait()
	}
	null := func() (*os.File, error) {
		file, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
		if err == nil {
			ours = append(ours, file)
		}
		return file, err
	}
	if in, ok := hc.Stdin.(*os.File); ok && in != nil {
		files[0] = in
	} else if files[0], err = null(); err != nil {
		return files, finish, err
	}
	for i, w := range []io.Writer{hc.Stdout, hc.Stderr} {
		if i == 1 && w == hc.Stdout {
			files[2] = files[1]
			continue
		}
		switch w := w.(type) {
		case *os.File:
			files[i+1] = w
		case nil:
			if files[i+1], err = null(); err != nil {
				return files, finish, err
			}
		default:
			r, pipe, err := os.Pipe()
			if err != nil {
				return files, finish, err
			}
			files[i+1] = pipe
			ours = append(ours, pipe)
			copies.Add(1)
			go func() {
				defer copies.Done()
				_, _ = io.Copy(w, r)
				_ = r.Close()
			}()
		}
	}
	return files, finish, nil
}

// environment is what programs get of the shell's variables.
func environment(env expand.Environ) []string {
	var list []string
	seen := map[string]int{}
	for name, v := range env.Each {
		at, again := seen[name]
		switch {
		case !v.IsSet() || !v.Exported || v.Kind != expand.String:
			if again { // unset, or not exported any more
				list[at] = ""
			}
		case again:
			list[at] = name + "=" + v.String()
		default:
			seen[name] = len(list)
			list = append(list, name+"="+v.String())
		}
	}
	kept := list[:0]
	for _, entry := range list {
		if entry != "" {
			kept = append(kept, entry)
		}
	}
	return kept
}

// runTraps carries out the actions of signals that have come.
func (s *shell) runTraps(ctx context.Context, hc interp.HandlerContext) error {
	if !s.isMain(hc) {
		return nil
	}
	for {
		action := s.traps.next()
		if action == "" {
			return nil
		}
		// With ":" at its end what the action returns is no error, and what is left are "exit" and the like.
		if err := hc.Builtin(ctx, []string{"eval", action + "\n:"}); err != nil {
			return err
		}
	}
}

func (s *shell) trap(ctx context.Context, hc interp.HandlerContext, args []string) error {
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		fmt.Fprint(hc.Stdout, s.traps.list())
		return hc.Builtin(ctx, []string{"trap"})
	}
	action, names := "-", args
	if len(args) > 1 {
		action, names = args[0], args[1:]
	}
	for _, name := range names {
		if name == "0" {
			name = "EXIT"
		}
		if name == "EXIT" || name == "ERR" {
			if err := hc.Builtin(ctx, []string{"trap", action, name}); err != nil {
				return err
			}
			continue
		}
		signal, err := parseSignal(name)
		if err != nil || signal == 0 {
			fmt.Fprintf(hc.Stderr, "%s: trap: %s: invalid signal\n", s.name, name)
			return interp.ExitStatus(1)
		}
		if s.isMain(hc) { // a subshell is the same process here: it must not change what signals do to it
			s.traps.set(signal, action)
		}
	}
	return nil
}

// wait is the interpreter's wait, but a trapped signal ends it.
func (s *shell) wait(ctx context.Context, hc interp.HandlerContext, args []string) error {
	var ids []string
	for _, arg := range args {
		ids = append(ids, strings.TrimPrefix(arg, "g"))
	}
	count, _ := strconv.Atoi(hc.Env.Get(jobsVariable).String()) // unset is 0
	for began := time.Now(); s.isMain(hc); {
		if signal, due := s.traps.due(); due {
			if err := s.runTraps(ctx, hc); err != nil {
				return err
			}
			return interp.ExitStatus(128 + int(signal))
		}
		ended, starting := s.children.running(ids, count)
		var soon <-chan time.Time
		if ended == nil {
			if !starting || time.Since(began) > 100*time.Millisecond {
				break
			}
			soon = time.After(5 * time.Millisecond)
		}
		s.traps.begin()
		select {
		case <-s.traps.notify:
		case <-ended:
		case <-soon:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return hc.Builtin(ctx, append([]string{"wait"}, args...))
}

// kill is the program, and knows jobs.
func (s *shell) kill(hc interp.HandlerContext, args []string) error {
	if len(args) == 1 && args[0] == "-l" {
		fmt.Fprintln(hc.Stdout, signalNames())
		return nil
	}
	signal, targets, err := killArguments(args)
	if err != nil {
		fmt.Fprintf(hc.Stderr, "%s: kill: %v\n", s.name, err)
		return interp.ExitStatus(2)
	}
	failed := false
	for _, target := range targets {
		if id, ok := strings.CutPrefix(target, "g"); ok {
			s.children.kill(id, signal)
			continue
		}
		if err := killOne(target, signal); err != nil {
			fmt.Fprintf(hc.Stderr, "%s: kill: %v\n", s.name, err)
			failed = true
		}
	}
	if failed {
		return interp.ExitStatus(1)
	}
	return nil
}

func umask(hc interp.HandlerContext, args []string) error {
	if len(args) == 0 {
		mask := syscall.Umask(0)
		syscall.Umask(mask)
		fmt.Fprintf(hc.Stdout, "%04o\n", mask)
		return nil
	}
	mask, err := strconv.ParseUint(args[0], 8, 9)
	if err != nil {
		fmt.Fprintf(hc.Stderr, "umask: %s: not an octal mask\n", args[0])
		return interp.ExitStatus(2)
	}
	syscall.Umask(int(mask))
	return nil
}
