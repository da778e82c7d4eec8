package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"sort"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func env(args []string) error {
	o, rest, err := getopt(args, "+iu:")
	if err != nil {
		return err
	}
	searchPath := os.Getenv("PATH")
	if o.has('i') {
		os.Clearenv()
	}
	if o.has('u') {
		if err := os.Unsetenv(o['u']); err != nil {
			return err
		}
	}
	for len(rest) > 0 && strings.Contains(rest[0], "=") {
		name, value, _ := strings.Cut(rest[0], "=")
		if err := os.Setenv(name, value); err != nil {
			return fmt.Errorf("%q: %w", rest[0], err)
		}
		rest = rest[1:]
	}
	if len(rest) == 0 {
		for _, entry := range os.Environ() {
			fmt.Fprintln(stdout, entry)
		}
		return nil
	}
	environment := os.Environ()
	if os.Getenv("PATH") == "" { // "env -i COMMAND" is searched for where it was before
		if err := os.Setenv("PATH", searchPath); err != nil {
			return err
		}
	}
	path, err := exec.LookPath(rest[0])
	if err != nil {
		fmt.Fprintf(os.Stderr, "env: %v\n", err)
		if errors.Is(err, os.ErrPermission) {
			return status(126)
		}
		return status(127)
	}
	fmt.Fprintf(os.Stderr, "env: %s: %v\n", path, unix.Exec(path, rest, environment))
	return status(126)
}

func printenv(args []string) error {
	if len(args) == 0 {
		return env(nil)
	}
	var failed error
	for _, name := range args {
		if value, ok := os.LookupEnv(name); ok {
			fmt.Fprintln(stdout, value)
		} else {
			failed = status(1)
		}
	}
	return failed
}

func userName(uid int) string {
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		return u.Username
	}
	return strconv.Itoa(uid)
}

func groupName(gid int) string {
	if g, err := user.LookupGroupId(strconv.Itoa(gid)); err == nil {
		return g.Name
	}
	return strconv.Itoa(gid)
}

func whoami(args []string) error {
	if err := operands(args, 0, 0, "whoami"); err != nil {
		return err
	}
	fmt.Fprintln(stdout, userName(os.Geteuid()))
	return nil
}

func id(args []string) error {
	o, rest, err := getopt(args, "ugGn")
	if err != nil {
		return err
	}
	if err := operands(rest, 0, 0, "id [-u|-g|-G] [-n]"); err != nil {
		return err
	}
	groups, err := os.Getgroups()
	if err != nil {
		return err
	}
	if len(groups) == 0 {
		groups = []int{os.Getegid()}
	}
	userText, groupText := strconv.Itoa, strconv.Itoa
	if o.has('n') {
		userText, groupText = userName, groupName
	}
	switch {
	case o.has('u'):
		fmt.Fprintln(stdout, userText(os.Geteuid()))
	case o.has('g'):
		fmt.Fprintln(stdout, groupText(os.Getegid()))
	case o.has('G'):
		var list []string
		for _, g := range groups {
			list = append(list, groupText(g))
		}
		fmt.Fprintln(stdout, strings.Join(list, " "))
	case o.has('n'):
		return usageError("option -n stands with -u, -g or -G")
	default:
		var list []string
		for _, g := range groups {
			list = append(list, withName(g, groupName(g)))
		}
		fmt.Fprintf(stdout, "uid=%s gid=%s groups=%s\n", withName(os.Geteuid(), userName(os.Geteuid())), withName(os.Getegid(), groupName(os.Getegid())), strings.Join(list, ","))
	}
	return nil
}

func withName(id int, name string) string {
	if name == strconv.Itoa(id) {
		return name
	}
	return fmt.Sprintf("%d(%s)", id, name)
}

func hostname(args []string) error {
	if err := operands(args, 0, 1, "hostname [NAME]"); err != nil {
		return err
	}
	if len(args) == 1 {
		return os.NewSyscallError("sethostname", unix.Sethostname([]byte(args[0])))
	}
	name, err := os.Hostname()
	if err == nil {
		fmt.Fprintln(stdout, name)
	}
	return err
}

func uname(args []string) error {
	o, rest, err := getopt(args, "asnrvm")
	if err != nil {
		return err
	}
	if err := operands(rest, 0, 0, "uname [-asnrvm]"); err != nil {
		return err
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return os.NewSyscallError("uname", err)
	}
	var words []string
	for _, field := range []struct {
		letter byte
		text   []byte
	}{{'s', u.Sysname[:]}, {'n', u.Nodename[:]}, {'r', u.Release[:]}, {'v', u.Version[:]}, {'m', u.Machine[:]}} {
		if o.has('a') || o.has(field.letter) || len(o) == 0 && field.letter == 's' {
			words = append(words, unix.ByteSliceToString(field.text))
		}
	}
	fmt.Fprintln(stdout, strings.Join(words, " "))
	return nil
}

