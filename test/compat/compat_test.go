package main

import (
	"bufio"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestWhatAScriptUses(t *testing.T) {
	for _, c := range []struct {
		summary, script, command, flag string
		want                           bool
	}{
		{"A flag of a command that succeeds", "exec berth run --rm -m 1g box true", "container run", "memory", true},
		{"A letter among others", "exec berth ps -aq", "container ls", "quiet", true},
		{"After a condition, in the background", "[root] exec berth logs -f aa &logs&", "container logs", "follow", true},
		{"A flag of the container's command is none of berth's", "exec berth run box ls --all", "container run", "all", false},
		{"Another command's flag", "exec berth run --rm box", "container create", "rm", false},
		{"A command that fails proves nothing", "! exec berth run -m 1g box", "container run", "memory", false},
		{"Nor does it by its status", "exitcode 125 berth run -m x box\nstderr 'no size'", "container run", "memory", false},
		{"But for what is said of the flag", "exitcode 1 berth network create --attachable x\nstderr 'attachable'", "network create", "attachable", true},
		{"Which must be said of that command", "exitcode 1 berth network create --attachable x\nexec true\nstderr 'attachable'", "network create", "attachable", false},
		{"A container's own status is no failure", "exitcode 3 berth run --rm box sh -c 'exit 3'", "container run", "rm", true},
		{"In a shell's line", "exec sh -c 'cat x | berth load -q >y; berth images -a'", "image load", "quiet", true},
		{"Behind it in that line", "exec sh -c 'cat x | berth load -q >y; berth images -a'", "image ls", "all", true},
		{"In a substitution", `exec sh -c 'echo "x" $(berth ps --no-trunc)'`, "container ls", "no-trunc", true},
		{"Typed into a terminal", "exec tmux send-keys 'berth attach --detach-keys a,b aa' Enter", "container attach", "detach-keys", true},
		{"A comment is no use", "# exec berth ps -a", "container ls", "all", false},
		{"A file of the script is no use", "-- x --\nexec berth ps -a", "container ls", "all", false},
	} {
		u := uses{}
		u.script(c.script)
		if got := u.has(c.command, c.flag); got != c.want {
			t.Errorf("%s: %q: seen is %v", c.summary, c.script, got)
		}
	}
}

func TestCount(t *testing.T) {
	list, err := readList(bufio.NewScanner(strings.NewReader("# facts\nbuilder nonsense | PATH\n    --x\n\ncontainer ls |\n    -a --all\n    -f --filter\n    -x --quiet\n    -s --size\n\ncontainer ps |\n")))
	if err != nil || len(list) != 3 {
		t.Fatalf("%v, %v", list, err)
	}
	u := uses{}
	u.script("exec berth ps -a")
	if s := count(list[0], u); s.exist != 0 || s.seen != 0 || s.all != 2 {
		t.Errorf("a command that is not there: %+v", s)
	}
	// --filter takes a value, --quiet has another letter.
	if s := count(list[1], u); s.exist != 3 || s.seen != 2 || !slices.Equal(s.missing, []string{"--filter", "--quiet"}) || !slices.Equal(s.unseenNames, []string{"--size"}) {
		t.Errorf("some of a command: %+v", s)
	}
	if s := count(list[2], u); s.exist != 1 || s.seen != 1 {
		t.Errorf("another name of a command: %+v", s)
	}
}

func TestTheFloorOnlyRises(t *testing.T) {
	path := filepath.Join(t.TempDir(), "floor")
	if err := writeFloor(path, []share{{name: "container ls", exist: 3, seen: 2}}, map[string]share{"container ls": {exist: 2, seen: 4}}); err != nil {
		t.Fatal(err)
	}
	floors, err := readFloor(path)
	if s := floors["container ls"]; err != nil || s.exist != 3 || s.seen != 4 {
		t.Fatalf("%+v, %v", s, err)
	}
	for _, s := range []share{{name: "container ls", exist: 2, seen: 4}, {name: "container ls", exist: 3, seen: 3}, {name: "other", exist: 9, seen: 9}} {
		if floors, _ := readFloor(path); below([]share{s}, floors) == nil {
			t.Errorf("%+v is below the floor", s)
		}
	}
	if err := below([]share{{name: "container ls", exist: 3, seen: 4}}, floors); err != nil {
		t.Error(err)
	}
}
