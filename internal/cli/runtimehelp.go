package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// By another runtime's name the program's help is in that one's form, as scripts look for it.

// noTopic is runc's exit status for a command that it does not know.
const noTopic = 3

// runtimeCommand finds a command of `berth runtime` by its last word.
func runtimeCommand(verb string) (*command, bool) {
	table := commands()
	i := slices.IndexFunc(table, func(c command) bool { return c.name == "runtime "+verb })
	if i < 0 {
		return nil, false
	}
	return &table[i], true
}

// runtimeHelp prints what commands there are, or one's page.
func (c *call) runtimeHelp(topic []string) error {
	if c.runtimeName == "" {
		return c.help(append([]string{"runtime"}, topic...))
	}
	if len(topic) == 0 {
		_, err := io.WriteString(c.out, c.runtimeOverview())
		return err
	}
	cmd, known := runtimeCommand(topic[0])
	if !known {
		return &usageError{fmt.Sprintf("No help topic for '%s'", visible(topic[0])), "", noTopic}
	}
	return c.printCommand(cmd)
}

// called is what a command is called by.
func (c *call) called(cmd *command) string {
	if c.runtimeName != "" && cmd.runtime() {
		return c.runtimeName + " " + cmd.verb()
	}
	return "berth " + cmd.display()
}

// badCount says how many arguments a command takes.
func (c *call) badCount(cmd *command) string {
	if c.runtimeName == "" || !cmd.runtime() {
		return "'berth " + cmd.display() + "' " + expected(cmd)
	}
	n, how := cmd.least, "exactly"
	switch {
	case cmd.most < 0 || len(c.args) < cmd.least && cmd.least < cmd.most:
		how = "a minimum of"
	case cmd.least < cmd.most:
		n, how = cmd.most, "a maximum of"
	}
	return fmt.Sprintf("%q requires %s %d argument(s)", cmd.verb(), how, n)
}

func (c *command) verb() string { return strings.TrimPrefix(c.name, "runtime ") }

// printCommand prints the page of a command.
func (c *call) printCommand(cmd *command) error {
	if c.runtimeName == "" || !cmd.runtime() {
		return printCommand(c.out, cmd)
	}
	var b strings.Builder
	flags := cmd.flagList()
	if c.runtimeName == "crun" {
		fmt.Fprintf(&b, "Usage: crun [OPTION...] %s [OPTION]... %s\n%s\n\n", cmd.verb(), cmd.args, cmd.short)
		printFlags(&b, flags)
		_, err := io.WriteString(c.out, b.String())
		return err
	}
	fmt.Fprintf(&b, "NAME:\n   %s - %s\n\nUSAGE:\n   %s %s\n", c.called(cmd), cmd.short, c.called(cmd), cmd.usageArgs())
	if len(flags) > 0 {
		b.WriteString("\nOPTIONS:\n")
		printFlags(&b, flags)
	}
	_, err := io.WriteString(c.out, b.String())
	return err
}

func (c *call) runtimeOverview() string {
	var b strings.Builder
	if c.runtimeName == "crun" {
		fmt.Fprintf(&b, "Usage: crun [OPTION...] COMMAND [OPTION...]\n\nCOMMANDS:\n")
	} else {
		fmt.Fprintf(&b, "NAME:\n   %s - Open Container Initiative runtime\n\nUSAGE:\n   %s [global options] command [command options] [arguments...]\n\nCOMMANDS:\n", c.runtimeName, c.runtimeName)
	}
	for _, e := range members("runtime", commands()) {
		fmt.Fprintf(&b, "   %-9s %s\n", e.name, e.short)
	}
	b.WriteString("\nGLOBAL OPTIONS:\n")
	printFlags(&b, runtimeGlobals)
	b.WriteString("\nThis is berth: `berth help` says what else it does.\n")
	return b.String()
}
