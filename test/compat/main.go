// Command compat counts what of docker's command line berth has, and what of it a test has seen.
//
// A command or flag exists if berth's table has it, with docker's letter, and with a value where docker's has one. It is seen if
// a script in internal/cli/testdata/script uses it in a command line that berth's own table reads, and that succeeds; in one
// that fails it is seen only if the script then looks for the flag's name in what was said about it, as for a flag that cannot
// mean anything here. What a script looks at afterwards nobody can count: that it is the effect is for review.
//
// The floor is what was reached once. Less is a failure; -record raises it.
package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"berth/internal/cli"
)

func main() {
	list := flag.String("list", "", "docker's commands and flags")
	scripts := flag.String("scripts", "internal/cli/testdata/script", "directory of scripts")
	floor := flag.String("floor", "test/compat/floor.txt", "what must be reached")
	record := flag.Bool("record", false, "raise the floor to what is reached now")
	verbose := flag.Bool("v", false, "name what is missing and what no script has seen")
	flag.Parse()
	if err := run(*list, *scripts, *floor, *record, *verbose); err != nil {
		fmt.Fprintln(os.Stderr, "compat:", err)
		os.Exit(1)
	}
}

func run(list, scripts, floor string, record, verbose bool) error {
	f, err := os.Open(list)
	if errors.Is(err, fs.ErrNotExist) {
		fmt.Printf("not counted: there is no %s here\n", list)
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	wanted, err := readList(bufio.NewScanner(f))
	if err != nil {
		return err
	}
	seen := uses{}
	paths, err := filepath.Glob(filepath.Join(scripts, "*.txt"))
	if err != nil || len(paths) == 0 {
		return fmt.Errorf("no scripts in %s: %w", scripts, err)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		seen.script(string(text))
	}
	shares := make([]share, len(wanted))
	for i, w := range wanted {
		shares[i] = count(w, seen)
	}
	print(shares, verbose)
	floors, err := readFloor(floor)
	if err != nil {
		return err
	}
	if record {
		return writeFloor(floor, shares, floors)
	}
	return below(shares, floors)
}

// dockers is a command of docker's.
type dockers struct {
	name  string
	flags []dockersFlag
}

type dockersFlag struct {
	name, letter string
	takesValue   bool
}

// readList reads blocks of a command, `NAME | ARGUMENTS`, and its flags, `-f --flag kind`, one a line, indented.
func readList(lines *bufio.Scanner) ([]dockers, error) {
	var all []dockers
	for lines.Scan() {
		line := lines.Text()
		words := strings.Fields(line)
		switch {
		case len(words) == 0 || words[0] == "#" || strings.HasPrefix(line, "#"):
		case !strings.HasPrefix(line, " "):
			name, _, ok := strings.Cut(line, "|")
			if !ok {
				return nil, fmt.Errorf("%q is no command", line)
			}
			all = append(all, dockers{name: strings.TrimSpace(name)})
		case len(all) == 0:
			return nil, fmt.Errorf("%q is of no command", line)
		default:
			var f dockersFlag
			if !strings.HasPrefix(words[0], "--") {
				f.letter, words = strings.TrimPrefix(words[0], "-"), words[1:]
			}
			if len(words) == 0 || !strings.HasPrefix(words[0], "--") {
				return nil, fmt.Errorf("%q is no flag", line)
			}
			f.name, f.takesValue = strings.TrimPrefix(words[0], "--"), len(words) > 1
			of := &all[len(all)-1]
			of.flags = append(of.flags, f)
		}
	}
	return all, lines.Err()
}

// share is how much of a command there is; the command itself counts as one, as each of its flags.
type share struct {
	name                 string
	all, exist, seen     int
	missing, unseenNames []string
}

func count(w dockers, seen uses) share {
	s := share{name: w.name, all: 1 + len(w.flags)}
	r, err := cli.Read(strings.Fields(w.name))
	if err != nil {
		s.missing = []string{"all"}
		return s
	}
	s.exist = 1
	if seen.has(r.Command, "") {
		s.seen = 1
	} else {
		s.unseenNames = append(s.unseenNames, "the command")
	}
	for _, f := range w.flags {
		has, value := cli.HasFlag(r.Command, f.name, f.letter)
		switch {
		case !has || value != f.takesValue:
			s.missing = append(s.missing, "--"+f.name)
			continue
		case seen.has(r.Command, f.name):
			s.seen++
		default:
			s.unseenNames = append(s.unseenNames, "--"+f.name)
		}
		s.exist++
	}
	return s
}

func print(shares []share, verbose bool) {
	sum := share{name: "in all"}
	fmt.Printf("%-22s %12s %12s\n", "", "exist", "seen")
	line := func(s share) {
		fmt.Printf("%-22s %4d of %4d %4d of %4d  %3d %%\n", s.name, s.exist, s.all, s.seen, s.all, 100*s.seen/s.all)
	}
	for _, s := range shares {
		line(s)
		if verbose && len(s.missing) > 0 {
			fmt.Println("    missing:", strings.Join(s.missing, " "))
		}
		if verbose && len(s.unseenNames) > 0 {
			fmt.Println("    unseen:", strings.Join(s.unseenNames, " "))
		}
		sum.all, sum.exist, sum.seen = sum.all+s.all, sum.exist+s.exist, sum.seen+s.seen
	}
	line(sum)
}

// readFloor reads lines `EXIST SEEN COMMAND`. A file that is not there demands nothing.
func readFloor(path string) (map[string]share, error) {
	floors := map[string]share{}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return floors, nil
	}
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		var s share
		if _, err := fmt.Sscan(line, &s.exist, &s.seen); err != nil {
			return nil, fmt.Errorf("%s: %q: %w", path, line, err)
		}
		s.name = strings.Join(strings.Fields(line)[2:], " ")
		floors[s.name] = s
	}
	return floors, err
}

func writeFloor(path string, shares []share, floors map[string]share) error {
	var b strings.Builder
	b.WriteString("# Of each command of docker's: how much exists, and how much tests have seen (see main.go). It only rises: make compat COMPAT=-record\n")
	for _, s := range shares {
		f := floors[s.name]
		fmt.Fprintf(&b, "%d %d %s\n", max(s.exist, f.exist), max(s.seen, f.seen), s.name)
	}
	return os.WriteFile(path, []byte(b.String()), 0o644)
}

func below(shares []share, floors map[string]share) error {
	var errs []error
	for _, s := range shares {
		f := floors[s.name]
		if s.exist < f.exist || s.seen < f.seen {
			errs = append(errs, fmt.Errorf("%s: %d exist and %d are seen; it was %d and %d", s.name, s.exist, s.seen, f.exist, f.seen))
		}
		delete(floors, s.name)
	}
	for name := range floors {
		errs = append(errs, fmt.Errorf("%s has a floor, and the list has no such command", name))
	}
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(errs...)
}
