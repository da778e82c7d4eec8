package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"berth/internal/container"
	"berth/internal/engine"
	"berth/internal/errdef"
	"berth/internal/runtimecli"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// runtimeOptions are the flags of `berth runtime` and its commands.
type runtimeOptions struct {
	root, log, logFormat string
	rootless             string
	systemdCgroup        bool
	noCgroup             bool
	runtimecli.Options
	exec      runtimecli.ExecOptions
	stats     bool
	interval  time.Duration
	resources string         // the file that names new limits
	limits    map[string]any // or they themselves, as in config.json
	// kernelMemory says that a limit was given that is none any more.
	kernelMemory bool
	quiet        bool
	format       string
}

// runtimeNames are the names of other runtimes under which this program is one: a link of that name takes their place.
var runtimeNames = []string{"berth-runtime", "runc", "crun"}

// runtimeName is the runtime that a program is that was called by a name, if it is one.
func runtimeName(called string) (string, bool) {
	name := filepath.Base(called)
	return name, slices.Contains(runtimeNames, name)
}

// runtime reports whether the command is one of `berth runtime`.
func (c *command) runtime() bool { return c != nil && strings.HasPrefix(c.name, "runtime ") }

// runtimeGlobals are the flags before the command.
var runtimeGlobals = []flag{
	{"root", "", "string", "Directory of the states of containers; it should die with the boot", text(func(o *options) *string { return &o.runtime.root })},
	{"log", "", "string", "File to which errors are appended, too", set(func(o *options, v string) error {
		o.runtime.log = strings.TrimPrefix(v, "file:") // crun's form
		if kind, _, _ := strings.Cut(v, ":"); kind == "syslog" || kind == "journald" || kind == "invalid" {
			return errdef.New(errdef.Unsupported, "the log can only be a file: not %q", v)
		}
		return nil
	})},
	{"log-format", "", "string", "Format of the log (text|json)", choice(func(o *options) *string { return &o.runtime.logFormat }, "log format", "text", "json")},
	{"cgroup-manager", "", "string", "Who makes control groups, in crun's words (cgroupfs|systemd|disabled)", set(func(o *options, v string) error {
		o.runtime.systemdCgroup, o.runtime.noCgroup = v == "systemd", v == "disabled"
		if v != "systemd" && v != "disabled" && v != "cgroupfs" {
			return errdef.New(errdef.Invalid, "it is cgroupfs, systemd or disabled")
		}
		return nil
	})},
	{"systemd-cgroup", "", "", "Have systemd make control groups; cgroupsPath is then SLICE:PREFIX:NAME", boolean(func(o *options) *bool { return &o.runtime.systemdCgroup })},
	{"rootless", "", "string", "Go without a control group where none may be made (true|false|auto)", choice(func(o *options) *string { return &o.runtime.rootless }, "value", "true", "false", "auto")},
	{"debug", "", "", "Say more about what is done, and about errors", nil},
}

