// Package cli is docker's command line: commands and flags in one table (commands.go, flags.go), from which parsing, help
// and documentation come, and for each command a function that translates and calls the engine.
//
// It decides nothing about containers: flags become a container.Config, answers become text. Answers go to standard
// output, everything else to standard error.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"

	"berth/internal/dockerconfig"
	"berth/internal/engine"
	"berth/internal/errdef"
	"berth/internal/host"
	"berth/internal/runtime/lifecycle"
	"berth/internal/settings"
	"berth/internal/state"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
)

// Version is the version of berth; the linker sets it.
var Version = "0.1.0-dev"

// command is one row of the table.
type command struct {
	name    string // "container run"
	alias   string // "run": at the top level
	args    string // as help prints it
	short   string
	example string
	flags   func() []flag // nil for none; only those of the command that is called are made
	// least and most are how many arguments there may be; most < 0 is any number.
	least, most int
	// stop ends flags at the first argument: what follows is the container's command line.
	stop bool
	// status is the exit status of a failure that has none of its own.
	status int
	// starts says that the command starts processes in containers itself.
	starts bool
	// inside says that the command needs the rights of root over what containers consist of: without root it is carried out in the
	// user namespace of the user's containers.
	inside bool
	// offline says that a command of the full program needs no engine.
	offline bool
	// full says that the command needs the whole program (see internal/program).
	full   bool
	hidden bool
	run    func(*call) error
}

// flag is one flag of one or several commands.
type flag struct {
	name, short string
	kind        string // as docker's help prints the value: "", "string", "list", …; "" is a switch
	help        string
	set         func(c *call, value string) error
}

// call is one use of a command.
type call struct {
	command      *command
	args         []string
	options      options
	out, err     io.Writer
	in           *os.File
	settings     settings.Values
	sources      settings.Sources
	ctx          context.Context
	programs     Programs
	openedEngine *engine.Engine
	argv         []string
	saidLogout   bool
	runtimeName  string // of the runtime as which the program was called, or empty
	client       clientOptions
	given        map[string]string // settings given as flags, by key
	configFile   *dockerconfig.File
	umask        os.FileMode // the caller's, for files that are his own
}

// Programs are the parts of berth that are programs of their own.
type Programs struct {
	// Path returns where a program is, having unpacked it into dir if need be.
	Path func(dir, name string) (string, error)
	// Full are the commands that this program can carry out itself although they need the whole of berth; without them
	// the full program is called.
	Full map[string]func(Call) error
	// Template prints rows by a Go template; nil where the full program is needed for that.
	// heads are those columns' heads of "table TEMPLATE" that are not their fields' names.
	Template func(w io.Writer, format string, heads map[string]string, rows []any) error
	// Pattern reads a regular expression; nil where the full program is needed for that.
	Pattern func(expression string) (matches func(string) bool, err error)
}

// Call is what a command of the full program is given.
type Call struct {
	Context  context.Context
	Args     []string
	Options  map[string][]string
	Engine   *engine.Engine // nil for commands that need none
	In       *os.File
	Out, Err io.Writer
	Umask    os.FileMode // the caller's, for files that are his own
}

// Stream carries the streams of a command's container to those of the command, until it ends.
func Stream(c Call, s *engine.Session) error {
	return (&call{in: c.In, out: c.Out, err: c.Err, ctx: c.Context, configFile: &dockerconfig.File{}}).stream(c.Engine, s, true, false)
}

// ExitStatus is an error that has been said already, and is the exit status of the command.
func ExitStatus(n int) error { return exitError(n) }

// exitError is an exit status without words: a container's own.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// Main runs the command line args, without the program's name, and returns the exit status.
func Main(args []string, programs Programs) int { return MainAs("berth", args, programs) }

// MainAs is Main for a program that was called by a name: by another runtime's it is that one.
func MainAs(name string, args []string, programs Programs) int {
	c := &call{out: os.Stdout, err: os.Stderr, in: os.Stdin, programs: programs, argv: args}
	if name, is := runtimeName(name); is {
		c.runtimeName, c.argv = name, append([]string{"runtime"}, args...)
	}
	// The trees of containers and layers have the modes that images say, whatever the caller's mask hides of his own files.
	c.umask = os.FileMode(unix.Umask(0o022))
	host.FindHome()
	err := c.main(c.argv)
	return c.report(err)
}

// context ends with the first SIGINT or SIGTERM after it was asked for. What needs no context dies by them as any program.
func (c *call) context() context.Context {
	if c.ctx == nil {
		c.ctx, _ = signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM) // until the program ends
	}
	return c.ctx
}

