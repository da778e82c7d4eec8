package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"regexp/syntax"
	"strings"

	"github.com/benhoyt/goawk/interp"
	"github.com/benhoyt/goawk/parser"
)

// grep matches with Go's regular expressions (RE2), whose syntax is that of POSIX's extended ones and more. Basic ones
// are translated: there the escaped characters are the special ones. What RE2 cannot do, "\1", is an error.
func grep(args []string) error {
	o, names, err := getopt(args, "EFiHhvnqclrose:")
	if err != nil {
		return err
	}
	pattern, given := o['e'], o.has('e')
	if !given {
		if len(names) == 0 {
			return usageError("usage: grep [-EFivnqclorhHs] [-e] PATTERN [FILE...]")
		}
		pattern, names = names[0], names[1:]
	}
	expr, err := grepExpression(pattern, o)
	if err != nil {
		return usageError(err.Error())
	}
	files := names
	if o.has('r') {
		if len(names) == 0 {
			names = []string{"."}
		}
		if files, err = filesBelow(names); err != nil {
			return err
		}
	}
	withName := (len(files) > 1 || o.has('r') || o.has('H')) && !o.has('h')
	matched := false
	if o.has('r') && len(files) == 0 {
		return status(1)
	}
	failed := eachFile("grep", files, func(name string, r io.Reader) error {
		n, err := grepOne(name, r, expr, o, withName)
		matched = matched || n > 0
		return err
	})
	switch {
	case errors.Is(failed, errEnough):
		return nil
	case failed != nil:
		return status(2)
	case !matched:
		return status(1)
	}
	return nil
}

var errEnough = errors.New("enough")

func grepOne(name string, r io.Reader, expr *regexp.Regexp, o options, withName bool) (count int, err error) {
	prefix := ""
	if withName {
		prefix = name + ":"
	}
	number := 0
	err = eachLine(r, func(line []byte) error {
		number++
		if expr.Match(line) == o.has('v') {
			return nil
		}
		count++
		switch {
		case o.has('q'):
			return errEnough
		case o.has('l'):
			return io.EOF
		case o.has('c'):
			return nil
		}
		at := prefix
		if o.has('n') {
			at += fmt.Sprintf("%d:", number)
		}
		if o.has('o') && !o.has('v') {
			for _, found := range expr.FindAll(line, -1) {
				fmt.Fprintf(stdout, "%s%s\n", at, found)
			}
			return nil
		}
		fmt.Fprintf(stdout, "%s%s\n", at, line)
		return nil
	})
	if err == io.EOF {
		fmt.Fprintln(stdout, name)
		err = nil
	}
	if o.has('c') && err == nil {
		fmt.Fprintf(stdout, "%s%d\n", prefix, count)
	}
	return count, err
}

func grepExpression(pattern string, o options) (*regexp.Regexp, error) {
	var alternatives []string
	for one := range strings.SplitSeq(pattern, "\n") {
		switch {
		case o.has('F'):
			one = regexp.QuoteMeta(one)
		case !o.has('E'):
			one = basicToExtended(one)
		}
		alternatives = append(alternatives, "(?:"+one+")")
	}
	flags := ""
	if o.has('i') {
		flags = "(?i)"
	}
	expr, err := regexp.Compile(flags + strings.Join(alternatives, "|"))
	var invalid *syntax.Error
	if errors.As(err, &invalid) {
		return nil, fmt.Errorf("%q is not a regular expression here: %s", pattern, invalid.Code)
	}
	return expr, err
}

// basicToExtended writes a basic regular expression as an extended one (POSIX.1-2017, XBD 9.3).
func basicToExtended(basic string) string {
	var b strings.Builder
	start := true // of the expression or of a group, where "*" is itself and "^" is an anchor
	for i := 0; i < len(basic); i++ {
		c := basic[i]
		begins := false
		switch {
		case c == '\\' && i+1 < len(basic):
			i++
			switch c = basic[i]; c {
			case '(', '|':
				begins = true
				b.WriteByte(c)
			case ')', '{', '}', '+', '?':
				b.WriteByte(c)
			default:
				b.WriteByte('\\')
				b.WriteByte(c)
			}
		case c == '[':
			end := bracketEnd(basic, i)
			b.WriteString(basic[i:end])
			i = end - 1
		case strings.IndexByte("(){}+?|", c) >= 0,
			c == '*' && start,
			c == '^' && !start,
			c == '$' && i+1 < len(basic) && !strings.HasPrefix(basic[i+1:], `\)`) && !strings.HasPrefix(basic[i+1:], `\|`):
			b.WriteByte('\\')
			b.WriteByte(c)
		default:
			begins = c == '^'
			b.WriteByte(c)
		}
		start = begins
	}
	return b.String()
}

