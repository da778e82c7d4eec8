package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func basename(args []string) error {
	if err := operands(args, 1, 2, "basename PATH [SUFFIX]"); err != nil {
		return err
	}
	name := filepath.Base(args[0])
	if len(args) == 2 && name != args[1] {
		name = strings.TrimSuffix(name, args[1])
	}
	fmt.Fprintln(stdout, name)
	return nil
}

func dirname(args []string) error {
	if err := operands(args, 1, 1, "dirname PATH"); err != nil {
		return err
	}
	trimmed := strings.TrimRight(args[0], "/")
	if trimmed == "" && args[0] != "" {
		trimmed = "/"
	}
	fmt.Fprintln(stdout, filepath.Dir(trimmed))
	return nil
}

func pwd(args []string) error {
	if err := operands(args, 0, 0, "pwd"); err != nil {
		return err
	}
	dir, err := os.Getwd()
	if err == nil {
		fmt.Fprintln(stdout, dir)
	}
	return err
}

func readlink(args []string) error {
	o, names, err := getopt(args, "fn")
	if err != nil {
		return err
	}
	if err := operands(names, 1, 1, "readlink [-f] [-n] PATH"); err != nil {
		return err
	}
	resolve := os.Readlink
	if o.has('f') {
		resolve = resolveAll
	}
	target, err := resolve(names[0])
	if err != nil {
		return status(1) // silent, as scripts expect
	}
	if _, _ = stdout.WriteString(target); !o.has('n') {
		_ = stdout.WriteByte('\n')
	}
	return nil
}