// report prints an error, the next step and returns the exit status.
func (c *call) report(err error) int {
	var status exitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &status):
		return int(status)
	}
	var usage *usageError
	if errors.As(err, &usage) {
		fmt.Fprintf(c.err, "berth: %s\n\n%s", usage.text, usage.help)
		return usage.status
	}
	c.debugError(err)
	c.logRuntimeError(err)
	line := visible(strings.TrimSpace(err.Error()))
	fmt.Fprintf(c.err, "berth: %s\n", line)
	if hint := errdef.HintOf(err); hint != "" {
		fmt.Fprintf(c.err, "hint: %s\n", visible(hint))
	}
	if c.command != nil && c.command.status != 0 {
		switch kind := errdef.KindOf(err); {
		case c.command.runtime(): // its own failures have one status, which no process of a container has
		case kind == errdef.NoCommand:
			return 127
		case kind == errdef.NotExecutable:
			return 126
		}
		return c.command.status
	}
	return 1
}

// debugError says of what kind an error is, and which system call is behind it.
func (c *call) debugError(err error) {
	c.debug("the error is of the kind %q", errdef.KindOf(err))
	if f, ok := lifecycle.FailedCall(err); ok {
		c.debug("behind it is %s(%s): %v (errno %d)", f.Call, f.Path, f.Errno, int(f.Errno))
	}
}

// Visible is visible for the commands of the full program.
func Visible(s string) string { return visible(s) }

// visible makes text from elsewhere harmless to a terminal: one line, no control characters.
func visible(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r >= 0x7f && r < 0xa0 {
			return ' '
		}
		return r
	}, s)
}

// usageError is a command line that makes no sense.
type usageError struct {
	text, help string
	status     int
}

func (e *usageError) Error() string { return e.text }

// usage is misused with the exit status of the command's own errors.
func (c *call) usage(format string, args ...any) error {
	status := 1
	if c.command != nil && c.command.status != 0 {
		status = c.command.status
	}
	return c.misused(status, format, args...)
}

// misused says why a command line makes no sense, and how the command is used.
func (c *call) misused(status int, format string, args ...any) error {
	name, help := "berth", ""
	if c.command != nil {
		name = c.called(c.command)
		help = "Usage:  " + name + " " + c.command.usageArgs() + "\n\n"
	}
	return &usageError{fmt.Sprintf(format, args...), help + "Run '" + name + " --help' for more information\n", status}
}

func (c *command) display() string {
	if c.alias != "" {
		return c.alias
	}
	return c.name
}

// flagList are the flags of the command.
func (c *command) flagList() []flag {
	if c.flags == nil {
		return nil
	}
	return c.flags()
}

func (c *command) usageArgs() string {
	parts := []string{}
	if len(c.flagList()) > 0 {
		parts = append(parts, "[OPTIONS]")
	}
	if c.args != "" {
		parts = append(parts, c.args)
	}
	return strings.Join(parts, " ")
}

// main finds the command, reads its flags and runs it.
func (c *call) main(args []string) error {
	c.given = map[string]string{}
	rest, err := c.globals(args)
	if err != nil {
		return err
	}
	if len(rest) > 0 && rest[0] == "runtime" {
		more, err := c.runtimeFlags(rest[1:], c.given)
		if err != nil {
			return err
		}
		if len(more) == 1 && more[0] == "version" {
			c.runtimeVersion()
			return nil
		}
		if len(more) == 0 || more[0] == "help" || more[0] == "h" {
			return c.runtimeHelp(more[min(1, len(more)):])
		}
		if _, known := runtimeCommand(more[0]); !known && c.runtimeName != "" {
			return &usageError{fmt.Sprintf("No help topic for '%s'", visible(more[0])), "", noTopic}
		}
		rest = append([]string{"runtime"}, more...)
	}
	if len(rest) == 0 {
		return c.help(nil)
	}
	if rest[0] == "help" {
		return c.help(slices.DeleteFunc(rest[1:], func(s string) bool { return s == "--help" || s == "-h" }))
	}
	words := rest
	cmd, rest, err := find(rest)
	if err != nil {
		return err
	}
	if cmd == nil {
		return c.help(words[:1])
	}
	c.command = cmd
	given, err := c.parse(cmd, rest)
	if err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			return c.printCommand(cmd)
		}
		return err
	}
	enters := cmd.inside && !host.Privileged()
	becomes := cmd.full && c.programs.Full == nil // the full program, by a file that no container can write to
	if cmd.starts && !enters && !becomes {        // who enters is protected by that
		if err := c.again(engine.Protect); err != nil {
			return err
		}
	}
	if c.settings, c.sources, err = settings.Load(c.given); err != nil {
		return err
	}
	if enters {
		if err := c.again(func() error { return engine.Enter(c.settings) }); err != nil {
			return err
		}
	}
	if len(c.args) < cmd.least || cmd.most >= 0 && len(c.args) > cmd.most {
		return c.misused(1, "%s", c.badCount(cmd))
	}
	c.debug("data root %s (%s), run root %s (%s)", c.settings.DataRoot, c.sources["data-root"], c.settings.RunRoot, c.sources["run-root"])
	if c.options.format == "" && !c.options.quiet {
		c.options.format = c.configuredFormat(cmd.name)
	}
	if cmd.full {
		return c.full(cmd, given)
	}
	return cmd.run(c)
}

