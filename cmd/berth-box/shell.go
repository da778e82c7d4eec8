package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
	"mvdan.cc/sh/v3/expand"
	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"
)

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// shell is mvdan.cc/sh's interpreter with what a shell in a container needs besides: it can be PID 1, "exec" replaces the
// process, traps for signals, "kill" and "wait" of background jobs. There is no job control: children stay in the
// shell's process group, so that the terminal's Ctrl-C reaches them.
type shell struct {
	runner      *interp.Runner
	name        string // $0
	interactive bool
	replace     bool // the last command: execute it in place of the shell, as "sh -c COMMAND" does
	children    children
	traps       traps
	interrupt   context.CancelFunc // ends what an interactive shell is running
}

// sh is "sh [-aefnuxil] [-o OPTION] [-c COMMAND [NAME [ARGUMENT...]] | SCRIPT [ARGUMENT...]]".
func sh(args []string) error {
	s := &shell{name: "sh"}
	var params []string // for the interpreter: set -e and so on
	var command, fromStdin bool
	for len(args) > 0 && len(args[0]) > 1 && (args[0][0] == '-' || args[0][0] == '+') {
		arg := args[0]
		args = args[1:]
		if arg == "--" {
			break
		}
		for _, letter := range arg[1:] {
			switch letter {
			case 'c':
				command = true
			case 'i':
				s.interactive = true
			case 's':
				fromStdin = true
			case 'l': // a login shell reads /etc/profile, which the image does not have
			case 'o':
				if len(args) == 0 {
					return usageError("option -o needs a value")
				}
				params = append(params, arg[:1]+"o", args[0])
				args = args[1:]
			default:
				params = append(params, arg[:1]+string(letter))
			}
		}
	}
	var input io.Reader = os.Stdin
	switch {
	case command:
		if len(args) == 0 {
			return usageError("option -c needs a command")
		}
		input = strings.NewReader(args[0])
		if args = args[1:]; len(args) > 0 {
			s.name, args = args[0], args[1:]
		}
	case !fromStdin && len(args) > 0:
		s.name, args = args[0], args[1:]
		file, err := os.Open(s.name)
		if err != nil {
			fmt.Fprintf(os.Stderr, "sh: %v\n", err)
			if errors.Is(err, os.ErrNotExist) {
				return status(127)
			}
			return status(126)
		}
		defer file.Close()
		input = file
	default:
		if _, err := unix.IoctlGetTermios(0, unix.TCGETS); err == nil {
			s.interactive = true
		}
	}
	if os.Getenv("PATH") == "" {
		_ = os.Setenv("PATH", defaultPath)
	}
	var err error
	s.runner, err = interp.New(
		interp.StdIO(os.Stdin, os.Stdout, os.Stderr),
		interp.Interactive(s.interactive),
		interp.Env(expand.ListEnviron(os.Environ()...)),
		interp.CallHandler(s.call),
		interp.ExecHandlers(func(interp.ExecHandlerFunc) interp.ExecHandlerFunc { return s.exec }),
		interp.Params(append(append(params, "--"), args...)...),
	)
	if err != nil {
		return usageError(err.Error())
	}
	s.children.start()
	if os.Getpid() == 1 {
		s.traps.endWith(syscall.SIGTERM, syscall.SIGHUP)
		if !s.interactive {
			s.traps.endWith(syscall.SIGINT)
		}
	}
	if s.interactive && !command {
		return s.converse()
	}
	file, err := syntax.NewParser().Parse(input, s.name)
	if err != nil {
		fmt.Fprintf(os.Stderr, "sh: %v\n", err)
		return status(2)
	}
	s.replace = command && isSingleCommand(file)
	number(file)
	return s.finish(s.runner.Run(context.Background(), file))
}

// finish turns what the interpreter says into an exit status.
func (s *shell) finish(err error) error {
	var code interp.ExitStatus
	switch {
	case err == nil:
		return nil
	case errors.As(err, &code):
		return status(code)
	case errors.Is(err, context.Canceled):
		return status(128 + int(syscall.SIGINT))
	}
	fmt.Fprintf(os.Stderr, "sh: %v\n", err)
	return status(2)
}

// isSingleCommand reports whether nothing would be left to do after the only command.
func isSingleCommand(file *syntax.File) bool {
	if len(file.Stmts) != 1 {
		return false
	}
	stmt := file.Stmts[0]
	call, ok := stmt.Cmd.(*syntax.CallExpr)
	if !ok || stmt.Background || stmt.Coprocess || stmt.Negated || len(call.Args) == 0 {
		return false
	}
	for _, redirect := range stmt.Redirs {
		if redirect.Hdoc != nil {
			return false // a goroutine of this process writes it
		}
	}
	only := true // not "echo $(date)": date is not the last command
	syntax.Walk(stmt, func(node syntax.Node) bool {
		switch node.(type) {
		case *syntax.CmdSubst, *syntax.ProcSubst:
			only = false
		}
		return only
	})
	return only
}