// resolveAll follows every link; the last component need not exist.
func resolveAll(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	whole, err := filepath.EvalSymlinks(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return whole, err
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	return filepath.Join(dir, filepath.Base(path)), err
}

func realpath(args []string) error {
	if err := operands(args, 1, -1, "realpath PATH..."); err != nil {
		return err
	}
	for _, name := range args {
		path, err := resolveAll(name)
		if err != nil {
			return err
		}
		fmt.Fprintln(stdout, path)
	}
	return nil
}

func ln(args []string) error {
	o, names, err := getopt(args, "sfn")
	if err != nil {
		return err
	}
	if err := operands(names, 1, -1, "ln [-s] [-f] [-n] TARGET... LINK|DIRECTORY"); err != nil {
		return err
	}
	targets, link := names, "."
	if len(names) > 1 {
		targets, link = names[:len(names)-1], names[len(names)-1]
	}
	look := os.Stat
	if o.has('n') {
		look = os.Lstat
	}
	info, err := look(link)
	into := err == nil && info.IsDir()
	if len(targets) > 1 && !into {
		return fmt.Errorf("%s is not a directory", link)
	}
	for _, target := range targets {
		path := link
		if into {
			path = filepath.Join(link, filepath.Base(target))
		}
		if o.has('f') {
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		make := os.Link
		if o.has('s') {
			make = os.Symlink
		}
		if err := make(target, path); err != nil {
			return err
		}
	}
	return nil
}

func rmdir(args []string) error {
	if err := operands(args, 1, -1, "rmdir DIRECTORY..."); err != nil {
		return err
	}
	for _, name := range args {
		if err := unix.Rmdir(name); err != nil {
			return &os.PathError{Op: "rmdir", Path: name, Err: err}
		}
	}
	return nil
}

func chown(args []string) error {
	o, names, err := getopt(args, "Rh")
	if err != nil {
		return err
	}
	if err := operands(names, 2, -1, "chown [-R] [-h] USER[:GROUP] PATH..."); err != nil {
		return err
	}
	uid, gid, err := owner(names[0])
	if err != nil {
		return err
	}
	for _, name := range names[1:] {
		if !o.has('R') {
			change := os.Chown
			if o.has('h') {
				change = os.Lchown
			}
			if err := change(name, uid, gid); err != nil {
				return err
			}
			continue
		}
		err := filepath.WalkDir(name, func(path string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			return os.Lchown(path, uid, gid)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// owner reads USER, USER:GROUP or :GROUP, as names or numbers; -1 is "as it is".
func owner(text string) (uid, gid int, err error) {
	uid, gid = -1, -1
	userName, groupName, _ := strings.Cut(text, ":")
	if userName != "" {
		if u, lookErr := user.Lookup(userName); lookErr == nil {
			userName = u.Uid
		}
		if uid, err = strconv.Atoi(userName); err != nil {
			return 0, 0, fmt.Errorf("there is no user %q", userName)
		}
	}
	if groupName != "" {
		if g, lookErr := user.LookupGroup(groupName); lookErr == nil {
			groupName = g.Gid
		}
		if gid, err = strconv.Atoi(groupName); err != nil {
			return 0, 0, fmt.Errorf("there is no group %q", groupName)
		}
	}
	return uid, gid, nil
}

func stat(args []string) error {
	o, names, err := getopt(args, "c:L")
	if err != nil {
		return err
	}
	if err := operands(names, 1, -1, "stat [-c FORMAT] [-L] PATH..."); err != nil {
		return err
	}
	look := os.Lstat
	if o.has('L') {
		look = os.Stat
	}
	for _, name := range names {
		info, err := look(name)
		if err != nil {
			return err
		}
		format := "  File: %n\n  Size: %s\tBlocks: %b\t%F\nDevice: %d\tInode: %i\tLinks: %h\nAccess: (%a/%A)\tUid: %u (%U)\tGid: %g (%G)\nModify: %y"
		if o.has('c') {
			format = o['c']
		}
		text, err := formatStat(format, name, info)
		if err != nil {
			return err
		}
		fmt.Fprintln(stdout, text)
	}
	return nil
}

func formatStat(format, name string, info fs.FileInfo) (string, error) {
	st := info.Sys().(*syscall.Stat_t)
	var b strings.Builder
	for i := 0; i < len(format); i++ {
		if format[i] != '%' || i+1 == len(format) {
			b.WriteByte(format[i])
			continue
		}
		i++
		switch format[i] {
		case '%':
			b.WriteByte('%')
		case 'n':
			b.WriteString(name)
		case 's':
			fmt.Fprint(&b, st.Size)
		case 'b':
			fmt.Fprint(&b, st.Blocks)
		case 'd':
			fmt.Fprint(&b, st.Dev)
		case 'i':
			fmt.Fprint(&b, st.Ino)
		case 'h':
			fmt.Fprint(&b, st.Nlink)
		case 'a':
			fmt.Fprintf(&b, "%o", st.Mode&0o7777)
		case 'A':
			b.WriteString(info.Mode().String())
		case 'f':
			fmt.Fprintf(&b, "%x", st.Mode)
		case 'F':
			b.WriteString(fileType(info.Mode()))
		case 'u':
			fmt.Fprint(&b, st.Uid)
		case 'g':
			fmt.Fprint(&b, st.Gid)
		case 'U':
			b.WriteString(userName(int(st.Uid)))
		case 'G':
			b.WriteString(groupName(int(st.Gid)))
		case 'y':
			b.WriteString(info.ModTime().Format("2006-01-02 15:04:05.000000000 -0700"))
		case 'Y':
			fmt.Fprint(&b, info.ModTime().Unix())
		default:
			return "", usageError(fmt.Sprintf("unknown format %%%c", format[i]))
		}
	}
	return b.String(), nil
}

func fileType(mode fs.FileMode) string {
	switch {
	case mode.IsRegular():
		return "regular file"
	case mode.IsDir():
		return "directory"
	case mode&fs.ModeSymlink != 0:
		return "symbolic link"
	case mode&fs.ModeNamedPipe != 0:
		return "fifo"
	case mode&fs.ModeSocket != 0:
		return "socket"
	case mode&fs.ModeCharDevice != 0:
		return "character special file"
	}
	return "block special file"
}

// dd copies blocks: if= of= bs= count= skip= seek=.
func dd(args []string) error {
	input, output := "", ""
	numbers := map[string]int64{"bs": 512, "count": -1, "skip": 0, "seek": 0}
	for _, arg := range args {
		name, value, _ := strings.Cut(arg, "=")
		_, isNumber := numbers[name]
		switch {
		case name == "if":
			input = value
		case name == "of":
			output = value
		case isNumber:
			n, err := parseSize(value)
			if err != nil || name == "bs" && n < 1 {
				return usageError(fmt.Sprintf("%q is not a number of bytes or blocks", arg))
			}
			numbers[name] = n
		default:
			return usageError(fmt.Sprintf("unknown operand %q", arg))
		}
	}
	in, out := os.Stdin, os.Stdout
	var err error
	if input != "" {
		if in, err = os.Open(input); err != nil {
			return err
		}
		defer in.Close()
	}
	if output != "" {
		flags := os.O_WRONLY | os.O_CREATE
		if numbers["seek"] == 0 {
			flags |= os.O_TRUNC
		}
		if out, err = os.OpenFile(output, flags, 0o666); err != nil {
			return err
		}
		defer out.Close()
	}
	block := numbers["bs"]
	if numbers["skip"] > 0 {
		if _, err := in.Seek(numbers["skip"]*block, io.SeekCurrent); err != nil {
			if _, err := io.CopyN(io.Discard, in, numbers["skip"]*block); err != nil {
				return ignoreEOF(err)
			}
		}
	}
	if numbers["seek"] > 0 {
		if _, err := out.Seek(numbers["seek"]*block, io.SeekCurrent); err != nil {
			return err
		}
	}
	began := time.Now()
	buffer := make([]byte, block)
	var whole, partial, bytes int64
	for n := int64(0); n != numbers["count"]; n++ {
		got, err := in.Read(buffer)
		if got > 0 {
			if _, err := out.Write(buffer[:got]); err != nil {
				return err
			}
			if bytes += int64(got); int64(got) == block {
				whole++
			} else {
				partial++
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	if output != "" {
		if err := out.Close(); err != nil {
			return err
		}
	}
	seconds := time.Since(began).Seconds()
	fmt.Fprintf(os.Stderr, "%d+%d records\n%d bytes copied, %.3f seconds, %s/s\n", whole, partial, bytes, seconds, human(uint64(float64(bytes)/max(seconds, 1e-9))))
	return nil
}

func parseSize(text string) (int64, error) {
	shift := 0
	if n := len(text); n > 1 {
		if at := strings.IndexByte("KMG", text[n-1]&^0x20); at >= 0 {
			shift, text = 10*(at+1), text[:n-1]
		}
	}
	n, err := strconv.ParseInt(text, 10, 32)
	return n << shift, err
}

func syncAll(args []string) error {
	if err := operands(args, 0, 0, "sync"); err != nil {
		return err
	}
	unix.Sync()
	return nil
}

// runProgram starts a program with our standard streams, for find and env.
func runProgram(args []string) error {
	if err := stdout.Flush(); err != nil {
		return err
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd.Run()
}
