package cli

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Reference is docs/cli.md: all commands and flags of the table.
func Reference() string {
	var b strings.Builder
	b.WriteString("# Commands\n\nEvery command and flag, from the table in internal/cli by `make reference`. `berth COMMAND --help` prints the same, and `make man` makes manual pages of it.\n")
	table := commands()
	common, management, others := sections(table)
	for _, s := range []struct {
		title string
		all   []entry
	}{{"Common commands", common}, {"Groups", management}, {"Other commands", others}} {
		fmt.Fprintf(&b, "\n## %s\n\n| | |\n| --- | --- |\n", s.title)
		for _, e := range s.all {
			fmt.Fprintf(&b, "| [%s](#%s) | %s |\n", e.name, anchor(e.name, table), cell(e.short))
		}
	}
	b.WriteString("\n## Global options\n\nThey stand before the command.\n")
	referenceFlags(&b, globalFlags())
	for _, group := range append([]string{""}, slices.Sorted(maps.Keys(groups))...) {
		mine := slices.DeleteFunc(slices.Clone(table), func(c command) bool {
			of, _, inGroup := strings.Cut(c.name, " ")
			return c.hidden || inGroup && of != group || !inGroup && group != ""
		})
		if len(mine) == 0 {
			continue
		}
		if group == "" {
			b.WriteString("\n## At the top\n")
		} else {
			fmt.Fprintf(&b, "\n## %s\n\n%s.\n", group, groups[group])
		}
		slices.SortFunc(mine, func(a, b command) int { return strings.Compare(a.name, b.name) })
		for i := range mine {
			referenceCommand(&b, &mine[i])
		}
	}
	return b.String()
}

// anchor is the heading of a command or group in the reference, as a link names it.
func anchor(name string, table []command) string {
	for i := range table {
		if table[i].alias == name {
			name = table[i].name
		}
	}
	return strings.ReplaceAll(name, " ", "-")
}

func referenceCommand(b *strings.Builder, cmd *command) {
	fmt.Fprintf(b, "\n### %s\n\n%s.\n\n    %s\n", cmd.name, strings.TrimSuffix(cmd.short, "."), cmd.usageLine())
	if names := cmd.names(); len(names) > 1 {
		fmt.Fprintf(b, "\nAlso: `%s`.\n", strings.Join(names[1:], "`, `"))
	}
	fmt.Fprintf(b, "\nExample: `%s`\n", cmd.example)
	if len(cmd.flagList()) > 0 {
		referenceFlags(b, cmd.flagList())
	}
}

func referenceFlags(b *strings.Builder, flags []flag) {
	b.WriteString("\n| flag | value | |\n| --- | --- | --- |\n")
	for _, f := range flags {
		name := "`--" + f.name + "`"
		if f.short != "" {
			name = "`-" + f.short + "`, " + name
		}
		fmt.Fprintf(b, "| %s | %s | %s |\n", name, f.kind, cell(f.help))
	}
}

func cell(s string) string {
	return strings.NewReplacer("|", `\|`, "<", "&lt;", "*", `\*`).Replace(s)
}

// ManualPages are the manual pages by their files' names: berth.1, one for each command, and for each of its other names one
// that refers to it.
func ManualPages() map[string]string {
	pages := map[string]string{"berth.1": overviewPage()}
	table := commands()
	for i := range table {
		cmd := &table[i]
		if cmd.hidden {
			continue
		}
		page := pageName(cmd.name)
		for _, name := range cmd.names() {
			pages[pageName(name)] = ".so man1/" + page + "\n"
		}
		pages[page] = commandPage(cmd)
	}
	return pages
}

func pageName(command string) string {
	return "berth-" + strings.ReplaceAll(command, " ", "-") + ".1"
}

func overviewPage() string {
	var b strings.Builder
	head(&b, "berth", what)
	b.WriteString(".SH SYNOPSIS\n\\fBberth\\fR [OPTIONS] COMMAND\n.SH DESCRIPTION\n" + roff(what) + "\nIts commands and flags are docker's.\n")
	common, management, others := sections(commands())
	for _, s := range []struct {
		title string
		all   []entry
	}{{"COMMON COMMANDS", common}, {"MANAGEMENT COMMANDS", management}, {"COMMANDS", others}} {
		fmt.Fprintf(&b, ".SH %s\n", s.title)
		for _, e := range s.all {
			fmt.Fprintf(&b, ".TP\n\\fBberth %s\\fR\n%s\n", roff(e.name), roff(e.short))
			if s.title == "MANAGEMENT COMMANDS" {
				var verbs []string
				for _, m := range members(e.name, commands()) {
					verbs = append(verbs, roff(m.name))
				}
				fmt.Fprintf(&b, ".br\n%s\n", strings.Join(verbs, ", "))
			}
		}
	}
	b.WriteString(".SH GLOBAL OPTIONS\n")
	pageFlags(&b, globalFlags())
	return b.String()
}

func commandPage(cmd *command) string {
	var b strings.Builder
	head(&b, "berth-"+strings.ReplaceAll(cmd.name, " ", "-"), cmd.short)
	fmt.Fprintf(&b, ".SH SYNOPSIS\n\\fBberth %s\\fR %s\n", roff(cmd.display()), roff(cmd.usageArgs()))
	if names := cmd.names(); len(names) > 1 {
		b.WriteString(".SH ALIASES\n")
		for _, name := range names {
			fmt.Fprintf(&b, "\\fBberth %s\\fR\n.br\n", roff(name))
		}
	}
	if len(cmd.flagList()) > 0 {
		b.WriteString(".SH OPTIONS\n")
		pageFlags(&b, cmd.flagList())
	}
	fmt.Fprintf(&b, ".SH EXAMPLE\n.nf\n%s\n.fi\n.SH SEE ALSO\n\\fBberth\\fR(1)\n", roff(cmd.example))
	return b.String()
}

func head(b *strings.Builder, name, short string) {
	fmt.Fprintf(b, ".TH \"%s\" 1 \"\" \"berth %s\"\n.SH NAME\n%s \\- %s\n", strings.ToUpper(roff(name)), roff(Version), roff(name), roff(short))
}

func pageFlags(b *strings.Builder, flags []flag) {
	for _, f := range flags {
		b.WriteString(".TP\n")
		if f.short != "" {
			fmt.Fprintf(b, "\\fB\\-%s\\fR, ", f.short)
		}
		fmt.Fprintf(b, "\\fB\\-\\-%s\\fR", roff(f.name))
		if f.kind != "" {
			fmt.Fprintf(b, " \\fI%s\\fR", roff(f.kind))
		}
		fmt.Fprintf(b, "\n%s\n", roff(f.help))
	}
}

// roff is text as it stands in a manual page.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`, "`", `\(ga`).Replace(s)
	if strings.HasPrefix(s, ".") {
		s = `\&` + s
	}
	return s
}
