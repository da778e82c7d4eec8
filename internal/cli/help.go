package cli

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// commonCommands are docker's "Common Commands" in docker's order; those that are in the table are shown as such.
var commonCommands = []string{"run", "exec", "ps", "build", "pull", "push", "images", "login", "logout", "search", "version", "info"}

// entry is a line of a list in help.
type entry struct{ name, short string }

// sections are the lists of the overview: docker's three.
func sections(table []command) (common, management, others []entry) {
	byName := map[string]string{}
	inGroups := map[string]bool{}
	for i := range table {
		cmd := &table[i]
		group, _, inGroup := strings.Cut(cmd.name, " ")
		switch {
		case cmd.hidden:
			continue
		case cmd.alias != "":
			byName[cmd.alias] = cmd.short
		case !inGroup:
			byName[cmd.name] = cmd.short
		}
		if inGroup {
			inGroups[group] = true
		}
	}
	for _, name := range commonCommands {
		if short, has := byName[name]; has {
			common = append(common, entry{name, short})
			delete(byName, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(inGroups)) {
		management = append(management, entry{name, groups[name]})
	}
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		others = append(others, entry{name, byName[name]})
	}
	return common, management, others
}

// members are the commands of a group by their last words.
func members(group string, table []command) []entry {
	var all []entry
	for i := range table {
		cmd := &table[i]
		if cmd.hidden {
			continue
		}
		for _, name := range cmd.names() {
			if verb, ok := strings.CutPrefix(name, group+" "); ok {
				all = append(all, entry{verb, cmd.short}) // the first: others are words for the same
				break
			}
		}
	}
	slices.SortFunc(all, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	return all
}

// help prints the overview, a group's commands or one command's page.
func (c *call) help(args []string) error {
	if len(args) == 0 {
		return printOverview(c.out)
	}
	cmd, _, err := find(args)
	switch {
	case err != nil:
		return err
	case cmd != nil:
		return printCommand(c.out, cmd)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "Usage:  berth %s COMMAND\n\n%s\n", args[0], groups[args[0]])
	printEntries(&b, "Commands", members(args[0], commands()))
	fmt.Fprintf(&b, "\nRun 'berth %s COMMAND --help' for more information on a command.\n", args[0])
	_, err = io.WriteString(c.out, b.String())
	return err
}

// what is what berth is, in a line.
const what = "berth builds, ships and runs containers, without a daemon and without root."

func printOverview(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Usage:  berth [OPTIONS] COMMAND\n\n%s\n", what)
	common, management, others := sections(commands())
	printEntries(&b, "Common Commands", common)
	printEntries(&b, "Management Commands", management)
	printEntries(&b, "Commands", others)
	b.WriteString("\nGlobal Options:\n")
	printFlags(&b, globalFlags())
	b.WriteString("\nRun 'berth COMMAND --help' for more information on a command.\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func printEntries(b *strings.Builder, title string, all []entry) {
	width := 10
	for _, e := range all {
		width = max(width, len(e.name))
	}
	fmt.Fprintf(b, "\n%s:\n", title)
	for _, e := range all {
		fmt.Fprintf(b, "  %-*s  %s\n", width, e.name, e.short)
	}
}

func printFlags(b *strings.Builder, flags []flag) {
	width := 0
	for _, f := range flags {
		width = max(width, len(f.name)+len(f.kind)+1)
	}
	for _, f := range flags {
		short := "    "
		if f.short != "" {
			short = "-" + f.short + ", "
		}
		fmt.Fprintf(b, "  %s--%-*s  %s\n", short, width, strings.TrimSpace(f.name+" "+f.kind), f.help)
	}
}

func printCommand(w io.Writer, cmd *command) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Usage:  %s\n\n%s\n", cmd.usageLine(), cmd.short)
	if names := cmd.names(); len(names) > 1 {
		fmt.Fprintf(&b, "\nAliases:\n  berth %s\n", strings.Join(names, ", berth "))
	}
	if cmd.example != "" {
		fmt.Fprintf(&b, "\nExample:\n  %s\n", cmd.example)
	}
	if len(cmd.flagList()) > 0 {
		b.WriteString("\nOptions:\n")
		printFlags(&b, cmd.flagList())
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (c *command) usageLine() string {
	return strings.TrimSpace("berth " + c.display() + " " + c.usageArgs())
}