func runtimeCommands() []command {
	pidfdSocket := flag{"pidfd-socket", "", "string", "Path to a socket that takes a file descriptor of the process", text(func(o *options) *string { return &o.runtime.PidfdSocket })}
	make := func() []flag {
		return []flag{
			{"bundle", "b", "string", "Path to the root of the bundle directory", text(func(o *options) *string { return &o.runtime.Dir })},
			{"config", "f", "string", "Path of the configuration, in place of the bundle's config.json", text(func(o *options) *string { return &o.runtime.Config })},
			{"console-socket", "", "string", "Path to a socket that takes the first side of the terminal", text(func(o *options) *string { return &o.runtime.ConsoleSocket })},
			pidfdSocket,
			{"no-new-keyring", "", "", "Keep the caller's session keyring", boolean(func(o *options) *bool { return &o.runtime.NoKeyring })},
			refusedFlag("no-pivot", "", "Do not use pivot_root", "a container that has not changed its root could leave it", "false"),
			{"pid-file", "", "string", "File to write the process id to", text(func(o *options) *string { return &o.runtime.PidFile })},
			{"preserve-fds", "", "int", "How many descriptors from 3 on the process is given", set(func(o *options, v string) (err error) {
				o.runtime.PreserveFDs, err = strconv.Atoi(v)
				return err
			})},
		}
	}
	detach := flag{"detach", "d", "", "Return when the process runs", boolean(func(o *options) *bool { return &o.runtime.Detach })}
	format := flag{"format", "f", "string", "Format of the output (table|json)", choice(func(o *options) *string { return &o.runtime.format }, "format", "table", "json")}
	return []command{
		{name: "runtime create", starts: true, args: "CONTAINER", short: "Create the container of an OCI bundle", example: "berth runtime create --bundle /tmp/bundle id", least: 1, most: 1, run: (*call).cmdRuntimeCreate, flags: make},
		{name: "runtime start", args: "CONTAINER", short: "Let the process of a created container start", example: "berth runtime start id", least: 1, most: 1, starts: true, run: (*call).cmdRuntimeStart},
		{
			name: "runtime run", starts: true, args: "CONTAINER", short: "Run the container of an OCI bundle", example: "berth runtime run --bundle /tmp/bundle id", least: 1, most: 1, status: 1, run: (*call).cmdRuntimeRun,
			flags: func() []flag {
				return append(make(), detach,
					flag{"keep", "", "", "Keep the state when the container has ended", boolean(func(o *options) *bool { return &o.runtime.Keep })},
					flag{"no-subreaper", "", "", "Do not adopt the container's orphans (berth never does)", set(func(*options, string) error { return nil })})
			},
		},
		{
			name: "runtime exec", starts: true, args: "CONTAINER [COMMAND] [ARG...]", short: "Start a further process in a container", example: "berth runtime exec id ps", least: 1, most: -1, stop: true, status: execFailed, run: (*call).cmdRuntimeExec,
			flags: func() []flag {
				return []flag{
					{"additional-gids", "g", "list", "Further groups", set(func(o *options, v string) error {
						n, err := strconv.ParseUint(v, 10, 32)
						o.runtime.exec.Groups = append(o.runtime.exec.Groups, uint32(n))
						return err
					})},
					{"apparmor", "", "string", "AppArmor profile of the process", text(func(o *options) *string { return &o.runtime.exec.AppArmor })},
					{"cap", "c", "list", "Further capabilities", list(func(o *options) *[]string { return &o.runtime.exec.Capabilities })},
					{"cgroup", "", "list", "Control group below the container's: [CONTROLLER[,CONTROLLER]:]PATH", list(func(o *options) *[]string { return &o.runtime.exec.Cgroups })},
					{"console-socket", "", "string", "Path to a socket that takes the first side of the terminal", text(func(o *options) *string { return &o.runtime.ConsoleSocket })},
					{"cwd", "", "string", "Working directory", text(func(o *options) *string { return &o.runtime.exec.Cwd })},
					detach,
					{"env", "e", "list", "Further environment variables", list(func(o *options) *[]string { return &o.runtime.exec.Env })},
					{"ignore-paused", "", "", "Start it in a paused container, too", boolean(func(o *options) *bool { return &o.runtime.exec.IgnorePaused })},
					{"no-new-privs", "", "", "Gain no rights by execve", boolean(func(o *options) *bool { return &o.runtime.exec.NoNewPrivileges })},
					{"pid-file", "", "string", "File to write the process id to", text(func(o *options) *string { return &o.runtime.PidFile })},
					{"preserve-fds", "", "int", "How many descriptors from 3 on the process is given", set(func(o *options, v string) (err error) {
						o.runtime.PreserveFDs, err = strconv.Atoi(v)
						return err
					})},
					pidfdSocket,
					{"process", "p", "string", "File with the whole process, as in config.json", text(func(o *options) *string { return &o.runtime.exec.Process })},
					{"process-label", "", "string", "SELinux label of the process", text(func(o *options) *string { return &o.runtime.exec.Label })},
					{"tty", "t", "", "Give it a terminal", boolean(func(o *options) *bool { return &o.runtime.exec.Terminal })},
					{"user", "u", "string", "UID[:GID] of the process", text(func(o *options) *string { return &o.runtime.exec.User })},
				}
			},
		},
		{name: "runtime state", args: "CONTAINER", short: "Print the state of a container", example: "berth runtime state id", least: 1, most: 1, run: (*call).cmdRuntimeState},
		{name: "runtime kill", args: "CONTAINER [SIGNAL]", short: "Send a signal to a container (TERM)", example: "berth runtime kill id KILL", least: 1, most: 2, run: (*call).cmdRuntimeKill, flags: func() []flag {
			return []flag{
				{"all", "a", "", "Send it to all of its processes", boolean(func(o *options) *bool { return &o.all })},
			}
		}},
		{name: "runtime delete", args: "CONTAINER", short: "Remove a container that has ended", example: "berth runtime delete id", least: 1, most: 1, run: (*call).cmdRuntimeDelete, flags: func() []flag {
			return []flag{
				{"force", "f", "", "Kill it first", boolean(func(o *options) *bool { return &o.force })},
			}
		}},
		{name: "runtime list", short: "List containers", example: "berth runtime list", run: (*call).cmdRuntimeList, flags: func() []flag {
			return []flag{
				format, {"quiet", "q", "", "Print IDs alone", boolean(func(o *options) *bool { return &o.runtime.quiet })},
			}
		}},
		{name: "runtime ps", args: "CONTAINER [ps OPTIONS]", short: "List the processes of a container", example: "berth runtime ps id", least: 1, most: -1, stop: true, run: (*call).cmdRuntimePs, flags: func() []flag { return []flag{format} }},
		{name: "runtime pause", args: "CONTAINER", short: "Stop all processes of a container where they are", example: "berth runtime pause id", least: 1, most: 1, run: func(c *call) error { return c.runtimeFreeze(true) }},
		{name: "runtime resume", args: "CONTAINER", short: "Let the processes of a container go on", example: "berth runtime resume id", least: 1, most: 1, run: func(c *call) error { return c.runtimeFreeze(false) }},
		{name: "runtime update", args: "CONTAINER", short: "Change the limits of a container", example: "berth runtime update --memory 64000000 id", least: 1, most: 1, run: (*call).cmdRuntimeUpdate, flags: runtimeLimits},
		{name: "runtime events", args: "CONTAINER", short: "Print what a container uses, and when its memory runs out", example: "berth runtime events --stats id", least: 1, most: 1, run: (*call).cmdRuntimeEvents, flags: func() []flag {
			return []flag{
				{"interval", "", "duration", "Time between two looks (default 5s)", set(func(o *options, v string) (err error) {
					if o.runtime.interval, err = time.ParseDuration(v); err == nil && o.runtime.interval <= 0 {
						err = errdef.New(errdef.Invalid, "it must be greater than zero")
					}
					return err
				})},
				{"stats", "", "", "Look once", boolean(func(o *options) *bool { return &o.runtime.stats })},
			}
		}},
		{name: "runtime spec", short: "Write an example of a config.json", example: "berth runtime spec", run: (*call).cmdRuntimeSpec, flags: func() []flag {
			return []flag{
				{"bundle", "b", "string", "Directory in which it is written", text(func(o *options) *string { return &o.runtime.Dir })},
				{"rootless", "", "", "For a user without privilege", boolean(func(o *options) *bool { return &o.all })},
			}
		}},
		{name: "runtime features", short: "Print what the runtime knows", example: "berth runtime features", run: (*call).cmdRuntimeFeatures},
	}
}

