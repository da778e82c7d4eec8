package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"sort"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// lineCount reads "-n N"; "-N" is the old way to say it.
func lineCount(args []string, known string) (o options, names []string, n int, fromStart bool, err error) {
	if len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' && args[0][1] >= '0' && args[0][1] <= '9' {
		args = append([]string{"-n", args[0][1:]}, args[1:]...)
	}
	if o, names, err = getopt(args, known); err != nil {
		return
	}
	text := "10"
	if o.has('n') {
		text = o['n']
	} else if o.has('c') {
		text = o['c']
	}
	fromStart = strings.HasPrefix(text, "+")
	if n, err = strconv.Atoi(strings.TrimPrefix(text, "+")); err != nil || n < 0 {
		err = usageError(fmt.Sprintf("%q is not a number of lines", text))
	}
	return
}

func heading(i int, name string, names []string) {
	if len(names) < 2 {
		return
	}
	if i > 0 {
		_ = stdout.WriteByte('\n')
	}
	fmt.Fprintf(stdout, "==> %s <==\n", name)
}

func head(args []string) error {
	o, names, n, _, err := lineCount(args, "n:c:")
	if err != nil {
		return err
	}
	i := 0
	return eachFile("head", names, func(name string, r io.Reader) error {
		heading(i, name, names)
		i++
		if o.has('c') {
			_, err := io.CopyN(stdout, r, int64(n))
			return ignoreEOF(err)
		}
		b := bufio.NewReader(r)
		for range n {
			line, err := b.ReadBytes('\n')
			_, _ = stdout.Write(line)
			if err != nil {
				return ignoreEOF(err)
			}
		}
		return nil
	})
}

func ignoreEOF(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}

func tail(args []string) error {
	o, names, n, fromStart, err := lineCount(args, "n:c:f")
	if err != nil {
		return err
	}
	if o.has('c') && fromStart || o.has('f') && len(names) > 1 {
		return usageError("usage: tail [-n [+]N | -c N] [-f] [FILE], with -f for one file only")
	}
	i := 0
	return eachFile("tail", names, func(name string, r io.Reader) error {
		heading(i, name, names)
		i++
		if err := tailOne(r, o, n, fromStart); err != nil || !o.has('f') {
			return err
		}
		for {
			if err := stdout.Flush(); err != nil {
				return err
			}
			copied, err := io.Copy(stdout, r)
			if err != nil {
				return err
			}
			if file, ok := r.(*os.File); ok && copied == 0 {
				rewindTruncated(file)
				time.Sleep(200 * time.Millisecond)
			}
		}
	})
}

// rewindTruncated follows a file that was emptied, as a log that is rotated by copying.
func rewindTruncated(file *os.File) {
	at, err := file.Seek(0, io.SeekCurrent)
	if err != nil {
		return // a pipe
	}
	if info, err := file.Stat(); err == nil && info.Size() < at {
		_, _ = file.Seek(0, io.SeekStart)
	}
}