// date prints the time, in UTC with -u, of -d @SECONDS, in a format of strftime.
func date(args []string) error {
	o, rest, err := getopt(args, "ud:")
	if err != nil {
		return err
	}
	format := "%a %b %e %H:%M:%S %Z %Y"
	if len(rest) == 1 && strings.HasPrefix(rest[0], "+") {
		format = rest[0][1:]
	} else if len(rest) > 0 {
		return usageError("usage: date [-u] [-d @SECONDS|RFC3339] [+FORMAT]")
	}
	now := time.Now()
	if o.has('d') {
		if seconds, ok := strings.CutPrefix(o['d'], "@"); ok {
			n, err := strconv.ParseInt(seconds, 10, 64)
			if err != nil {
				return usageError(fmt.Sprintf("%q is not a time", o['d']))
			}
			now = time.Unix(n, 0)
		} else if now, err = time.Parse(time.RFC3339, o['d']); err != nil {
			return usageError(fmt.Sprintf("%q is not a time", o['d']))
		}
	}
	if o.has('u') {
		now = now.UTC()
	}
	text, err := strftime(format, now)
	if err == nil {
		fmt.Fprintln(stdout, text)
	}
	return err
}

func strftime(format string, t time.Time) (string, error) {
	var b strings.Builder
	for i := 0; i < len(format); i++ {
		if format[i] != '%' || i+1 == len(format) {
			b.WriteByte(format[i])
			continue
		}
		i++
		layout := ""
		switch format[i] {
		case '%':
			b.WriteByte('%')
			continue
		case 'n':
			b.WriteByte('\n')
			continue
		case 's':
			fmt.Fprint(&b, t.Unix())
			continue
		case 'N':
			fmt.Fprintf(&b, "%09d", t.Nanosecond())
			continue
		case 'j':
			fmt.Fprintf(&b, "%03d", t.YearDay())
			continue
		case 'u':
			fmt.Fprint(&b, (int(t.Weekday())+6)%7+1)
			continue
		case 'Y':
			layout = "2006"
		case 'y':
			layout = "06"
		case 'm':
			layout = "01"
		case 'd':
			layout = "02"
		case 'e':
			layout = "_2"
		case 'H':
			layout = "15"
		case 'I':
			layout = "03"
		case 'M':
			layout = "04"
		case 'S':
			layout = "05"
		case 'p':
			layout = "PM"
		case 'a':
			layout = "Mon"
		case 'A':
			layout = "Monday"
		case 'b':
			layout = "Jan"
		case 'B':
			layout = "January"
		case 'Z':
			layout = "MST"
		case 'z':
			layout = "-0700"
		case 'F':
			layout = "2006-01-02"
		case 'T':
			layout = "15:04:05"
		case 'D':
			layout = "01/02/06"
		case 'R':
			layout = "15:04"
		default:
			return "", usageError(fmt.Sprintf("unknown format %%%c", format[i]))
		}
		b.WriteString(t.Format(layout))
	}
	return b.String(), nil
}

func tty(args []string) error {
	if err := operands(args, 0, 0, "tty"); err != nil {
		return err
	}
	if _, err := unix.IoctlGetTermios(0, unix.TCGETS); err != nil {
		fmt.Fprintln(stdout, "not a tty")
		return status(1)
	}
	name, err := os.Readlink("/proc/self/fd/0")
	if err == nil {
		fmt.Fprintln(stdout, name)
	}
	return err
}

func stty(args []string) error {
	if len(args) != 1 || args[0] != "size" {
		return usageError("usage: stty size")
	}
	size, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ)
	if err != nil {
		return os.NewSyscallError("ioctl", err)
	}
	fmt.Fprintf(stdout, "%d %d\n", size.Row, size.Col)
	return nil
}

// mountLine is a line of /proc/self/mounts (fstab(5)).
type mountLine struct{ source, target, kind, options string }