// runtimeLimits are the flags of update: where each value goes in "linux.resources" of config.json.
func runtimeLimits() []flag {
	flags := []flag{{"resources", "r", "string", "File with the new limits, as in config.json, or -", text(func(o *options) *string { return &o.runtime.resources })}}
	for _, l := range []struct{ name, part, key, help string }{
		{"blkio-weight", "blockIO", "weight", "Weight among groups that share block devices"},
		{"cpu-burst", "cpu", "burst", "CPU time that a quota may save up, in microseconds"},
		{"cpu-idle", "cpu", "idle", "1 runs it only where processors have nothing else to do"},
		{"cpu-period", "cpu", "period", "Period of the CPU limit, in microseconds"},
		{"cpu-quota", "cpu", "quota", "CPU time in a period, in microseconds"},
		{"cpu-rt-period", "cpu", "realtimePeriod", "Period of the limit of real-time scheduling, in microseconds"},
		{"cpu-rt-runtime", "cpu", "realtimeRuntime", "CPU time of real-time scheduling in a period, in microseconds"},
		{"cpu-share", "cpu", "shares", "Weight among groups that share processors"},
		{"cpuset-cpus", "cpu", "cpus", "Processors to use"},
		{"cpuset-mems", "cpu", "mems", "Memory nodes to use"},
		{"memory", "memory", "limit", "Memory limit; -1 is none"},
		{"memory-reservation", "memory", "reservation", "Soft limit of memory"},
		{"memory-swap", "memory", "swap", "Limit of memory and swap; -1 is none"},
		{"pids-limit", "pids", "limit", "How many processes there may be; -1 is any number"},
	} {
		words := strings.HasPrefix(l.name, "cpuset")
		kind, bytes := "int", strings.HasPrefix(l.name, "memory")
		switch {
		case words:
			kind = "string"
		case bytes:
			kind = "bytes"
		}
		flags = append(flags, flag{l.name, "", kind, l.help, set(func(o *options, v string) error {
			var value any = v
			if !words {
				n, err := strconv.ParseInt(v, 10, 64)
				if err != nil && bytes {
					n, err = container.ParseBytes(v)
				}
				if err != nil {
					return err
				}
				value = n
			}
			if o.runtime.limits == nil {
				o.runtime.limits = map[string]any{}
			}
			part, _ := o.runtime.limits[l.part].(map[string]any)
			if part == nil {
				part = map[string]any{}
				o.runtime.limits[l.part] = part
			}
			part[l.key] = value
			return nil
		})})
	}
	for _, name := range []string{"kernel-memory", "kernel-memory-tcp"} {
		flags = append(flags, flag{name, "", "bytes", "Ignored, with a warning: no kernel limits it by itself any more", set(func(o *options, _ string) error {
			o.runtime.kernelMemory = true
			return nil
		})})
	}
	const noRDT = "Intel RDT is not enabled: berth makes no groups of the kernel's resctrl"
	return append(flags,
		refusedFlag("l3-cache-schema", "string", "Schema of Intel RDT/CAT's L3 cache", noRDT, ""),
		refusedFlag("mem-bw-schema", "string", "Schema of Intel RDT/MBA's memory bandwidth", noRDT, ""))
}

