package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"

	"berth/internal/dockerconfig"
	"berth/internal/engine"
	"berth/internal/errdef"
	"berth/internal/host"
	"berth/internal/image/reference"

	"golang.org/x/sys/unix"
)

// FullName is the full program, which carries out what the quick one leaves out.
const FullName = "berth-full"

// full carries out a command that needs the whole of berth: here, if this is the full program, or by becoming it.
func (c *call) full(cmd *command, given map[string][]string) error {
	do := c.programs.Full[cmd.name]
	if do == nil && c.programs.Full != nil {
		return errdef.New(errdef.Unsupported, "berth %s is not part of this build", cmd.name)
	}
	if do == nil {
		return c.become()
	}
	if cmd.offline {
		return do(Call{Context: c.context(), Args: c.args, Options: given, In: c.in, Out: c.out, Err: c.err})
	}
	e, err := c.engine()
	if err != nil {
		return err
	}
	return engine.Explained(c.settings, do(Call{Context: c.context(), Args: c.args, Options: given, Engine: e, In: c.in, Out: c.out, Err: c.err, Umask: c.umask}))
}

// become replaces this process by the full program with the same command line.
func (c *call) become() error {
	path, err := c.programs.Path(c.settings.DataRoot, FullName)
	if err != nil {
		return err
	}
	env := os.Environ()
	if c.command.starts {
		variable, err := engine.Lend()
		if err != nil {
			return err
		}
		env = append(env, variable)
		path = engine.ReadOnly(path)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		host.Calm()
		if !host.Probe().InUserNS {
			return c.execute(path, env)
		}
		// Its containers may be the first of this user on a network, and that program is carried by this one alone.
		uplink, err := c.programs.Path(c.settings.DataRoot, uplinkName)
		if err != nil {
			return err
		}
		env = append(env, uplinkPath+"="+uplink)
	}
	return c.execute(path, env)
}

// uplinkName is the program that connects a user's networks; uplinkPath says to the full program where it is.
const (
	uplinkName = "berth-uplink"
	uplinkPath = "BERTH_UPLINK"
)

// program is where a program is that comes with berth.
func (c *call) program(name string) (string, error) {
	if path := os.Getenv(uplinkPath); path != "" && name == uplinkName {
		return path, nil
	}
	return c.programs.Path(c.settings.DataRoot, name)
}

// execute becomes another program with the same command line.
func (c *call) execute(path string, env []string) error {
	c.debug("become %s", path)
	unix.Umask(int(c.umask))
	return cannotExecute(path, &os.PathError{Op: "execve", Path: path, Err: unix.Exec(path, append([]string{"berth"}, c.argv...), env)})
}

// cannotExecute is the error of a program of our own that does not start.
func cannotExecute(path string, err error) error {
	var st unix.Statfs_t
	if unix.Statfs(path, &st) == nil && st.Flags&unix.ST_NOEXEC != 0 {
		return errdef.Hint(errdef.New(errdef.Denied, "cannot start the full program: the data root's file system is mounted noexec: %w", err),
			"mount it with exec, or choose another with --data-root")
	}
	return fmt.Errorf("cannot start the full program: %w", err)
}

// fetch gets an image that is missing: the full program pulls it, and its progress goes to standard error.
func (c *call) fetch(ctx context.Context, ref, platform string) error {
	if !c.options.quiet && !isBuiltin(ref) {
		name := ref
		if parsed, err := reference.Parse(ref); err == nil {
			name = parsed.Familiar()
		}
		fmt.Fprintf(c.err, "Unable to find image '%s' locally\n", visible(name))
	}
	if c.programs.Full != nil {
		return c.fetchHere(ctx, ref, platform)
	}
	path, err := c.programs.Path(c.settings.DataRoot, FullName)
	if err != nil {
		return err
	}
	// That this machine's engine is meant has been found out already.
	args := []string{"--host", dockerconfig.Local, "--data-root", c.settings.DataRoot, "--run-root", c.settings.RunRoot}
	if isBuiltin(ref) {
		args = append(args, "box")
	} else {
		args = append(args, "pull")
		if platform != "" {
			args = append(args, "--platform", platform)
		}
		if c.options.quiet {
			args = append(args, "--quiet")
		}
		args = append(args, "--", ref)
	}
	c.debug("run %s %s", path, strings.Join(args, " "))
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Args[0] = "berth"
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGINT) }
	cmd.Stderr = c.err
	if !c.options.quiet && !isBuiltin(ref) {
		cmd.Stdout = c.err
	}
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return errdef.New(errdef.Cancelled, "cancelled while the image %s was fetched", ref)
		}
		var said *exec.ExitError
		if errors.As(err, &said) {
			return exitError(max(1, c.command.status))
		}
		return cannotExecute(path, err)
	}
	return nil
}

