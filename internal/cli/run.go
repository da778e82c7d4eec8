package cli

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"reflect"
	"slices"
	"strings"

	"berth/internal/container"
	"berth/internal/disk"
	"berth/internal/engine"
	"berth/internal/errdef"
	"berth/internal/runtime/lifecycle"
	"berth/internal/runtime/monitor"
	"berth/internal/state"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// config is the configuration that the flags and arguments of run and create ask for.
func (c *call) config() (container.Config, error) {
	cfg := c.options.config
	cfg.Image, cfg.Command = c.args[0], c.args[1:]
	cfg.Env = withProxies(c.configured().Environment(), cfg.Env)
	if err := c.networks(&cfg); err != nil {
		return cfg, err
	}
	if len(c.options.fileLabels) > 0 { // -l wins
		labels := maps.Clone(c.options.fileLabels)
		maps.Copy(labels, cfg.Labels)
		cfg.Labels = labels
	}
	// What docker's own program refuses is 125 of create, too; what its daemon refuses is 1 there.
	switch {
	case cfg.AutoRemove && cfg.Restart.Name != "":
		return cfg, c.misused(125, "conflicting options: cannot specify both --restart and --rm")
	case cfg.Log.DriverName() == container.LogNone && len(cfg.Log.Options) > 0:
		return cfg, c.misused(125, "%v", cfg.Log.Check())
	case cfg.UTS == "host" && cfg.Hostname != "":
		return cfg, c.usage("conflicting options: hostname and the UTS mode")
	case c.options.noHealth && !reflect.ValueOf(cfg.Health).IsZero():
		return cfg, c.misused(125, "--no-healthcheck conflicts with --health-* options")
	}
	if len(cfg.Attach) == 0 && !c.options.detach {
		cfg.Attach = []string{"stdout", "stderr"}
		if cfg.Interactive {
			cfg.Attach = append(cfg.Attach, "stdin")
		}
	}
	if c.options.noHealth {
		cfg.Health.Test = []string{"NONE"}
	}
	if c.options.kernelMemory != 0 {
		c.warn("--kernel-memory is discarded: Linux has no such limit since 5.16; --memory counts the kernel's memory, too")
	}
	if cfg.Resources.OOMKillDisable && cfg.Resources.MemoryBytes == 0 {
		c.warn("OOM killer is disabled for the container, but no memory limit is set, this can result in the system running out of resources.")
	}
	return cfg, nil
}

// withProxies adds variables for proxies to an environment that has not got them.
func withProxies(proxies, env []string) []string {
	for _, p := range proxies {
		name, _, _ := strings.Cut(p, "=")
		if !slices.ContainsFunc(env, func(e string) bool { return e == name || strings.HasPrefix(e, name+"=") }) {
			env = append(env, p)
		}
	}
	return env
}

// networks puts the networks that the flags name into a configuration.
func (c *call) networks(cfg *container.Config) error {
	asked, one := c.options.networks, c.options.endpoint
	if len(asked) == 0 {
		asked = []container.Endpoint{{Network: container.NetworkBridge}}
	}
	first := &asked[0]
	if first.Network == "default" {
		first.Network = container.NetworkBridge
	}
	first.Aliases = append(first.Aliases, one.Aliases...)
	first.LinkLocal = append(first.LinkLocal, one.LinkLocal...)
	if one.IPv4.IsValid() {
		first.IPv4 = one.IPv4
	}
	if one.IPv6.IsValid() {
		first.IPv6 = one.IPv6
	}
	if one.MAC != "" {
		first.MAC = one.MAC
	}
	cfg.Network = first.Network
	single := !onNetworks(cfg.Network)
	for _, e := range asked[1:] {
		if single || !onNetworks(e.Network) {
			return c.usage("conflicting options: cannot attach both user-defined and non-user-defined network-modes")
		}
	}
	switch {
	case len(first.Aliases) > 0 && (single || cfg.Network == container.NetworkBridge):
		return c.misused(125, "conflicting options: network-scoped aliases are only supported for user-defined networks")
	case single && len(first.LinkLocal) > 0:
		return c.usage("conflicting options: a link-local address needs a network")
	case single && len(cfg.Links) > 0:
		return c.usage("conflicting options: %s type networking can't be used with links", linkless(cfg.Network))
	case single && first.MAC != "":
		return c.usage("conflicting options: mac-address and the network mode")
	case single && (first.IPv4.IsValid() || first.IPv6.IsValid()):
		return c.usage("conflicting options: an address needs a network")
	case cfg.Network == container.NetworkHost && (len(cfg.Ports) > 0 || cfg.PublishAll):
		c.warn("Published ports are discarded when using host network mode")
		cfg.Ports, cfg.PublishAll = nil, false
	}
	if !single {
		cfg.Networks = asked
	}
	return nil
}

// linkless is docker's name of a way to network that has no links.
func linkless(mode string) string {
	if _, shares := (container.Config{Network: mode}).SharesNetwork(); shares {
		return "container"
	}
	return mode
}

// onNetworks reports whether what --network names is a network that a container has an interface on.
func onNetworks(mode string) bool {
	_, shares := container.Config{Network: mode}.SharesNetwork()
	return !shares && mode != container.NetworkNone && mode != container.NetworkHost
}