// runtimeFlags takes the flags between `runtime` and its command; into takes those that are settings.
func (c *call) runtimeFlags(args []string, into map[string]string) ([]string, error) {
	for len(args) > 0 && strings.HasPrefix(args[0], "-") {
		name, value, has := strings.Cut(strings.TrimLeft(args[0], "-"), "=")
		switch name {
		case "version", "v":
			return []string{"version"}, nil
		case "help", "h":
			return nil, nil
		}
		i := slices.IndexFunc(runtimeGlobals, func(f flag) bool { return f.name == name })
		if i < 0 {
			return nil, c.usage("unknown flag: --%s", name)
		}
		args = args[1:]
		switch f := runtimeGlobals[i]; {
		case has:
		case f.kind == "":
			value = "true"
		case len(args) == 0:
			return nil, c.usage("flag needs an argument: --%s", name)
		default:
			value, args = args[0], args[1:]
		}
		if set := runtimeGlobals[i].set; set == nil {
			into[name] = value
		} else if err := set(c, value); err != nil {
			return nil, err
		}
	}
	return args, nil
}

// logRuntimeError appends an error to the log that an engine reads; without one it is on standard error anyway.
func (c *call) logRuntimeError(err error) {
	if c.options.runtime.log != "" {
		c.logRuntime("error", err.Error())
	}
}

// logRuntime writes a line of the log, or to standard error if there is none.
func (c *call) logRuntime(level, text string) {
	o := c.options.runtime
	if o.log == "" {
		writeRuntimeLog(c.err, o.logFormat, level, visible(text))
		return
	}
	f, openErr := os.OpenFile(o.log, os.O_WRONLY|os.O_APPEND|os.O_CREATE|unix.O_CLOEXEC, 0o644)
	if openErr != nil {
		fmt.Fprintf(c.err, "berth: cannot write the log: %v\n", openErr)
		return
	}
	defer f.Close()
	writeRuntimeLog(f, o.logFormat, level, text)
}