func tailOne(r io.Reader, o options, n int, fromStart bool) error {
	if o.has('c') {
		data, err := io.ReadAll(r)
		if err == nil {
			_, err = stdout.Write(data[max(0, len(data)-n):])
		}
		return err
	}
	b := bufio.NewReader(r)
	if fromStart {
		for range n - 1 {
			if _, err := b.ReadBytes('\n'); err != nil {
				return ignoreEOF(err)
			}
		}
		_, err := io.Copy(stdout, b)
		return err
	}
	ring := make([][]byte, 0, min(n, 1024))
	first := 0
	for {
		line, err := b.ReadBytes('\n')
		if len(line) > 0 && n > 0 {
			if len(ring) < n {
				ring = append(ring, line)
			} else {
				ring[first] = line
				first = (first + 1) % n
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	for i := range ring {
		_, _ = stdout.Write(ring[(first+i)%len(ring)])
	}
	return nil
}

func wc(args []string) error {
	o, names, err := getopt(args, "lwcm")
	if err != nil {
		return err
	}
	if len(o) == 0 {
		o = options{'l': "", 'w': "", 'c': ""}
	}
	type counts struct{ lines, words, chars, bytes int }
	show := func(c counts, name string) {
		var columns []string
		for _, column := range []struct {
			letter byte
			n      int
		}{{'l', c.lines}, {'w', c.words}, {'m', c.chars}, {'c', c.bytes}} {
			if o.has(column.letter) {
				columns = append(columns, strconv.Itoa(column.n))
			}
		}
		if name != "" {
			columns = append(columns, name)
		}
		fmt.Fprintln(stdout, strings.Join(columns, " "))
	}
	var total counts
	err = eachFile("wc", names, func(name string, r io.Reader) error {
		var c counts
		inWord := false
		buffer := make([]byte, 64<<10)
		for {
			n, err := r.Read(buffer)
			for _, b := range buffer[:n] {
				switch b {
				case '\n':
					c.lines++
					inWord = false
				case ' ', '\t', '\r', '\v', '\f':
					inWord = false
				default:
					if !inWord {
						c.words++
					}
					inWord = true
				}
				if utf8.RuneStart(b) {
					c.chars++
				}
			}
			c.bytes += n
			if err == io.EOF {
				break
			}
			if err != nil {
				return err
			}
		}
		if len(names) == 0 {
			name = ""
		}
		show(c, name)
		total.lines, total.words, total.chars, total.bytes = total.lines+c.lines, total.words+c.words, total.chars+c.chars, total.bytes+c.bytes
		return nil
	})
	if len(names) > 1 {
		show(total, "total")
	}
	return err
}

func sortLines(args []string) error {
	o, names, err := getopt(args, "nrufk:t:")
	if err != nil {
		return err
	}
	field := 0
	if o.has('k') {
		if field, err = strconv.Atoi(o['k']); err != nil || field < 1 {
			return usageError("option -k takes the number of a field")
		}
	}
	key := func(line string) string {
		if field > 0 {
			fields := strings.Fields(line)
			if o.has('t') {
				fields = strings.Split(line, o['t'])
			}
			if line = ""; field <= len(fields) {
				line = fields[field-1]
			}
		}
		if o.has('f') {
			line = strings.ToUpper(line)
		}
		return line
	}
	compare := func(a, b string) int {
		a, b = key(a), key(b)
		if o.has('n') {
			switch x, y := leadingNumber(a), leadingNumber(b); {
			case x < y:
				return -1
			case x > y:
				return 1
			}
			return 0
		}
		return strings.Compare(a, b)
	}
	var lines []string
	err = eachFile("sort", names, func(_ string, r io.Reader) error {
		return eachLine(r, func(line []byte) error { lines = append(lines, string(line)); return nil })
	})
	sort.SliceStable(lines, func(i, j int) bool {
		c := compare(lines[i], lines[j])
		if c == 0 && !o.has('u') { // the whole line decides, as POSIX says
			c = strings.Compare(lines[i], lines[j])
		}
		if o.has('r') {
			return c > 0
		}
		return c < 0
	})
	for i, line := range lines {
		if o.has('u') && i > 0 && compare(lines[i-1], line) == 0 {
			continue
		}
		fmt.Fprintln(stdout, line)
	}
	return err
}

func leadingNumber(s string) float64 {
	s = strings.TrimSpace(s)
	end := 0
	for end < len(s) && (s[end] >= '0' && s[end] <= '9' || s[end] == '.' || end == 0 && s[end] == '-') {
		end++
	}
	n, _ := strconv.ParseFloat(s[:end], 64) // no number is 0
	return n
}

func uniq(args []string) error {
	o, names, err := getopt(args, "cdu")
	if err != nil {
		return err
	}
	if err := operands(names, 0, 1, "uniq [-cdu] [FILE]"); err != nil {
		return err
	}
	var last []byte
	n := 0
	flush := func() {
		if n == 0 || o.has('d') && n == 1 || o.has('u') && n > 1 {
			return
		}
		if o.has('c') {
			fmt.Fprintf(stdout, "%7d ", n)
		}
		fmt.Fprintf(stdout, "%s\n", last)
	}
	err = eachFile("uniq", names, func(_ string, r io.Reader) error {
		return eachLine(r, func(line []byte) error {
			if n > 0 && bytes.Equal(line, last) {
				n++
				return nil
			}
			flush()
			last, n = line, 1
			return nil
		})
	})
	flush()
	return err
}

// ranges are those of cut: "1,3-5,7-".
type ranges [][2]int

func parseRanges(text string) (ranges, error) {
	var list ranges
	for part := range strings.SplitSeq(text, ",") {
		from, to, isRange := strings.Cut(part, "-")
		first, last := 1, 1<<31
		var err error
		if from != "" {
			first, err = strconv.Atoi(from)
		}
		if err == nil && !isRange {
			last = first
		} else if err == nil && to != "" {
			last, err = strconv.Atoi(to)
		}
		if err != nil || first < 1 || last < first || part == "-" || part == "" {
			return nil, usageError(fmt.Sprintf("%q is not a list like 1,3-5,7-", text))
		}
		list = append(list, [2]int{first, last})
	}
	return list, nil
}

func (r ranges) has(n int) bool {
	for _, one := range r {
		if n >= one[0] && n <= one[1] {
			return true
		}
	}
	return false
}

func cut(args []string) error {
	o, names, err := getopt(args, "b:c:f:d:s")
	if err != nil {
		return err
	}
	var list ranges
	modes := 0
	for _, letter := range []byte("bcf") {
		if o.has(letter) {
			modes++
			if list, err = parseRanges(o[letter]); err != nil {
				return err
			}
		}
	}
	if modes != 1 {
		return usageError("usage: cut -b LIST | -c LIST | -f LIST [-d CHARACTER] [-s] [FILE...]")
	}
	separator := "\t"
	if o.has('d') {
		separator = o['d']
	}
	return eachFile("cut", names, func(_ string, r io.Reader) error {
		return eachLine(r, func(line []byte) error {
			var kept []string
			join := ""
			switch {
			case o.has('b'):
				for i, b := range line {
					if list.has(i + 1) {
						kept = append(kept, string([]byte{b}))
					}
				}
			case o.has('c'):
				for i, r := range []rune(string(line)) {
					if list.has(i + 1) {
						kept = append(kept, string(r))
					}
				}
			case !bytes.Contains(line, []byte(separator)):
				if o.has('s') {
					return nil
				}
				kept = []string{string(line)}
			default:
				join = separator
				for i, field := range strings.Split(string(line), separator) {
					if list.has(i + 1) {
						kept = append(kept, field)
					}
				}
			}
			fmt.Fprintln(stdout, strings.Join(kept, join))
			return nil
		})
	})
}

func tee(args []string) error {
	o, names, err := getopt(args, "a")
	if err != nil {
		return err
	}
	flags := os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	if o.has('a') {
		flags = os.O_WRONLY | os.O_CREATE | os.O_APPEND
	}
	writers := []io.Writer{os.Stdout}
	for _, name := range names {
		file, err := os.OpenFile(name, flags, 0o666)
		if err != nil {
			return err
		}
		defer file.Close()
		writers = append(writers, file)
	}
	_, err = io.Copy(io.MultiWriter(writers...), os.Stdin)
	return err
}

func seq(args []string) error {
	if err := operands(args, 1, 3, "seq [FIRST [STEP]] LAST"); err != nil {
		return err
	}
	numbers := []float64{1, 1, 0}
	for i, arg := range args {
		n, err := strconv.ParseFloat(arg, 64)
		if err != nil {
			return usageError(fmt.Sprintf("%q is not a number", arg))
		}
		switch {
		case i == len(args)-1:
			numbers[2] = n
		default:
			numbers[i] = n
		}
	}
	first, step, last := numbers[0], numbers[1], numbers[2]
	if step == 0 {
		return usageError("the step must not be 0")
	}
	for i := 0; ; i++ {
		n := first + float64(i)*step
		if step > 0 && n > last || step < 0 && n < last {
			return nil
		}
		if _, err := fmt.Fprintln(stdout, strconv.FormatFloat(n, 'f', -1, 64)); err != nil {
			return err
		}
	}
}

func yes(args []string) error {
	line := "y"
	if len(args) > 0 {
		line = strings.Join(args, " ")
	}
	for {
		if _, err := fmt.Fprintln(stdout, line); err != nil {
			return err
		}
	}
}