// builtin runs a builtin of the shell as a program of its own: [ echo printf test.
func builtin(name string, args []string) error {
	s := &shell{name: name}
	var err error
	s.runner, err = interp.New(interp.StdIO(os.Stdin, stdout, os.Stderr), interp.Params(append([]string{"--"}, args...)...))
	if err != nil {
		return err
	}
	file, err := syntax.NewParser().Parse(strings.NewReader(name+` "$@"`), name)
	if err != nil {
		return err
	}
	return s.finish(s.runner.Run(context.Background(), file))
}

// converse reads commands from the terminal. The kernel edits the line: the terminal stays as it is.
func (s *shell) converse() error {
	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, syscall.SIGINT)
	ignored := make(chan os.Signal, 1)
	signal.Notify(ignored, syscall.SIGQUIT, syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU) // caught, so that children have the default
	if os.Getpid() != 1 {
		signal.Notify(ignored, syscall.SIGTERM)
	}
	lines := newLineReader(interrupts)
	var last error
	for {
		s.prompt("PS1", s.defaultPrompt())
		parser := syntax.NewParser()
		var readErr error
		for stmts, err := range parser.InteractiveSeq(lines) {
			if readErr = err; err != nil {
				break
			}
			if parser.Incomplete() {
				s.prompt("PS2", "> ")
				continue
			}
			for _, stmt := range stmts {
				last = s.runStatement(stmt, interrupts)
				if errors.Is(last, context.Canceled) { // the rest of the line goes, too
					break
				}
				if s.runner.Exited() {
					return s.finish(last)
				}
			}
			s.prompt("PS1", s.defaultPrompt())
		}
		switch {
		case errors.Is(readErr, errInterrupted):
			fmt.Fprintln(os.Stderr)
		case readErr == nil, errors.Is(readErr, io.EOF): // Ctrl-D
			fmt.Fprintln(os.Stderr)
			return s.finish(last)
		default:
			fmt.Fprintf(os.Stderr, "sh: %v\n", readErr)
			if lines.failed {
				return status(1)
			}
		}
	}
}

// runStatement runs one statement; Ctrl-C ends it: what is running by the signal itself, a loop by ending its context.
func (s *shell) runStatement(stmt *syntax.Stmt, interrupts <-chan os.Signal) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s.interrupt = cancel
	done := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-interrupts:
				if s.children.foreground() == 0 {
					cancel()
				}
			case <-done:
				return
			}
		}
	}()
	number(stmt)
	err := s.runner.Run(ctx, stmt)
	close(done)
	<-ended
	if ctx.Err() != nil {
		fmt.Fprintln(os.Stderr)
		return ctx.Err()
	}
	return err
}

func (s *shell) prompt(variable, fallback string) {
	text := os.Getenv(variable)
	if v, ok := s.runner.Vars[variable]; ok && v.IsSet() {
		text = v.String()
	}
	if text == "" {
		text = fallback
	}
	fmt.Fprint(os.Stderr, text)
}

func (s *shell) defaultPrompt() string {
	dir := s.runner.Dir
	if dir == "" {
		dir, _ = os.Getwd()
	}
	if os.Geteuid() == 0 {
		return dir + " # "
	}
	return dir + " $ "
}

var errInterrupted = errors.New("interrupted")

// lineReader reads standard input and gives up when Ctrl-C comes: a read that is under way then serves the next line.
type lineReader struct {
	interrupts <-chan os.Signal
	wanted     chan struct{}
	got        chan []byte
	pending    bool
	rest       []byte
	failed     bool
}

func newLineReader(interrupts <-chan os.Signal) *lineReader {
	l := &lineReader{interrupts: interrupts, wanted: make(chan struct{}), got: make(chan []byte)}
	go func() {
		buffer := make([]byte, 4096) // the most that a terminal in line mode gives
		for range l.wanted {
			n, err := os.Stdin.Read(buffer)
			if err != nil && err != io.EOF {
				l.failed = true
			}
			l.got <- append([]byte(nil), buffer[:max(n, 0)]...)
		}
	}()
	return l
}

func (l *lineReader) Read(p []byte) (int, error) {
	if len(l.rest) == 0 {
		if !l.pending {
			l.wanted <- struct{}{}
			l.pending = true
		}
		select {
		case <-l.interrupts:
			return 0, errInterrupted
		case l.rest = <-l.got:
			l.pending = false
		}
		if len(l.rest) == 0 {
			return 0, io.EOF
		}
	}
	n := copy(p, l.rest)
	l.rest = l.rest[n:]
	return n, nil
}
