package cli

import (
	_ "embed"
	"fmt"
	"io"
	"slices"
	"strings"

	"berth/internal/dockerconfig"
	"berth/internal/engine"
	"berth/internal/errdef"
	"berth/internal/state"
)

// completeCommand answers the scripts of `berth completion`.
const completeCommand = "__complete"

// What the last line of an answer says to the shell besides.
const (
	thenNothing = ":0"
	thenFiles   = ":1" // names of files would do, too
	thenNoSpace = ":2" // the word goes on after what is answered
)

var (
	//go:embed completion/berth.bash
	bashCompletion string
	//go:embed completion/berth.zsh
	zshCompletion string
	//go:embed completion/berth.fish
	fishCompletion string
)

func (c *call) cmdCompletion() error {
	script := map[string]string{"bash": bashCompletion, "zsh": zshCompletion, "fish": fishCompletion}[c.args[0]]
	if script == "" {
		return errdef.New(errdef.Invalid, "there is no completion for %s: there is for bash, zsh and fish", c.args[0])
	}
	_, err := io.WriteString(c.out, script)
	return err
}

// candidate is how a word could be; about says more.
type candidate struct{ word, about string }

// kind is what a word stands for: the noun of its place in help, in capitals.
type kind string

const (
	kindNothing   kind = ""
	kindContainer kind = "CONTAINER"
	kindImage     kind = "IMAGE"
	kindNetwork   kind = "NETWORK"
	kindVolume    kind = "VOLUME"
	kindContext   kind = "CONTEXT"
	kindAny       kind = "NAME"
	kindCommand   kind = "COMMAND"
	kindFile      kind = "FILE"
	kindPath      kind = "CONTAINER:PATH"
)

// suggestion is how a command line could go on: with words that are known, and with names of a kind.
type suggestion struct {
	words  []candidate
	names  kind
	prefix string   // of the word, that is not part of the name: "--network="
	cmd    *command // whose name it is
}

// suggest finds how the last of words could go on. It looks at the table alone.
func suggest(words []string, table []command) suggestion {
	current, before := words[len(words)-1], words[:len(words)-1]
	rest, value := skipFlags(before, globalFlags(), true)
	if value != nil {
		return ofFlag(value, "")
	}
	if len(rest) == 0 {
		if strings.HasPrefix(current, "-") {
			return flagWord(current, globalFlags())
		}
		return suggestion{words: commandWords(table)}
	}
	if rest[0] == "help" {
		rest = rest[1:]
		if len(rest) == 0 {
			return suggestion{words: commandWords(table)}
		}
	}
	cmd, after, err := find(rest)
	if err == nil && cmd == nil || err != nil && len(rest) == 1 && isGroup(rest[0], table) {
		var all []candidate
		for _, m := range members(rest[0], table) {
			all = append(all, candidate{m.name, m.short})
		}
		return suggestion{words: all}
	}
	if err != nil {
		return suggestion{}
	}
	args, value := skipFlags(after, cmd.flagList(), cmd.stop)
	switch {
	case value != nil:
		return ofFlag(value, "")
	case strings.HasPrefix(current, "-") && !(cmd.stop && len(args) > 0) && !slices.Contains(after, "--"):
		return flagWord(current, cmd.flagList())
	}
	s := suggestion{names: kindOf(cmd, len(args)), cmd: cmd}
	if choices := strings.Split(cmd.args, "|"); !strings.ContainsAny(cmd.args, "[ -:") && cmd.args == strings.ToLower(cmd.args) && len(args) == 0 {
		for _, word := range choices {
			s.words = append(s.words, candidate{word: word})
		}
	}
	return s
}

// skipFlags is what of words is no flag and no flag's value; value is the flag that the next word is the value of. With stop,
// flags end with the first argument.
func skipFlags(words []string, flags []flag, stop bool) (args []string, value *flag) {
	for i := 0; i < len(words); i++ {
		w := words[i]
		switch {
		case w == "--":
			return append(args, words[i+1:]...), nil
		case !strings.HasPrefix(w, "-") || w == "-":
			if args = append(args, w); stop {
				return append(args, words[i+1:]...), nil
			}
			continue
		case strings.Contains(w, "="):
			continue
		}
		f := flagOf(w, flags)
		if f == nil || f.kind == "" {
			continue
		}
		if i++; i == len(words) {
			return args, f
		}
	}
	return args, nil
}

// flagOf is the flag of a word: the one that takes the word after it as its value, if one does.
func flagOf(word string, flags []flag) *flag {
	name, long := strings.CutPrefix(word, "--")
	for i := range flags {
		f := &flags[i]
		switch {
		case long && f.name == name:
			return f
		case !long && f.short != "" && strings.HasSuffix(word, f.short): // -it, -aqn
			return f
		}
	}
	return nil
}

func flagWord(current string, flags []flag) suggestion {
	if name, _, has := strings.Cut(current, "="); has {
		if f := flagOf(name, flags); f != nil {
			return ofFlag(f, name+"=")
		}
		return suggestion{}
	}
	var all []candidate
	for _, f := range flags {
		all = append(all, candidate{"--" + f.name, f.help})
		if f.short != "" {
			all = append(all, candidate{"-" + f.short, f.help})
		}
	}
	return suggestion{words: append(all, candidate{"--help", "Print usage"})}
}

