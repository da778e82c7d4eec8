package main

import (
	"slices"
	"strings"

	"berth/internal/cli"
)

// uses are the commands that scripts use, each with its flags; the flag "" is the command itself.
type uses map[string]map[string]bool

func (u uses) has(command, flag string) bool { return u[command][flag] }

func (u uses) note(command, flag string) {
	if u[command] == nil {
		u[command] = map[string]bool{}
	}
	u[command][flag] = true
}

// script notes what a testscript uses.
func (u uses) script(text string) {
	var failing []cli.Reading // of the last command, which was to fail
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "-- ") {
			return // the script's files
		}
		words := words(line)
		for len(words) > 0 && strings.HasPrefix(words[0], "[") {
			words = words[1:]
		}
		fails := len(words) > 0 && words[0] == "!"
		if fails {
			words = words[1:]
		}
		if len(words) == 0 {
			continue
		}
		var args []string
		switch words[0] {
		case "stderr", "stdout":
			for _, r := range failing {
				for _, f := range r.Flags {
					if !fails && strings.Contains(line, f) {
						u.note(r.Command, f)
					}
				}
			}
			continue
		case "exec":
			args = words[1:]
		case "exitcode":
			if len(words) < 3 {
				continue
			}
			// A container's own status is no failure of berth's.
			fails, args = slices.Contains([]string{"1", "125", "126", "127"}, words[1]), words[2:]
		case "eventually":
			if len(words) < 3 {
				continue
			}
			args = words[2:]
		default:
			continue
		}
		failing = nil
		for _, r := range readings(args) {
			if fails {
				failing = append(failing, r)
				continue
			}
			u.note(r.Command, "")
			for _, f := range r.Flags {
				u.note(r.Command, f)
			}
		}
	}
}

// readings are the uses of berth in a command: the command itself, or those in a shell's.
func readings(args []string) []cli.Reading {
	args = slices.DeleteFunc(slices.Clone(args), func(s string) bool { return s == "&" || strings.HasPrefix(s, "&") && strings.HasSuffix(s, "&") })
	if len(args) == 0 {
		return nil
	}
	if args[0] == "berth" {
		if r, err := cli.Read(args[1:]); err == nil {
			return []cli.Reading{r}
		}
		return nil
	}
	var all []cli.Reading
	for i, arg := range args {
		// What a shell is given, or is typed into one: tmux send-keys 'berth …'.
		if i > 0 && (args[i-1] == "-c" || strings.HasPrefix(arg, "berth ")) {
			for _, command := range shellCommands(arg) {
				all = append(all, readings(command)...)
			}
		}
	}
	return all
}

// words splits a line as testscript does: single quotes hold a word together, two of them within are one; # begins a comment.
func words(line string) []string {
	var all []string
	var word strings.Builder
	quoted, inWord := false, false
	for i := 0; i < len(line); i++ {
		c := line[i]
		switch {
		case c == '\'' && quoted && i+1 < len(line) && line[i+1] == '\'':
			word.WriteByte('\'')
			i++
		case c == '\'':
			quoted, inWord = !quoted, true
		case !quoted && (c == ' ' || c == '\t' || c == '\r' || c == '\n' || c == '#' && !inWord):
			if inWord {
				all = append(all, word.String())
				word.Reset()
				inWord = false
			}
			if c == '#' {
				return all
			}
		default:
			word.WriteByte(c)
			inWord = true
		}
	}
	if inWord {
		all = append(all, word.String())
	}
	return all
}

// shellCommands splits a shell's line into its simple commands, without redirections and variables before them.
func shellCommands(line string) [][]string {
	var all [][]string
	var command []string
	var word strings.Builder
	inWord := false
	quote := byte(0)
	endWord := func() {
		if inWord {
			command = append(command, word.String())
		}
		word.Reset()
		inWord = false
	}
	endCommand := func() {
		endWord()
		for len(command) > 0 && (strings.Contains(command[0], "=") || slices.Contains([]string{"if", "then", "do", "while", "until", "!", "exec", "time", "{"}, command[0])) {
			command = command[1:]
		}
		if i := slices.IndexFunc(command, func(s string) bool {
			return strings.ContainsAny(s[:min(1, len(s))], "<>") || s == "2>&1" || strings.HasPrefix(s, "2>")
		}); i >= 0 {
			command = command[:i]
		}
		if len(command) > 0 {
			all = append(all, command)
		}
		command = nil
	}
	for i := 0; i < len(line); i++ {
		c := line[i]
		switch {
		case quote != 0 && c == quote:
			quote = 0
		case quote == 0 && (c == '\'' || c == '"'):
			quote, inWord = c, true
		case quote != '\'' && c == '\\' && i+1 < len(line):
			i++
			word.WriteByte(line[i])
			inWord = true
		case quote == 0 && (c == ' ' || c == '\t'):
			endWord()
		case quote == 0 && strings.IndexByte("|;\n()`", c) >= 0, quote == 0 && c == '&' && (i == 0 || line[i-1] != '>'):
			if strings.HasSuffix(word.String(), "$") { // $(
				word.Reset()
				inWord = false
			}
			endCommand()
		default:
			word.WriteByte(c)
			inWord = true
		}
	}
	endCommand()
	return all
}