// fetchHere is fetch in the full program.
func (c *call) fetchHere(ctx context.Context, ref, platform string) error {
	pull := Call{Context: ctx, Engine: c.openedEngine, In: c.in, Out: c.err, Err: c.err, Args: []string{ref}, Options: map[string][]string{}}
	if isBuiltin(ref) {
		return c.programs.Full["box"](pull)
	}
	if platform != "" {
		pull.Options["platform"] = []string{platform}
	}
	if c.options.quiet {
		pull.Options["quiet"] = []string{"true"}
	}
	return c.programs.Full["image pull"](pull)
}

// isBuiltin reports whether ref is the image that comes with berth.
func isBuiltin(ref string) bool {
	switch ref {
	case "box", "box:latest", "docker.io/library/box", "docker.io/library/box:latest":
		return true
	}
	return false
}

// format prints rows as --format asks: "json" a line each, or by a Go template, for which the full program is needed. done is
// false when no format was asked for.
func (c *call) format(rows []any) (done bool, err error) {
	format := c.options.format
	if format == "" || format == "table" {
		return false, nil
	}
	if format == "json" || format == "{{json .}}" {
		for _, row := range rows {
			if err := printJSON(c.out, row, ""); err != nil {
				return true, err
			}
		}
		return true, nil
	}
	if c.programs.Template == nil {
		return true, c.become()
	}
	err = c.programs.Template(c.out, format, heads(c.command.name), rows)
	var unreadable UnreadableTemplate
	if errors.As(err, &unreadable) && !c.command.lists() {
		c.report(err)
		return true, exitError(badTemplate)
	}
	return true, err
}

// UnreadableTemplate is the error of a --format that is no template.
type UnreadableTemplate struct{ Err error }

func (e UnreadableTemplate) Error() string { return e.Err.Error() }

// Unwrap is the error itself, with its kind.
func (e UnreadableTemplate) Unwrap() error { return e.Err }

// badTemplate is docker's exit status for a --format that is no template, except of commands that print lists: theirs is 1.
const badTemplate = 64

// lists reports whether the command prints a list of things.
func (c *command) lists() bool {
	return strings.HasSuffix(c.name, " ls") || slices.Contains([]string{"container stats", "image history", "system df", "search"}, c.name)
}

// heads are docker's heads of a command's columns, by their fields, where they are not the field's own name.
func heads(command string) map[string]string {
	switch command {
	case "container ls":
		return map[string]string{"ID": "CONTAINER ID", "RunningFor": "CREATED"}
	case "container stats":
		return map[string]string{
			"ID": "CONTAINER ID", "CPUPerc": "CPU %", "MemUsage": "MEM USAGE / LIMIT", "MemPerc": "MEM %", "NetIO": "NET I/O", "BlockIO": "BLOCK I/O", "PIDs": "PIDS",
		}
	case "image ls":
		return map[string]string{"ID": "IMAGE ID", "CreatedSince": "CREATED"}
	case "network ls":
		return map[string]string{"ID": "NETWORK ID"}
	case "volume ls":
		return map[string]string{"Name": "VOLUME NAME"}
	case "system df":
		return map[string]string{"TotalCount": "TOTAL"}
	}
	return nil
}

// labelled lets templates ask for a label of a row: {{.Label "name"}}.
type labelled struct{ labels map[string]string }

// Label is the value of a label, or "".
func (l labelled) Label(name string) string { return l.labels[name] }

func printJSON(w io.Writer, v any, indent string) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", indent)
	return enc.Encode(v)
}

// leastColumn is how wide docker's columns are at least.
const leastColumn = 10

// Table is table for the commands of the full program.
func Table(w io.Writer, head []string, rows [][]string) error { return table(w, head, rows) }

// HumanSize is how many bytes, as docker says it.
func HumanSize(bytes int64) string { return humanSize(bytes) }

// table prints rows in columns as docker does: three spaces and more between them, control characters made harmless.
func table(w io.Writer, head []string, rows [][]string) error {
	widths := make([]int, len(head))
	all := append([][]string{head}, rows...)
	for _, row := range all {
		for i, cell := range row {
			row[i] = visible(cell)
			widths[i] = max(widths[i], len([]rune(row[i]))+3, leastColumn)
		}
	}
	var b strings.Builder
	for _, row := range all {
		for i, cell := range row {
			if i == len(row)-1 {
				b.WriteString(cell)
				continue
			}
			b.WriteString(cell + strings.Repeat(" ", widths[i]-len([]rune(cell))))
		}
		b.WriteByte('\n')
	}
	_, err := io.WriteString(w, b.String())
	return err
}