// ofFlag is what the value of a flag could be: one of (a|b) in its help, or a name.
func ofFlag(f *flag, prefix string) suggestion {
	s := suggestion{prefix: prefix}
	if _, list, has := strings.Cut(f.help, "("); has {
		list, _, _ = strings.Cut(list, ")")
		if strings.Contains(list, "|") && !strings.ContainsAny(list, " <[") {
			for word := range strings.SplitSeq(list, "|") {
				s.words = append(s.words, candidate{word: prefix + word})
			}
			return s
		}
	}
	switch f.name {
	case "network":
		s.names = kindNetwork
	case "volumes-from", "link":
		s.names = kindContainer
	case "context", "from":
		s.names = kindContext
	case "format":
		s.words = []candidate{{word: prefix + "json"}, {word: prefix + "table"}}
	default:
		s.names = kindFile
	}
	return s
}

func commandWords(table []command) []candidate {
	var all []candidate
	common, management, others := sections(table)
	for _, e := range slices.Concat(common, management, others) {
		all = append(all, candidate{e.name, e.short})
	}
	return all
}

// kindOf is what the n-th argument of a command is, by what its usage says.
func kindOf(cmd *command, n int) kind {
	group, verb, _ := strings.Cut(cmd.name, " ")
	if strings.HasPrefix(cmd.args, "CONTAINER:") {
		return kindPath
	}
	places := strings.Fields(cmd.args)
	if len(places) == 0 {
		return kindNothing
	}
	place := places[min(n, len(places)-1)]
	if n >= len(places) && !strings.HasSuffix(place, "...]") {
		return kindNothing
	}
	place = strings.Trim(place, "[].")
	switch {
	case group == "runtime", (verb == "create" || verb == "import") && strings.EqualFold(place, group):
		return kindNothing // containers of bundles; a new name
	case strings.HasPrefix(place, "NAME|ID"):
		return kindAny
	case strings.Contains(place, "IMAGE"), strings.HasPrefix(place, "REPOSITORY"), place == "NAME[:TAG|@DIGEST", place == "NAME[:TAG":
		return kindImage
	case strings.HasPrefix(place, "NEW_"):
		return kindNothing
	case place == "COMMAND", strings.HasPrefix(place, "ARG"):
		return kindCommand
	case strings.Contains(place, "FILE"), strings.Contains(place, "PATH"):
		return kindFile
	}
	for _, k := range []kind{kindContainer, kindNetwork, kindVolume, kindContext} {
		if place == string(k) {
			return k
		}
	}
	return kindNothing
}

// fits reports whether a command could do something with a container in that state.
func fits(cmd *command, s state.Status) bool {
	if cmd == nil {
		return true
	}
	live := s == state.Running || s == state.Paused
	switch cmd.alias {
	case "start":
		return !live
	case "attach", "exec", "kill", "pause", "port", "stop", "top":
		return live
	case "unpause":
		return s == state.Paused
	}
	return true
}

// cmdComplete prints how the last of its arguments could go on, a word a line and what it is after a tab, and at last what the
// shell may add.
func (c *call) cmdComplete() error {
	words := c.args
	if len(words) == 0 {
		words = []string{""}
	}
	current := words[len(words)-1]
	s := suggest(words, commands())
	all, then := s.words, thenNothing
	switch s.names {
	case kindFile, kindCommand:
		then = thenFiles
	case kindPath:
		then = thenFiles
		if !strings.Contains(current, ":") {
			for _, n := range c.liveNames(kindContainer, s) {
				all = append(all, candidate{n + ":", ""})
			}
			then = thenNoSpace
		}
	default:
		for _, n := range c.liveNames(s.names, s) {
			all = append(all, candidate{s.prefix + n, ""})
		}
	}
	var b strings.Builder
	for _, w := range all {
		if strings.HasPrefix(w.word, current) && visible(w.word) == w.word {
			fmt.Fprintf(&b, "%s\t%s\n", w.word, visible(w.about))
		}
	}
	_, err := io.WriteString(c.out, b.String()+then+"\n")
	return err
}

// liveNames are the names of what there is of a kind. Whatever goes wrong, there are none: nobody waits for an error here.
func (c *call) liveNames(k kind, s suggestion) []string {
	if k == kindNothing {
		return nil
	}
	if k == kindContext {
		var names []string
		all, _ := dockerconfig.Default().List(c.choice())
		for _, of := range all {
			names = append(names, of.Name)
		}
		return names
	}
	e, err := c.engine()
	if err != nil {
		return nil
	}
	var names []string
	for _, one := range []struct {
		kind kind
		list func(*engine.Engine, *command) []string
	}{{kindContainer, containerNames}, {kindImage, imageNames}, {kindNetwork, networkNames}, {kindVolume, volumeNames}} {
		if k == one.kind || k == kindAny {
			names = append(names, one.list(e, s.cmd)...)
		}
	}
	return names
}

func containerNames(e *engine.Engine, cmd *command) []string {
	var names []string
	all, _ := e.List()
	for _, l := range all {
		if fits(cmd, l.Record.Status) {
			names = append(names, l.Name)
		}
	}
	return names
}

func imageNames(e *engine.Engine, _ *command) []string {
	var names []string
	all, _ := e.Images.List()
	for _, r := range all {
		if ref, ok := r.Reference(); ok {
			names = append(names, ref.Familiar())
		}
	}
	return names
}

func networkNames(e *engine.Engine, _ *command) []string {
	var names []string
	all, _ := e.Networks().List()
	for _, n := range all {
		names = append(names, n.Name)
	}
	return names
}

func volumeNames(e *engine.Engine, _ *command) []string {
	var names []string
	all, _ := e.Volumes.List()
	for _, v := range all {
		names = append(names, v.Name)
	}
	return names
}
