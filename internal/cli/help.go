package cli

import (
	"fmt"
	"io"
	"strings"

	"berth/internal/settings"
)

// help prints the overview, a group's commands or one command's page.
func (c *call) help(args []string) error {
	if len(args) > 1 {
		cmd, _, err := find(args[1:])
		if err != nil {
			return err
		}
		if cmd != nil {
			printCommand(c.out, cmd)
			return nil
		}
		fmt.Fprintf(c.out, "Usage:  berth %s COMMAND\n\nCommands:\n", args[1])
		for _, cmd := range commands() {
			if rest, ok := strings.CutPrefix(cmd.name, args[1]+" "); ok && !cmd.hidden {
				fmt.Fprintf(c.out, "  %-12s %s\n", rest, cmd.short)
			}
		}
		return nil
	}
	fmt.Fprint(c.out, "Usage:  berth [OPTIONS] COMMAND\n\nberth builds, ships and runs containers, without a daemon and without root.\n\nCommands:\n")
	for _, cmd := range commands() {
		if cmd.hidden {
			continue
		}
		name := cmd.name
		if cmd.alias != "" {
			name = cmd.alias
		}
		fmt.Fprintf(c.out, "  %-14s %s\n", name, cmd.short)
	}
	fmt.Fprint(c.out, "\nGlobal options:\n")
	for _, k := range settings.Keys {
		fmt.Fprintf(c.out, "      --%-18s %s (%s)\n", k.Name+" string", k.Help, k.Env)
	}
	fmt.Fprint(c.out, "\nRun 'berth COMMAND --help' for more information on a command.\n")
	return nil
}

func printCommand(w io.Writer, cmd *command) {
	fmt.Fprintf(w, "Usage:  berth %s %s\n\n%s\n", cmd.display(), cmd.usageArgs(), cmd.short)
	if cmd.alias != "" {
		fmt.Fprintf(w, "\nAliases:\n  berth %s, berth %s\n", cmd.name, cmd.alias)
	}
	if cmd.example != "" {
		fmt.Fprintf(w, "\nExample:\n  %s\n", cmd.example)
	}
	if len(cmd.flags) == 0 {
		return
	}
	fmt.Fprint(w, "\nOptions:\n")
	width := 0
	for _, f := range cmd.flags {
		width = max(width, len(f.name)+len(f.kind)+1)
	}
	for _, f := range cmd.flags {
		short := "    "
		if f.short != "" {
			short = "-" + f.short + ", "
		}
		fmt.Fprintf(w, "  %s--%-*s  %s\n", short, width, strings.TrimSpace(f.name+" "+f.kind), f.help)
	}
}