func (c *call) pullPolicy() string {
	if c.options.pull == "" {
		return engine.PullMissing
	}
	return c.options.pull
}

func (c *call) cmdRun() error {
	cfg, err := c.config()
	if err != nil {
		return err
	}
	o, attach := &c.options, c.options.config.Attach
	if o.detach && len(attach) > 0 {
		return c.misused(1, "conflicting options: cannot specify both --attach and --detach")
	}
	e, err := c.engine()
	if err != nil {
		return err
	}
	if o.explain {
		return e.Explain(c.context(), cfg, c.pullPolicy(), c.out)
	}
	stdin := cfg.Interactive && !o.detach
	output := !o.detach
	if len(attach) > 0 {
		stdin = slices.Contains(attach, "stdin")
		output = slices.Contains(attach, "stdout") || slices.Contains(attach, "stderr")
		cfg.Interactive = cfg.Interactive || stdin
	}
	if cfg.TTY && stdin && !term.IsTerminal(int(c.in.Fd())) {
		return c.noTerminal("leave out -t, or use -d")
	}
	var id string
	s, err := e.Run(c.context(), cfg, c.pullPolicy(), monitor.AttachRequest{Stdin: stdin, Output: output, StdinOnce: stdin}, func(made *state.Container) error {
		id = made.ID
		return c.writeCidfile(made.ID)
	})
	if err != nil {
		return err
	}
	if o.detach || cfg.Restart.Lasting() {
		c.sayWhatLogoutEnds(e)
	}
	if o.detach {
		_ = s.Close()
		_, err := fmt.Fprintln(c.out, id)
		return err
	}
	return c.streamOnly(attach, func() error { return c.stream(e, s, stdin, !cfg.TTY && !o.noSigProxy) })
}

// streamOnly leaves out the output that --attach does not name; without --attach all of it is wanted.
func (c *call) streamOnly(attach []string, stream func() error) error {
	if len(attach) == 0 {
		return stream()
	}
	out, errs := c.out, c.err
	defer func() { c.out, c.err = out, errs }()
	if !slices.Contains(attach, "stdout") {
		c.out = io.Discard
	}
	if !slices.Contains(attach, "stderr") {
		c.err = io.Discard
	}
	return stream()
}

// writeCidfile writes the ID to a file that must not exist yet.
func (c *call) writeCidfile(id string) error {
	path := c.options.cidfile
	if path == "" {
		return nil
	}
	err := os.ErrExist
	if _, e := os.Lstat(path); e != nil {
		err = disk.Create(path, []byte(id), 0o644&^c.umask, disk.Volatile)
	}
	if errors.Is(err, os.ErrExist) {
		return errdef.Hint(errdef.New(errdef.Conflict, "container ID file found, make sure the other container isn't running or delete %s", path), "delete %s, or name another file", path)
	}
	return err
}

func (c *call) cmdCreate() error {
	cfg, err := c.config()
	if err != nil {
		return err
	}
	e, err := c.engine()
	if err != nil {
		return err
	}
	made, err := e.Create(c.context(), cfg, c.pullPolicy())
	if err != nil {
		return err
	}
	if err := c.writeCidfile(made.ID); err != nil {
		return errors.Join(err, e.Remove(made, true, true))
	}
	_, err = fmt.Fprintln(c.out, made.ID)
	return err
}

func (c *call) cmdStart() error {
	e, err := c.engine()
	if err != nil {
		return err
	}
	attach := c.options.attachOutput || c.options.interactive
	if attach && len(c.args) > 1 {
		return c.usage("you cannot start and attach multiple containers at once")
	}
	return c.eachStart(func(ref string) error {
		of, err := e.Containers.Resolve(ref)
		if err != nil {
			return err
		}
		status, _, err := e.Status(of)
		if err != nil {
			return err
		}
		if status == state.Paused {
			return errdef.New(errdef.Conflict, "cannot start a paused container, try unpause instead")
		}
		stdin := c.options.interactive && of.Config.Interactive
		if status != state.Running && status != state.Restarting {
			s, err := e.Start(of, monitor.AttachRequest{Stdin: stdin, Output: attach, StdinOnce: stdin})
			if err != nil {
				return err
			}
			if !attach || of.Config.Restart.Lasting() {
				c.sayWhatLogoutEnds(e)
			}
			if attach {
				return c.stream(e, s, stdin, !of.Config.TTY)
			}
			_ = s.Close()
		} else if attach {
			s, err := e.Attach(of, monitor.AttachRequest{Stdin: stdin, Output: true})
			if err != nil {
				return err
			}
			return c.stream(e, s, stdin, !of.Config.TTY)
		}
		_, err = fmt.Fprintln(c.out, ref)
		return err
	})
}

// eachStart is each, and names the containers that did not start in the end.
func (c *call) eachStart(start func(ref string) error) error {
	var failed []string
	err := c.each(func(ref string) error {
		err := start(ref)
		if _, ended := err.(exitError); err != nil && !ended {
			failed = append(failed, ref)
		}
		return err
	})
	if len(failed) == 0 {
		return err
	}
	c.report(err)
	return errdef.New(errdef.KindOf(err), "failed to start containers: %s", strings.Join(failed, ", "))
}

