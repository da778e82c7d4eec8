package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// test is a condition or an action of find; all of them must hold, from left to right.
type test func(path string, depth int, entry fs.DirEntry) (bool, error)

// find is "find [PATH...] [TEST|ACTION...]". Tests are joined by "and"; there is no "or".
func find(args []string) error {
	var roots []string
	for len(args) > 0 && !strings.HasPrefix(args[0], "-") && args[0] != "!" {
		roots, args = append(roots, args[0]), args[1:]
	}
	if len(roots) == 0 {
		roots = []string{"."}
	}
	search := finder{maxDepth: 1 << 30}
	if err := search.parse(args); err != nil {
		return err
	}
	for _, root := range roots {
		if err := search.visit(root, 0); err != nil {
			return err
		}
	}
	if search.failed {
		return status(1)
	}
	return nil
}

type finder struct {
	tests              []test
	minDepth, maxDepth int
	depthFirst         bool
	acts               bool
	failed             bool
}

func (f *finder) parse(args []string) error {
	for len(args) > 0 {
		negate := args[0] == "!"
		if negate {
			args = args[1:]
		}
		if len(args) == 0 {
			return usageError("! stands before a test")
		}
		name := args[0]
		args = args[1:]
		value := ""
		switch name {
		case "-name", "-iname", "-path", "-type", "-maxdepth", "-mindepth":
			if len(args) == 0 {
				return usageError(name + " needs a value")
			}
			value, args = args[0], args[1:]
		case "-exec":
			end := 0
			for end < len(args) && args[end] != ";" {
				end++
			}
			if end == 0 || end == len(args) {
				return usageError("-exec is followed by a command and ;")
			}
			f.add(execute(args[:end]), negate)
			f.acts = true
			args = args[end+1:]
			continue
		}
		t, err := f.test(name, value)
		if err != nil {
			return err
		}
		if t != nil {
			f.add(t, negate)
		}
	}
	if !f.acts {
		t, _ := f.test("-print", "")
		f.add(t, false)
	}
	return nil
}

func (f *finder) add(t test, negate bool) {
	if !negate {
		f.tests = append(f.tests, t)
		return
	}
	f.tests = append(f.tests, func(path string, depth int, entry fs.DirEntry) (bool, error) {
		ok, err := t(path, depth, entry)
		return !ok, err
	})
}

func (f *finder) test(name, value string) (test, error) {
	var err error
	switch name {
	case "-name", "-iname", "-path":
		if _, err := filepath.Match(value, ""); err != nil {
			return nil, usageError(fmt.Sprintf("%q is not a pattern", value))
		}
		return func(path string, _ int, _ fs.DirEntry) (bool, error) {
			pattern, text := value, filepath.Base(path)
			switch name {
			case "-iname":
				pattern, text = strings.ToLower(pattern), strings.ToLower(text)
			case "-path": // here a star matches slashes, too
				pattern, text = strings.ReplaceAll(pattern, "/", "\x00"), strings.ReplaceAll(path, "/", "\x00")
			}
			return filepath.Match(pattern, text)
		}, nil
	case "-type":
		if len(value) != 1 || !strings.Contains("fdlpscb", value) {
			return nil, usageError(fmt.Sprintf("%q is not a type of file", value))
		}
		return func(_ string, _ int, entry fs.DirEntry) (bool, error) { return typeLetter(entry.Type()) == value, nil }, nil
	case "-maxdepth":
		f.maxDepth, err = strconv.Atoi(value)
	case "-mindepth":
		f.minDepth, err = strconv.Atoi(value)
	case "-depth":
		f.depthFirst = true
	case "-empty":
		return func(path string, _ int, entry fs.DirEntry) (bool, error) { return isEmpty(path, entry) }, nil
	case "-print", "-print0":
		f.acts = true
		end := "\n"
		if name == "-print0" {
			end = "\x00"
		}
		return func(path string, _ int, _ fs.DirEntry) (bool, error) {
			_, err := stdout.WriteString(path + end)
			return true, err
		}, nil
	case "-delete":
		f.acts, f.depthFirst = true, true
		return func(path string, _ int, _ fs.DirEntry) (bool, error) { return true, os.Remove(path) }, nil
	default:
		return nil, usageError(fmt.Sprintf("unknown test %q", name))
	}
	if err != nil {
		return nil, usageError(fmt.Sprintf("%q is not a number", value))
	}
	return nil, nil
}

func execute(command []string) test {
	return func(path string, _ int, _ fs.DirEntry) (bool, error) {
		args := make([]string, len(command))
		for i, arg := range command {
			args[i] = strings.ReplaceAll(arg, "{}", path)
		}
		return runProgram(args) == nil, nil
	}
}

func isEmpty(path string, entry fs.DirEntry) (bool, error) {
	if entry.IsDir() {
		entries, err := os.ReadDir(path)
		return len(entries) == 0, err
	}
	info, err := entry.Info()
	return err == nil && entry.Type().IsRegular() && info.Size() == 0, err
}

func typeLetter(mode fs.FileMode) string {
	switch {
	case mode.IsRegular():
		return "f"
	case mode.IsDir():
		return "d"
	case mode&fs.ModeSymlink != 0:
		return "l"
	case mode&fs.ModeNamedPipe != 0:
		return "p"
	case mode&fs.ModeSocket != 0:
		return "s"
	case mode&fs.ModeCharDevice != 0:
		return "c"
	}
	return "b"
}

// visit tells what cannot be read and goes on.
func (f *finder) visit(path string, depth int) error {
	info, err := os.Lstat(path)
	if err != nil {
		f.complain(err)
		return nil
	}
	entry := fs.FileInfoToDirEntry(info)
	if !f.depthFirst {
		f.apply(path, depth, entry)
	}
	if entry.IsDir() && depth < f.maxDepth {
		entries, err := os.ReadDir(path)
		if err != nil {
			f.complain(err)
		}
		for _, below := range entries {
			child := path + "/" + below.Name()
			if strings.HasSuffix(path, "/") {
				child = path + below.Name()
			}
			if err := f.visit(child, depth+1); err != nil {
				return err
			}
		}
	}
	if f.depthFirst {
		f.apply(path, depth, entry)
	}
	return stdout.Flush() // so that output of -exec stands in its place, and a closed pipe ends us
}

func (f *finder) apply(path string, depth int, entry fs.DirEntry) {
	if depth < f.minDepth {
		return
	}
	for _, t := range f.tests {
		ok, err := t(path, depth, entry)
		if err != nil {
			f.complain(err)
		}
		if !ok || err != nil {
			return
		}
	}
}

func (f *finder) complain(err error) {
	fmt.Fprintf(os.Stderr, "find: %v\n", err)
	f.failed = true
}
