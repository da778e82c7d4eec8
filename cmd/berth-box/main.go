// Command berth-box is the program inside berth's built-in image: a shell and the utilities that one tries a container
// with, in one static file. It chooses by the name it is called with, or by its first argument: "box ls -l".
//
// Shell, awk and most file utilities are existing Go libraries; what they do not have is written here, as small as it
// can be and still be right. It is not busybox: an option that is not there is an error, never ignored.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"berth/internal/box/applets"
)

// status is an error that has been told already, or needs no telling, and is only an exit status.
type status int

func (s status) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// stdout is buffered: who waits for others after writing flushes it.
var stdout *bufio.Writer

func main() {
	name, args := filepath.Base(os.Args[0]), os.Args[1:]
	if name == "box" || name == "berth-box" {
		if len(args) == 0 {
			fmt.Printf("usage: box NAME [ARGUMENT...]\n\n%s\n", wrap(strings.Join(applets.Names(), " "), 78))
			return
		}
		name, args = filepath.Base(args[0]), args[1:]
	}
	name = strings.TrimPrefix(name, "-") // a login shell
	run := lookup(name)
	if run == nil {
		fmt.Fprintf(os.Stderr, "box: there is no %q here\n", name)
		os.Exit(127)
	}
	if os.Getpid() == 1 && name != "sh" {
		go endBySignal()
	}
	stdout = bufio.NewWriter(os.Stdout)
	err := run(args)
	if flushErr := stdout.Flush(); err == nil {
		err = flushErr
	}
	os.Exit(report(name, err))
}

// report tells what went wrong and returns the exit status that follows.
func report(name string, err error) int {
	var s status
	switch {
	case err == nil:
		return 0
	case errors.As(err, &s):
		return int(s)
	}
	fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
	var usage usageError
	if errors.As(err, &usage) {
		return 2
	}
	return 1
}

// endBySignal ends PID 1 as a signal would end any other process. The kernel ignores signals for PID 1 that it does not
// handle, and "stop" would take its full ten seconds.
func endBySignal() {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	s := <-c
	os.Exit(128 + int(s.(syscall.Signal)))
}

type usageError string

func (e usageError) Error() string { return string(e) }

// options are single-letter options with their values.
type options map[byte]string

func (o options) has(letter byte) bool { _, ok := o[letter]; return ok }

// getopt reads POSIX options: known lists the letters, one with a value is followed by ":". Operands are returned; they
// may stand between options, unless known begins with "+".
func getopt(args []string, known string) (options, []string, error) {
	known, stop := strings.CutPrefix(known, "+")
	o := options{}
	var rest []string
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		if arg == "--" {
			return o, append(rest, args...), nil
		}
		if len(arg) < 2 || arg[0] != '-' {
			rest = append(rest, arg)
			if stop {
				return o, append(rest, args...), nil
			}
			continue
		}
		for i := 1; i < len(arg); i++ {
			at := strings.IndexByte(known, arg[i])
			if at < 0 || arg[i] == ':' {
				return nil, nil, usageError(fmt.Sprintf("unknown option %q", arg))
			}
			if at+1 == len(known) || known[at+1] != ':' {
				o[arg[i]] = ""
				continue
			}
			value := arg[i+1:]
			if value == "" {
				if len(args) == 0 {
					return nil, nil, usageError(fmt.Sprintf("option -%c needs a value", arg[i]))
				}
				value, args = args[0], args[1:]
			}
			o[arg[i]] = value
			break
		}
	}
	return o, rest, nil
}

// operands checks the number of operands; most is -1 for any number.
func operands(args []string, least, most int, usage string) error {
	if len(args) < least || most >= 0 && len(args) > most {
		return usageError("usage: " + usage)
	}
	return nil
}

// eachFile calls f with every named file, or with standard input for none and for "-". One that cannot be read is told,
// and the others still have their turn.
func eachFile(applet string, names []string, f func(name string, r io.Reader) error) error {
	if len(names) == 0 {
		names = []string{"-"}
	}
	var failed error
	for _, name := range names {
		err := withFile(name, func(r io.Reader) error { return f(name, r) })
		var path *fs.PathError
		if errors.As(err, &path) {
			_ = stdout.Flush()
			fmt.Fprintf(os.Stderr, "%s: %v\n", applet, err)
			failed = status(1)
		} else if err != nil {
			return err
		}
	}
	return failed
}

func withFile(name string, f func(io.Reader) error) error {
	if name == "-" {
		return f(os.Stdin)
	}
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	return f(file)
}

// eachLine calls f with every line of r, without its end.
func eachLine(r io.Reader, f func(line []byte) error) error {
	b := bufio.NewReaderSize(r, 64<<10)
	for {
		line, err := b.ReadBytes('\n')
		if len(line) > 0 {
			if line[len(line)-1] == '\n' {
				line = line[:len(line)-1]
			}
			if err := f(line); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// wrap breaks text at spaces.
func wrap(text string, width int) string {
	var b strings.Builder
	column := 0
	for i, word := range strings.Fields(text) {
		if i > 0 && column+1+len(word) > width {
			b.WriteByte('\n')
			column = 0
		} else if i > 0 {
			b.WriteByte(' ')
			column++
		}
		b.WriteString(word)
		column += len(word)
	}
	return b.String()
}