// writeRuntimeLog writes a line in the form that engines read.
func writeRuntimeLog(w io.Writer, format, level, text string) {
	now := time.Now().UTC().Format(time.RFC3339)
	if format == "json" {
		_ = printJSON(w, struct {
			Level string `json:"level"`
			Msg   string `json:"msg"`
			Time  string `json:"time"`
		}{level, text, now}, "")
		return
	}
	fmt.Fprintf(w, "time=%q level=%s msg=%q\n", now, level, text)
}

// containers are the states that `berth runtime` works on.
func (c *call) containers() runtimecli.Store {
	root := c.options.runtime.root
	if root == "" {
		root = filepath.Join(c.settings.RunRoot, "runtime")
	}
	return runtimecli.Store{
		Root: root, Chosen: c.options.runtime.root != "", Systemd: c.options.runtime.systemdCgroup, NoCgroup: c.options.runtime.noCgroup, Rootless: c.options.runtime.rootless,
		Warn: func(err error) { fmt.Fprintf(c.err, "berth: warning: %s\n", visible(err.Error())) },
	}
}

// runtimeCall is what make and exec are asked for.
func (c *call) runtimeCall() runtimecli.Options {
	o := c.options.runtime.Options
	o.ID, o.Connect = c.args[0], c.connectConsole
	o.NotifySocket, o.ListenFDs = os.Getenv("NOTIFY_SOCKET"), listenFDs()
	o.Rows, o.Columns, _ = (&terminal{in: c.in}).size()
	return o
}

// listenFDs is how many sockets a service manager has handed to this process (sd_listen_fds(3)).
func listenFDs() int {
	if os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		return 0
	}
	n, err := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	if err != nil || n < 0 {
		return 0
	}
	return n
}

func (c *call) cmdRuntimeCreate() error {
	if c.options.refused != nil {
		return c.options.refused
	}
	return engine.Explained(c.settings, c.containers().Create(c.runtimeCall()))
}

func (c *call) cmdRuntimeStart() error {
	return engine.Explained(c.settings, c.containers().Start(c.args[0], os.Getenv("NOTIFY_SOCKET")))
}

func (c *call) cmdRuntimeRun() error {
	if c.options.refused != nil {
		return c.options.refused
	}
	status, err := c.containers().Run(c.runtimeCall())
	if err != nil {
		return engine.Explained(c.settings, fmt.Errorf("cannot run the bundle: %w", err))
	}
	return status2error(status)
}

func (c *call) cmdRuntimeExec() error {
	e := c.options.runtime.exec
	e.Args = c.args[1:]
	if e.Process == "" && len(e.Args) == 0 {
		return c.usage("'berth runtime exec' needs a command, or --process")
	}
	status, err := c.containers().Exec(c.runtimeCall(), e)
	if err != nil {
		return engine.Explained(c.settings, err)
	}
	return status2error(status)
}

func (c *call) cmdRuntimeState() error {
	s, err := c.containers().State(c.args[0])
	if err != nil {
		return err
	}
	return printJSON(c.out, s, "  ")
}

func (c *call) cmdRuntimeKill() error {
	n := unix.SIGTERM
	if len(c.args) == 2 {
		var err error
		if c.args[1] == "0" { // asks only whether it could be sent
			n = 0
		} else if n, err = parseSignal(c.args[1]); err != nil {
			return errdef.New(errdef.Invalid, "unknown signal %q", c.args[1])
		}
	}
	return c.containers().Kill(c.args[0], n, c.options.all)
}

func (c *call) cmdRuntimeDelete() error {
	return c.containers().Delete(c.args[0], c.options.force)
}

func (c *call) cmdRuntimeList() error {
	all, err := c.containers().List()
	if err != nil {
		return err
	}
	if c.options.runtime.format == "json" {
		return printJSON(c.out, all, "")
	}
	var rows [][]string
	for _, s := range all {
		if c.options.runtime.quiet {
			fmt.Fprintln(c.out, s.ID)
			continue
		}
		rows = append(rows, []string{s.ID, strconv.Itoa(s.PID), s.Status, s.Bundle, s.Created.Format(time.RFC3339Nano), s.Owner})
	}
	if c.options.runtime.quiet {
		return nil
	}
	return table(c.out, []string{"ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"}, rows)
}