// sayWhatLogoutEnds says, once, whether a container that is to outlive this command would end when its user has logged out.
func (c *call) sayWhatLogoutEnds(e *engine.Engine) {
	if text := e.EndsWithSessions(); text != "" && !c.saidLogout {
		c.warn("%s", text)
		c.saidLogout = true
	}
}

func (c *call) cmdAttach() error {
	e, of, err := c.container()
	if err != nil {
		return err
	}
	stdin := of.Config.Interactive && !c.options.noStdin
	if of.Config.TTY && stdin && !term.IsTerminal(int(c.in.Fd())) {
		return c.noTerminal("use --no-stdin")
	}
	s, err := e.Attach(of, monitor.AttachRequest{Stdin: stdin, Output: true})
	if err != nil {
		return err
	}
	return c.stream(e, s, stdin, !of.Config.TTY && !c.options.noSigProxy)
}

// noTerminal refuses what needs a terminal on standard input; with docker's status, which is not that of run's other errors.
func (c *call) noTerminal(hint string) error {
	c.report(errdef.Hint(errdef.New(errdef.Invalid, "the input device is not a TTY"), "%s", hint))
	return exitError(1)
}

func (c *call) cmdExec() error {
	e, of, err := c.container()
	if err != nil {
		return err
	}
	o := c.options
	x := engine.ExecOptions{
		Command: c.args[1:], TTY: o.config.TTY, User: o.config.User, Workdir: o.config.Workdir, Env: o.config.Env,
		Privileged: o.privileged, Detach: o.detach,
	}
	switch {
	case x.TTY && !o.detach:
		return c.execTerminal(e, of, x)
	case x.TTY:
		// Nobody will look at it, but the process is to have one.
		p, err := e.Exec(of, x, [3]*os.File{})
		if err != nil {
			return err
		}
		return p.Close()
	}
	return c.execPipes(e, of, x)
}

func (c *call) execTerminal(e *engine.Engine, of *state.Container, x engine.ExecOptions) error {
	if c.options.interactive && !term.IsTerminal(int(c.in.Fd())) {
		return c.noTerminal("leave out -t")
	}
	t := &terminal{in: c.in}
	x.Rows, x.Columns, _ = t.size()
	p, err := e.Exec(of, x, [3]*os.File{})
	if err != nil {
		return err
	}
	if t, err = openTerminal(c.in, c.detachKeys()); err != nil {
		return err
	}
	defer t.restore()
	console := p.Console
	defer t.follow(func(rows, columns uint16) { resizeConsole(console, rows, columns) })()
	done := make(chan error, 2)
	if c.options.interactive {
		go func() {
			err := t.copyInput(func(b []byte) error { _, err := console.Write(b); return err })
			if errors.Is(err, errDetached) {
				done <- err
			}
		}()
	}
	go func() {
		_, _ = io.Copy(c.out, console) // ends with EIO when the last process has let go of the terminal
		done <- nil
	}()
	if err := <-done; errors.Is(err, errDetached) {
		return p.Detach()
	}
	status, err := p.Wait()
	if err != nil {
		return err
	}
	return status2error(status)
}

// execPipes gives the process pipes of ours, never our own descriptors: what a container holds it can open again, with
// more rights than we gave it.
func (c *call) execPipes(e *engine.Engine, of *state.Container, x engine.ExecOptions) error {
	// Nothing here is to be put right when we are told to end, and the process is not ours to wait for.
	signal.Reset(unix.SIGINT, unix.SIGTERM)
	var theirs [3]*os.File
	defer func() {
		for _, f := range theirs {
			if f != nil {
				_ = f.Close()
			}
		}
	}()
	var in, out, errs *os.File
	var err error
	if c.options.interactive && !x.Detach {
		theirs[0], in, err = os.Pipe()
	} else {
		theirs[0], err = lifecycle.OpenNull(os.O_RDONLY)
	}
	if err != nil {
		return err
	}
	for i, ours := range []**os.File{&out, &errs} {
		if x.Detach {
			theirs[i+1], err = lifecycle.OpenNull(os.O_WRONLY)
		} else {
			*ours, theirs[i+1], err = os.Pipe()
		}
		if err != nil {
			return err
		}
	}
	p, err := e.Exec(of, x, theirs)
	if err != nil {
		return err
	}
	for i, f := range theirs {
		_ = f.Close()
		theirs[i] = nil
	}
	if x.Detach {
		return p.Close()
	}
	if in != nil {
		go func() {
			_, _ = io.Copy(in, c.in)
			_ = in.Close()
		}()
	}
	done := make(chan struct{}, 2)
	for _, s := range []struct {
		to   io.Writer
		from *os.File
	}{{c.out, out}, {c.err, errs}} {
		go func() {
			_, _ = io.Copy(s.to, s.from)
			done <- struct{}{}
		}()
	}
	<-done
	<-done
	status, err := p.Wait()
	if err != nil {
		return err
	}
	return status2error(status)
}