// bracketEnd is the index behind a bracket expression that begins at i.
func bracketEnd(s string, i int) int {
	j := i + 1
	if j < len(s) && s[j] == '^' {
		j++
	}
	if j < len(s) && s[j] == ']' {
		j++
	}
	for j < len(s) && s[j] != ']' {
		if s[j] == '[' && j+1 < len(s) && s[j+1] == ':' {
			if end := strings.Index(s[j:], ":]"); end > 0 {
				j += end + 1
			}
		}
		j++
	}
	return min(j+1, len(s))
}

func filesBelow(roots []string) (files []string, err error) {
	for _, root := range roots {
		err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.Type().IsRegular() {
				files = append(files, path)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return files, nil
}

func awk(args []string) error {
	o, rest, err := getopt(args, "+F:f:v:")
	if err != nil {
		return err
	}
	var source []byte
	if o.has('f') {
		if err := withFile(o['f'], func(r io.Reader) error { source, err = io.ReadAll(r); return err }); err != nil {
			return err
		}
	} else {
		if len(rest) == 0 {
			return usageError("usage: awk [-F SEPARATOR] [-v NAME=VALUE] PROGRAM | -f FILE [FILE...]")
		}
		source, rest = []byte(rest[0]), rest[1:]
	}
	program, err := parser.ParseProgram(source, nil)
	if err != nil {
		return usageError(err.Error())
	}
	config := &interp.Config{Stdin: os.Stdin, Output: stdout, Error: os.Stderr, Argv0: "awk", Args: rest, ShellCommand: []string{"/bin/sh", "-c"}}
	if o.has('F') {
		config.Vars = append(config.Vars, "FS", o['F'])
	}
	if o.has('v') {
		name, value, ok := strings.Cut(o['v'], "=")
		if !ok {
			return usageError("option -v takes NAME=VALUE")
		}
		config.Vars = append(config.Vars, name, value)
	}
	code, err := interp.ExecProgram(program, config)
	if err == nil && code != 0 {
		err = status(code)
	}
	return err
}

// tr works on bytes, as POSIX's C locale does.
func tr(args []string) error {
	o, sets, err := getopt(args, "+cds")
	if err != nil {
		return err
	}
	if err := operands(sets, 1, 2, "tr [-c] [-d] [-s] SET [SET]"); err != nil {
		return err
	}
	from, err := trSet(sets[0])
	if err != nil {
		return err
	}
	if o.has('c') {
		from = complement(from)
	}
	var to []byte
	if len(sets) == 2 {
		if to, err = trSet(sets[1]); err != nil {
			return err
		}
	}
	var member, squeeze [256]bool
	var mapping [256]byte
	for i := range mapping {
		mapping[i] = byte(i)
	}
	for i, b := range from {
		member[b] = true
		if len(to) > 0 && !o.has('d') {
			mapping[b] = to[min(i, len(to)-1)]
		}
	}
	if !o.has('d') && !o.has('s') && len(to) == 0 {
		return usageError("tr needs a second SET, -d or -s")
	}
	if o.has('s') {
		last := to
		if len(to) == 0 {
			last = from
		}
		for _, b := range last {
			squeeze[b] = true
		}
	}
	previous := -1
	buffer := make([]byte, 32<<10)
	for {
		n, err := os.Stdin.Read(buffer)
		for _, b := range buffer[:n] {
			if o.has('d') && member[b] {
				continue
			}
			b = mapping[b]
			if squeeze[b] && previous == int(b) {
				continue
			}
			previous = int(b)
			_ = stdout.WriteByte(b)
		}
		if n > 0 {
			if err := stdout.Flush(); err != nil {
				return err
			}
		}
		if err != nil {
			return ignoreEOF(err)
		}
	}
}

func trSet(text string) ([]byte, error) {
	var set []byte
	for i := 0; i < len(text); i++ {
		if strings.HasPrefix(text[i:], "[:") {
			if end := strings.Index(text[i:], ":]"); end > 0 {
				name := text[i+2 : i+end]
				class, err := regexp.Compile("[[:" + name + ":]]")
				if err != nil {
					return nil, usageError(fmt.Sprintf("%q is not a class of characters", name))
				}
				for b := range 128 {
					if class.Match([]byte{byte(b)}) {
						set = append(set, byte(b))
					}
				}
				i += end + 1
				continue
			}
		}
		b := text[i]
		if b == '\\' && i+1 < len(text) {
			i++
			b = text[i]
			if at := strings.IndexByte("nrtabfv0", b); at >= 0 {
				b = "\n\r\t\a\b\f\v\x00"[at]
			}
		}
		if i+2 < len(text) && text[i+1] == '-' {
			last := text[i+2]
			if last < b {
				return nil, usageError(fmt.Sprintf("%q is a range that ends before it begins", text[i:i+3]))
			}
			for c := int(b); c <= int(last); c++ {
				set = append(set, byte(c))
			}
			i += 2
			continue
		}
		set = append(set, b)
	}
	return set, nil
}

func complement(set []byte) []byte {
	var rest []byte
	for b := range 256 {
		if !bytes.Contains(set, []byte{byte(b)}) {
			rest = append(rest, byte(b))
		}
	}
	return rest
}