func (c *call) cmdRuntimePs() error {
	pids, err := c.containers().PIDs(c.args[0])
	if err != nil {
		return err
	}
	if c.options.runtime.format == "json" {
		return printJSON(c.out, pids, "")
	}
	head, rows, err := processTable(pids, c.args[1:])
	if err != nil {
		return err
	}
	return wideTable(c, head, rows)
}

func (c *call) runtimeFreeze(frozen bool) error {
	return c.containers().Freeze(c.args[0], frozen)
}

func (c *call) cmdRuntimeUpdate() error {
	o := c.options.runtime
	if o.kernelMemory {
		fmt.Fprintln(c.err, "berth: warning: Kernel memory settings are ignored: it counts as memory")
	}
	switch {
	case c.options.refused != nil:
		return c.options.refused
	case o.resources == "-":
		return c.containers().Update(c.args[0], c.in)
	case o.resources != "":
		f, err := os.Open(o.resources)
		if err != nil {
			return err
		}
		defer f.Close()
		return c.containers().Update(c.args[0], f)
	case o.limits == nil && !o.kernelMemory:
		return c.usage("'berth runtime update' needs a limit to change")
	}
	change, err := json.Marshal(o.limits)
	if err != nil {
		return err
	}
	return c.containers().Update(c.args[0], bytes.NewReader(change))
}

func (c *call) cmdRuntimeEvents() error {
	interval := c.options.runtime.interval
	switch {
	case c.options.runtime.stats:
		interval = 0
	case interval == 0:
		interval = 5 * time.Second
	}
	return c.containers().Events(c.args[0], interval, func(e runtimecli.Event) error { return printJSON(c.out, e, "") })
}

func (c *call) cmdRuntimeSpec() error {
	return runtimecli.WriteSpec(c.options.runtime.Dir, c.options.all, uint32(os.Getuid()), uint32(os.Getgid()))
}

func (c *call) cmdRuntimeFeatures() error {
	e := json.NewEncoder(c.out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "    ")
	return e.Encode(runtimecli.KnownFeatures(Version))
}

// execFailed is the status of an exec that has started no process, runc's: few programs end with it.
const execFailed = 255

// runtimeVersion is what engines read of `runc --version`: who it is in the first line, and further lines by their first words.
func (c *call) runtimeVersion() {
	name := c.runtimeName
	if name == "" {
		name = "berth"
	}
	fmt.Fprintf(c.out, "%s version %s\ncommit: berth-%s\nspec: %s\ngo: %s\n", name, Version, Version, runtimecli.SpecVersion, runtime.Version())
}

// connectConsole connects a process's console with our terminal, or with our plain input and output if we have none. There
// are no keys for leaving: whoever runs a bundle in the foreground stays until its end.
func (c *call) connectConsole(console *os.File) (disconnect func(), err error) {
	t, err := openTerminal(c.in, "")
	if err != nil {
		return nil, err
	}
	t.keys = nil
	stop := t.follow(func(rows, columns uint16) { resizeConsole(console, rows, columns) })
	go func() {
		_ = t.copyInput(func(b []byte) error { _, err := console.Write(b); return err })
	}()
	done := make(chan struct{})
	out, rest := c.out, func() {}
	if f, ok := out.(*os.File); !ok || !term.IsTerminal(int(f.Fd())) {
		n := &newlines{out: out} // there is no terminal whose lines would have to be begun
		out, rest = n, n.flush
	}
	go func() {
		_, _ = io.Copy(out, console) // ends with EIO when the last process has let go of the terminal
		rest()
		close(done)
	}()
	return func() { <-done; stop(); t.restore() }, nil
}

// newlines takes away what a terminal puts before the end of each line (ONLCR of termios(3)), for who reads lines: runc's terminals add nothing.
type newlines struct {
	out  io.Writer
	held bool // a carriage return that may have been added
}

func (n *newlines) Write(b []byte) (int, error) {
	text := b
	if n.held {
		text = append([]byte{'\r'}, b...)
	}
	if n.held = bytes.HasSuffix(text, []byte{'\r'}); n.held {
		text = text[:len(text)-1]
	}
	if _, err := n.out.Write(bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n"))); err != nil {
		return 0, err
	}
	return len(b), nil
}

// flush writes what is held at the end.
func (n *newlines) flush() {
	if n.held {
		_, _ = n.out.Write([]byte{'\r'})
	}
}
