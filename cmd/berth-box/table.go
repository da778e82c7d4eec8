package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"

	"github.com/u-root/u-root/pkg/core"
	"github.com/u-root/u-root/pkg/core/base64"
	"github.com/u-root/u-root/pkg/core/cat"
	"github.com/u-root/u-root/pkg/core/chmod"
	"github.com/u-root/u-root/pkg/core/cp"
	"github.com/u-root/u-root/pkg/core/ls"
	"github.com/u-root/u-root/pkg/core/mkdir"
	"github.com/u-root/u-root/pkg/core/mktemp"
	"github.com/u-root/u-root/pkg/core/mv"
	"github.com/u-root/u-root/pkg/core/rm"
	"github.com/u-root/u-root/pkg/core/shasum"
	"github.com/u-root/u-root/pkg/core/touch"
	"github.com/u-root/u-root/pkg/core/xargs"
	"golang.org/x/sys/unix"
)

// lookup returns what a name of applets.Names stands for, or nil. It is a switch, not a map: a map is built at every start.
func lookup(name string) func(args []string) error {
	switch name {
	case "[":
		return func(args []string) error { return builtin("[", args) }
	case "awk":
		return awk
	case "base64":
		return library(base64.New)
	case "basename":
		return basename
	case "cat":
		return library(cat.New)
	case "chmod":
		return changeMode
	case "chown":
		return chown
	case "cp":
		return library(cp.New)
	case "cut":
		return cut
	case "date":
		return date
	case "dd":
		return dd
	case "df":
		return df
	case "dirname":
		return dirname
	case "echo":
		return func(args []string) error { return builtin("echo", args) }
	case "env":
		return env
	case "false":
		return func([]string) error { return status(1) }
	case "find":
		return find
	case "free":
		return free
	case "grep":
		return grep
	case "gunzip":
		return func(args []string) error { return compress(args, true, false) }
	case "gzip":
		return func(args []string) error { return compress(args, false, false) }
	case "head":
		return head
	case "hostname":
		return hostname
	case "httpd":
		return httpd
	case "id":
		return id
	case "ip":
		return ip
	case "kill":
		return kill
	case "ln":
		return ln
	case "ls":
		return list
	case "mkdir":
		return library(mkdir.New)
	case "mktemp":
		return library(mktemp.New)
	case "mount":
		return mounts
	case "mv":
		return library(mv.New)
	case "nc":
		return netcat
	case "nproc":
		return nproc
	case "printenv":
		return printenv
	case "printf":
		return func(args []string) error { return builtin("printf", args) }
	case "ps":
		return ps
	case "pwd":
		return pwd
	case "readlink":
		return readlink
	case "realpath":
		return realpath
	case "rm":
		return library(rm.New)
	case "rmdir":
		return rmdir
	case "seq":
		return seq
	case "sh":
		return sh
	case "sha256sum":
		return sha256sum
	case "shasum":
		return library(shasum.New)
	case "sleep":
		return sleep
	case "sort":
		return sortLines
	case "stat":
		return stat
	case "stty":
		return stty
	case "sync":
		return syncAll
	case "tail":
		return tail
	case "tar":
		return tarball
	case "tee":
		return tee
	case "test":
		return func(args []string) error { return builtin("test", args) }
	case "touch":
		return library(touch.New)
	case "tr":
		return tr
	case "true":
		return func([]string) error { return nil }
	case "tty":
		return tty
	case "uname":
		return uname
	case "uniq":
		return uniq
	case "wc":
		return wc
	case "wget":
		return wget
	case "where":
		return where
	case "whoami":
		return whoami
	case "xargs":
		return library(xargs.New)
	case "yes":
		return yes
	case "zcat":
		return func(args []string) error { return compress(args, true, true) }
	}
	return nil
}

// list is the library's ls, which shows what is missing as if it were a name, and succeeds.
func list(args []string) error {
	var kept []string
	named, failed := 0, 0
	for i, arg := range args {
		if arg != "" && arg[0] == '-' && !slices.Contains(args[:i], "--") {
			kept = append(kept, arg)
			continue
		}
		named++
		if _, err := os.Lstat(arg); err != nil {
			fmt.Fprintf(os.Stderr, "ls: %v\n", err)
			failed++
			continue
		}
		kept = append(kept, arg)
	}
	if named > 0 && named == failed {
		return status(1)
	}
	if err := library(ls.New)(kept); err != nil || failed == 0 {
		return err
	}
	return status(1)
}

// changeMode is the library's chmod, which knows the octal modes up to 777 only.
func changeMode(args []string) error {
	for i, arg := range args {
		if mode, err := strconv.ParseUint(arg, 8, 12); err == nil && mode > 0o777 {
			for _, name := range append(args[:i:i], args[i+1:]...) {
				if err := unix.Chmod(name, uint32(mode)); err != nil {
					return &os.PathError{Op: "chmod", Path: name, Err: err}
				}
			}
			return nil
		}
		if arg == "" || arg[0] != '-' {
			break
		}
	}
	return library(chmod.New)(args)
}

// library runs a utility of u-root.
func library(make func() core.Command) func(args []string) error {
	return func(args []string) error {
		c := make()
		complaints := &counter{to: os.Stderr}
		c.SetIO(os.Stdin, stdout, complaints)
		err := c.Run(args...)
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		if err == nil && complaints.n > 0 {
			return status(1) // some of them say what is wrong, and end as if nothing were
		}
		return err
	}
}

// counter counts what is written.
type counter struct {
	to io.Writer
	n  int
}

func (c *counter) Write(p []byte) (int, error) {
	c.n += len(p)
	return c.to.Write(p)
}
