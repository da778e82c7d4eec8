package cli

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// The reference is made of the table, and so is never written by hand: `make reference`.
func TestTheReferenceIsCurrent(t *testing.T) {
	have, err := os.ReadFile("../../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != Reference() {
		t.Error("docs/cli.md is not what the table of commands says: make reference")
	}
}

func TestEveryCommandHasAnExampleThatTheTableReads(t *testing.T) {
	for _, cmd := range commands() {
		line, ours := strings.CutPrefix(cmd.example, "berth ")
		if !ours {
			if cmd.example == "" {
				t.Errorf("berth %s has no example", cmd.name)
			}
			continue
		}
		line, _, _ = strings.Cut(line, " | ") // into another program
		line, _, _ = strings.Cut(line, " > ")
		r, err := Read(strings.Fields(line))
		if err != nil || r.Command != cmd.name {
			t.Errorf("the example of berth %s is read as %q: %v", cmd.name, r.Command, err)
		}
	}
}

func TestNamesOfCommands(t *testing.T) {
	table := commands()
	taken := map[string]string{}
	for i := range table {
		cmd := &table[i]
		if group, _, inGroup := strings.Cut(cmd.name, " "); inGroup && groups[group] == "" {
			t.Errorf("berth %s: nothing says what the group is for", cmd.name)
		}
		for _, name := range cmd.names() {
			if other := taken[name]; other != "" {
				t.Errorf("berth %s is both %s and %s", name, other, cmd.name)
			}
			taken[name] = cmd.name
			found, rest, err := find(append(strings.Fields(name), "x"))
			if err != nil || found.name != cmd.name || !slices.Equal(rest, []string{"x"}) {
				t.Errorf("berth %s is not found as %s: %v", cmd.name, name, err)
			}
		}
	}
}

func TestNearest(t *testing.T) {
	table := commands()
	for in, want := range map[string]string{
		"rnu": "run", "imgaes": "images", "contaner ls": "container ls", "container strat": "container start", "netwrok": "network", "volum ls": "volume ls",
		"nonsense": "", "container nope": "", "x": "",
	} {
		if got := nearest(strings.Fields(in), table); got != want {
			t.Errorf("berth %s is nearest to %q, not %q", in, got, want)
		}
	}
}

func TestKindsOfArguments(t *testing.T) {
	for _, c := range []struct {
		words string // the last is the one that is completed
		want  kind
	}{
		{"run ?", kindImage},
		{"run box ?", kindCommand},
		{"exec ?", kindContainer},
		{"rm a ?", kindContainer},
		{"attach a ?", kindNothing},
		{"network connect ?", kindNetwork},
		{"network connect shop ?", kindContainer},
		{"volume create ?", kindNothing},
		{"volume rename data ?", kindNothing},
		{"runtime kill ?", kindNothing},
		{"cp ?", kindPath},
		{"inspect ?", kindAny},
		{"pull ?", kindImage},
		{"context import far ?", kindFile},
		{"run --volumes-from ?", kindContainer},
		{"run --rm -itv ?", kindFile},
		{"--context ?", kindContext},
		{"-D network rm ?", kindNetwork},
	} {
		if got := suggest(strings.Fields(c.words), commands()); got.names != c.want {
			t.Errorf("berth %s: the last word is of the kind %q, not %q", c.words, got.names, c.want)
		}
	}
}
