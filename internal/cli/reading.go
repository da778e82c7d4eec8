package cli

import "fmt"

// Reading is a command line as the table reads it; nothing of it is carried out. It is for tests that look at scripts.
type Reading struct {
	Command string   // by its first name in the table
	Flags   []string // that were given, by their long names
}

// Read finds which command a command line is, and which of its flags it has.
func Read(args []string) (Reading, error) {
	c := &call{given: map[string]string{}}
	global := c.flagSet("berth", unset(globalFlags()), map[string][]string{})
	global.SetInterspersed(false)
	if err := global.Parse(args); err != nil {
		return Reading{}, err
	}
	if global.NArg() == 0 {
		return Reading{}, fmt.Errorf("no command")
	}
	cmd, rest, err := find(global.Args())
	switch {
	case err != nil:
		return Reading{}, err
	case cmd == nil:
		return Reading{}, fmt.Errorf("%s is a group of commands", global.Arg(0))
	}
	r := Reading{Command: cmd.name}
	of := *cmd
	of.flags = func() []flag { return unset(cmd.flagList()) }
	given, err := c.parse(&of, rest)
	for _, f := range cmd.flagList() {
		if given[f.name] != nil {
			r.Flags = append(r.Flags, f.name)
		}
	}
	return r, err
}

// unset are flags whose values go nowhere.
func unset(flags []flag) []flag {
	all := make([]flag, len(flags))
	for i, f := range flags {
		f.set = nil
		all[i] = f
	}
	return all
}

// HasFlag reports whether a command that Read has found has a flag of that name and letter, and whether that takes a value.
func HasFlag(command, name, letter string) (has, takesValue bool) {
	table := commands()
	for i := range table {
		if table[i].name != command {
			continue
		}
		for _, f := range table[i].flagList() {
			if f.name == name && f.short == letter {
				return true, f.kind != ""
			}
		}
	}
	return false, false
}