func readMounts() ([]mountLine, error) {
	file, err := os.Open("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	defer file.Close()
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	var list []mountLine
	scanner := bufio.NewScanner(file)
	scanner.Buffer(nil, 1<<20) // an overlay of many layers
	for scanner.Scan() {
		f := strings.Fields(scanner.Text())
		if len(f) >= 4 {
			list = append(list, mountLine{unescape.Replace(f[0]), unescape.Replace(f[1]), f[2], f[3]})
		}
	}
	return list, scanner.Err()
}

func mounts(args []string) error {
	if len(args) > 0 {
		return usageError("mount only lists here")
	}
	list, err := readMounts()
	for _, m := range list {
		fmt.Fprintf(stdout, "%s on %s type %s (%s)\n", m.source, m.target, m.kind, m.options)
	}
	return err
}

func df(args []string) error {
	o, paths, err := getopt(args, "hk")
	if err != nil {
		return err
	}
	list, err := readMounts()
	if err != nil {
		return err
	}
	if len(paths) > 0 {
		var wanted []mountLine
		for _, path := range paths {
			whole, err := resolveAll(path)
			if err != nil {
				return err
			}
			wanted = append(wanted, mountOf(list, whole))
		}
		list = wanted
	}
	show := func(blocks uint64, size int64) string {
		if o.has('h') {
			return human(blocks * uint64(size))
		}
		return strconv.FormatUint(blocks*uint64(size)/1024, 10)
	}
	fmt.Fprintf(stdout, "%-20s %10s %10s %10s %4s %s\n", "Filesystem", map[bool]string{true: "Size", false: "1K-blocks"}[o.has('h')], "Used", "Available", "Use%", "Mounted on")
	for _, m := range list {
		var st unix.Statfs_t
		if err := unix.Statfs(m.target, &st); err != nil || st.Blocks == 0 {
			continue // a file system of the kernel's own, or hidden from us
		}
		used := st.Blocks - st.Bfree
		percent := "-"
		if used+st.Bavail > 0 {
			percent = fmt.Sprintf("%d%%", (used*100+used+st.Bavail-1)/(used+st.Bavail))
		}
		fmt.Fprintf(stdout, "%-20s %10s %10s %10s %4s %s\n", m.source, show(st.Blocks, st.Frsize), show(used, st.Frsize), show(st.Bavail, st.Frsize), percent, m.target)
	}
	return nil
}

// mountOf returns the mount that a path lies on: the last of those with the longest target.
func mountOf(list []mountLine, path string) (best mountLine) {
	for _, m := range list {
		if m.target == "/" || path == m.target || strings.HasPrefix(path, m.target+"/") {
			if len(m.target) >= len(best.target) {
				best = m
			}
		}
	}
	return best
}

// human writes a number of bytes with three digits or so.
func human(n uint64) string {
	if n < 1024 {
		return strconv.FormatUint(n, 10)
	}
	value, unit := float64(n), -1
	for value >= 1024 && unit < 5 {
		value /= 1024
		unit++
	}
	if value < 10 {
		return fmt.Sprintf("%.1f%c", value, "KMGTPE"[unit])
	}
	return fmt.Sprintf("%.0f%c", value, "KMGTPE"[unit])
}

func free(args []string) error {
	o, rest, err := getopt(args, "hmk")
	if err != nil {
		return err
	}
	if err := operands(rest, 0, 0, "free [-h|-m|-k]"); err != nil {
		return err
	}
	file, err := os.Open("/proc/meminfo")
	if err != nil {
		return err
	}
	defer file.Close()
	values := map[string]uint64{}
	scanner := bufio.NewScanner(file)
	for scanner.Scan() {
		if f := strings.Fields(scanner.Text()); len(f) >= 2 {
			n, _ := strconv.ParseUint(f[1], 10, 64)
			values[strings.TrimSuffix(f[0], ":")] = n
		}
	}
	show := func(kib uint64) string {
		switch {
		case o.has('h'):
			return human(kib * 1024)
		case o.has('m'):
			return strconv.FormatUint(kib/1024, 10)
		}
		return strconv.FormatUint(kib, 10)
	}
	cache := values["Buffers"] + values["Cached"] + values["SReclaimable"]
	used := values["MemTotal"] - values["MemFree"] - min(cache, values["MemTotal"]-values["MemFree"])
	fmt.Fprintf(stdout, "%-6s%12s%12s%12s%12s%12s\n", "", "total", "used", "free", "buff/cache", "available")
	fmt.Fprintf(stdout, "%-6s%12s%12s%12s%12s%12s\n", "Mem:", show(values["MemTotal"]), show(used), show(values["MemFree"]), show(cache), show(values["MemAvailable"]))
	fmt.Fprintf(stdout, "%-6s%12s%12s%12s\n", "Swap:", show(values["SwapTotal"]), show(values["SwapTotal"]-values["SwapFree"]), show(values["SwapFree"]))
	return scanner.Err()
}

func nproc(args []string) error {
	if err := operands(args, 0, 0, "nproc"); err != nil {
		return err
	}
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return os.NewSyscallError("sched_getaffinity", err)
	}
	fmt.Fprintln(stdout, set.Count())
	return nil
}

// sortedNumbers returns the names in a directory that are numbers.
func sortedNumbers(dir string) ([]int, error) {
	entries, err := os.ReadDir(dir)
	var list []int
	for _, entry := range entries {
		if n, err := strconv.Atoi(entry.Name()); err == nil {
			list = append(list, n)
		}
	}
	sort.Ints(list)
	return list, err
}