// again calls what executes this program again, if need be.
func (c *call) again(execute func() error) error {
	unix.Umask(int(c.umask)) // for the next one to find
	defer unix.Umask(0o022)
	return execute()
}

// debug says more about what is done, when --debug asks for it.
func (c *call) debug(format string, args ...any) {
	switch {
	case !c.settings.Debug:
	case c.command.runtime():
		c.logRuntime("debug", fmt.Sprintf(format, args...))
	default:
		fmt.Fprintf(c.err, "debug: %s\n", visible(fmt.Sprintf(format, args...)))
	}
}

func expected(cmd *command) string {
	n := func(n int) string {
		if n == 1 {
			return "1 argument"
		}
		return fmt.Sprintf("%d arguments", n)
	}
	switch {
	case cmd.most == 0:
		return "accepts no arguments"
	case cmd.least == cmd.most:
		return "requires " + n(cmd.least)
	case cmd.most < 0:
		return "requires at least " + n(cmd.least)
	}
	return fmt.Sprintf("requires at least %d and at most %s", cmd.least, n(cmd.most))
}

// find finds the command that args begin with, and what follows it. It is nil if they name a group of commands.
func find(args []string) (*command, []string, error) {
	table := commands()
	two := strings.Join(args[:min(2, len(args))], " ")
	for i := range table {
		cmd := &table[i]
		if len(args) > 1 && cmd.name == two {
			return cmd, args[2:], nil
		}
	}
	for i := range table {
		cmd := &table[i]
		if cmd.name == args[0] || cmd.alias == args[0] {
			return cmd, args[1:], nil
		}
	}
	for i := range table {
		if len(args) > 1 && slices.Contains(table[i].names(), two) {
			return &table[i], args[2:], nil
		}
	}
	if isGroup(args[0], table) && (len(args) == 1 || args[1] == "--help" || args[1] == "-h") {
		return nil, nil, nil
	}
	word, help := args[0], "berth"
	if isGroup(args[0], table) {
		word, help = two, "berth "+args[0]
	}
	hint := "Run '" + help + " --help' for more information\n"
	if near := nearest(args, table); near != "" {
		hint = "Did you mean 'berth " + near + "'?\n\n" + hint
	}
	return nil, nil, &usageError{fmt.Sprintf("unknown command: berth %s", visible(word)), hint, 1}
}

// parse reads a command's flags; given are their values by name.
func (c *call) parse(cmd *command, args []string) (map[string][]string, error) {
	given := map[string][]string{}
	set := c.flagSet(cmd.name, cmd.flagList(), given)
	set.SetInterspersed(!cmd.stop)
	for _, f := range settingFlags() {
		if set.Lookup(f.name) == nil {
			f.short = "" // -D is the command's
			c.add(set, f, map[string][]string{})
		}
	}
	if err := set.Parse(args); errors.Is(err, pflag.ErrHelp) {
		return nil, err
	} else if err != nil {
		return nil, c.flagError(err, cmd.flagList())
	}
	c.args = set.Args()
	return given, nil
}

// value is a flag as pflag sees it.
type value struct {
	c     *call
	f     flag
	given map[string][]string
}

func (v *value) String() string { return "" }
func (v *value) Type() string   { return v.f.kind }

func (v *value) Set(s string) error {
	if v.f.kind == "" {
		b, err := strconv.ParseBool(s)
		if err != nil {
			return fmt.Errorf("it takes true or false")
		}
		s = strconv.FormatBool(b)
	}
	v.given[v.f.name] = append(v.given[v.f.name], s)
	if v.f.set == nil {
		return nil
	}
	return v.f.set(v.c, s)
}

// engine opens the instance.
func (c *call) engine() (*engine.Engine, error) {
	if c.openedEngine != nil {
		return c.openedEngine, nil
	}
	if err := c.checkLocal(); err != nil {
		return nil, err
	}
	e, err := engine.Open(c.settings)
	if err != nil {
		return nil, err
	}
	e.Fetch = c.fetch
	e.Notice = func(text string) { fmt.Fprintf(c.err, "berth: %s\n", visible(text)) }
	e.Program = c.program
	c.openedEngine = e
	return e, nil
}

// container is the container that the first argument names.
func (c *call) container() (*engine.Engine, *state.Container, error) {
	e, err := c.engine()
	if err != nil {
		return nil, nil, err
	}
	of, err := e.Containers.Resolve(c.args[0])
	return e, of, err
}
