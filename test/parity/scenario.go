package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// scenario is a short story: commands that are carried out one after the other, by an engine that has nothing but the images.
type scenario struct {
	File, Title string
	Steps       []step
	// Everywhere are differences that every step of the scenario's file may have.
	Everywhere []allowance
}

// key names the scenario's commands: answers to it are answers to no other.
func (s scenario) key() string {
	commands := []string{s.Title}
	for _, step := range s.Steps {
		commands = append(commands, step.Command)
	}
	return strings.Join(commands, "\n")
}

// step is a line for a shell in which `docker` is the engine, and the differences that it may have.
type step struct {
	Line    int
	Command string
	Allowed []allowance
}

// allowance is a difference that is meant, with its reason. Berth has what is printed there, so that the text is a test, too.
type allowance struct {
	What   string // stdout, stderr, exit, or json PATH
	Reason string
	Berth  []string // normalised lines of berth's; of json, none
	Exit   int      // berth's, of exit
}

// readScenarios reads the files of a directory. In a file, `# TITLE` begins a scenario, `$ COMMAND` is a step, and `~` says how berth's
// answer to the step before it differs, and why:
//
//	~ stdout REASON        what berth prints follows, normalised, each line after `| `
//	~ stderr REASON        likewise
//	~ exit NUMBER REASON   berth exits so
//	~ json PATH REASON     what is at that path of JSON that is printed; `*` is any one name or index
//
// Before the first scenario, `~` holds for the whole file. A line that begins with `;` is a remark.
func readScenarios(dir string) ([]scenario, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.txt"))
	if err != nil || len(paths) == 0 {
		return nil, fmt.Errorf("no scenarios in %s: %w", dir, err)
	}
	var all []scenario
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		some, err := readScenarioFile(filepath.Base(path), bufio.NewScanner(f))
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		all = append(all, some...)
	}
	return all, nil
}

func readScenarioFile(name string, lines *bufio.Scanner) ([]scenario, error) {
	var all []scenario
	var everywhere []allowance
	var last *[]allowance // those to which a line of berth's belongs
	for n := 1; lines.Scan(); n++ {
		line := lines.Text()
		mark, rest, _ := strings.Cut(line, " ")
		switch {
		case strings.TrimSpace(line) == "" || strings.HasPrefix(line, ";"):
		case mark == "#":
			all = append(all, scenario{File: name, Title: rest, Everywhere: everywhere})
		case mark == "$" && len(all) > 0:
			s := &all[len(all)-1]
			s.Steps = append(s.Steps, step{Line: n, Command: rest})
		case mark == "~":
			a, err := readAllowance(rest)
			if err != nil {
				return nil, fmt.Errorf("line %d: %w", n, err)
			}
			last = &everywhere
			if len(all) > 0 {
				steps := all[len(all)-1].Steps
				if len(steps) == 0 {
					return nil, fmt.Errorf("line %d: a difference of no command", n)
				}
				last = &steps[len(steps)-1].Allowed
			}
			*last = append(*last, a)
		case mark == "|" && last != nil && len(*last) > 0:
			a := &(*last)[len(*last)-1]
			a.Berth = append(a.Berth, rest)
		default:
			return nil, fmt.Errorf("line %d: %q is neither a title, a command nor a difference", n, line)
		}
	}
	return all, lines.Err()
}

func readAllowance(text string) (a allowance, err error) {
	what, rest, _ := strings.Cut(text, " ")
	a.What, a.Reason = what, rest
	switch what {
	case "stdout", "stderr":
	case "exit":
		_, err = fmt.Sscan(rest, &a.Exit)
		_, a.Reason, _ = strings.Cut(rest, " ")
	case "json":
		var path string
		path, a.Reason, _ = strings.Cut(rest, " ")
		a.What += " " + path
	default:
		err = fmt.Errorf("%q is none of stdout, stderr, exit and json", what)
	}
	if err == nil && strings.TrimSpace(a.Reason) == "" {
		err = fmt.Errorf("%q has no reason", text)
	}
	return a, err
}
