package fullcli

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"text/tabwriter"

	"berth/internal/build"
	"berth/internal/build/dockerfile"
	"berth/internal/cli"
	"berth/internal/container"
	"berth/internal/disk"
	"berth/internal/engine"
	"berth/internal/errdef"

	"golang.org/x/term"
)

// buildImage builds an image from a Dockerfile.
func buildImage(c cli.Call) error {
	debug.SetGCPercent(gcPercent)
	o, err := buildOptions(c)
	if err != nil {
		return err
	}
	quiet, end, err := buildProgress(c, &o)
	if err != nil {
		return err
	}
	if done, err := instead(c, o); done || err != nil {
		end()
		return err
	}
	r, err := build.Build(c.Context, c.Engine, o)
	end()
	var at *build.SourceError
	if errors.As(err, &at) && at.Excerpt != "" {
		fmt.Fprintln(c.Err, at.Excerpt)
	}
	if err != nil {
		return err
	}
	if !quiet {
		sayWarnings(c.Err, r.Warnings)
	}
	if r.Made > 0 {
		if err := c.Engine.BoundBuildCache(c.Context, r.Added); err != nil {
			return err
		}
	}
	own := 0o644 &^ c.Umask
	if path := option(c, "iidfile"); path != "" && r.ID != "" {
		if err := disk.OutputBytes(path, []byte(r.ID), own); err != nil {
			return err
		}
	}
	if path := option(c, "metadata-file"); path != "" {
		if err := writeMetadata(path, r, own); err != nil {
			return err
		}
	}
	if quiet && r.ID != "" {
		_, err = fmt.Fprintln(c.Out, r.ID)
	}
	return err
}

// gcPercent is how much more memory than what is in use a build may take before garbage is collected: with the digests of a large context
// there is little garbage, and looking for it took a tenth of a build that finds nothing to do.
const gcPercent = 400

// buildProgress decides how the build is shown. end is called when it is over.
func buildProgress(c cli.Call, o *build.Options) (quiet bool, end func(), err error) {
	end = func() {}
	mode := option(c, "progress")
	if mode == "" {
		mode = os.Getenv("BUILDKIT_PROGRESS")
	}
	if option(c, "quiet") == "true" {
		mode = "quiet"
	}
	size := terminalSize(c.Err)
	switch mode {
	case "", "auto":
		if mode = "plain"; size != nil && os.Getenv("TERM") != "dumb" {
			mode = "tty"
		}
	case "tty":
		if size == nil {
			return false, end, errdef.Hint(errdef.New(errdef.Invalid, "cannot show progress as tty: standard error is no terminal"), "leave --progress out, or take plain")
		}
	case "plain", "quiet", "rawjson", "json":
	default:
		return false, end, errdef.New(errdef.Invalid, "invalid progress %q: it is auto, tty, plain, rawjson or quiet", mode)
	}
	switch mode {
	case "tty":
		o.Progress, end = build.NewScreenProgress(c.Err, size, os.Getenv("NO_COLOR") == "")
	case "rawjson", "json":
		o.Progress = build.NewJSONProgress(c.Err)
	case "quiet":
		o.Progress = build.NewProgress(io.Discard)
	default:
		o.Progress = build.NewProgress(c.Err)
	}
	return mode == "quiet", end, nil
}

// instead carries out what is asked for in the place of a build: --check, --call, --show-context.
func instead(c cli.Call, o build.Options) (done bool, err error) {
	what, format, _ := strings.Cut(option(c, "call"), ",")
	if option(c, "check") == "true" {
		if what != "" && what != "check" {
			return false, errdef.New(errdef.Invalid, "--check and --call=%s are two things", what)
		}
		what = "check"
	}
	if format != "" && format != "format=json" && format != "format=text" {
		return false, errdef.New(errdef.Invalid, "invalid --call %q: behind the comma it is format=text or format=json", option(c, "call"))
	}
	asJSON := format == "format=json"
	switch {
	case what == "check" || what == "lint":
		return true, checkDockerfile(c, o, asJSON)
	case what == "targets":
		return true, listTargets(c, o, asJSON)
	case what == "outline":
		return true, outline(c, o, asJSON)
	case what != "" && what != "build":
		return false, errdef.New(errdef.Invalid, "unknown --call %q: it is build, check, outline or targets", what)
	case option(c, "show-context") == "true":
		return true, build.ShowContext(c.Context, c.Engine, o, c.Out)
	}
	return false, nil
}

func listTargets(c cli.Call, o build.Options, asJSON bool) error {
	text, err := build.Dockerfile(c.Context, c.Engine, o)
	if err != nil {
		return err
	}
	all, err := dockerfile.Targets(text)
	if err != nil {
		return err
	}
	if asJSON {
		return writeIndented(c.Out, map[string]any{"targets": all})
	}
	w := tabwriter.NewWriter(c.Out, 0, 0, 1, ' ', 0)
	fmt.Fprintln(w, "TARGET\tDESCRIPTION")
	for _, t := range all {
		name := t.Name
		switch {
		case name == "" && t.Default:
			name = "(default)"
		case t.Default:
			name += " (default)"
		}
		fmt.Fprintf(w, "%s\t%s\n", cli.Visible(name), cli.Visible(t.Description))
	}
	return w.Flush()
}

func outline(c cli.Call, o build.Options, asJSON bool) error {
	of, err := build.Outline(c.Context, c.Engine, o)
	if err != nil {
		return err
	}
	if asJSON {
		return writeIndented(c.Out, of)
	}
	w := tabwriter.NewWriter(c.Out, 0, 0, 3, ' ', 0)
	name := of.Name
	if name == "" {
		name = "(default)"
	}
	fmt.Fprintf(c.Out, "TARGET: %s\n", cli.Visible(name))
	if of.Description != "" {
		fmt.Fprintf(c.Out, "DESCRIPTION: %s\n", cli.Visible(of.Description))
	}
	if len(of.Args) > 0 {
		fmt.Fprintln(w, "\nBUILD ARG\tVALUE\tDESCRIPTION")
		for _, a := range of.Args {
			fmt.Fprintf(w, "%s\t%s\t%s\n", cli.Visible(a.Name), cli.Visible(a.Value), cli.Visible(a.Description))
		}
	}
	for _, list := range []struct {
		head string
		all  []dockerfile.InputInfo
	}{{"SECRET", of.Secrets}, {"SSH", of.SSH}} {
		if len(list.all) == 0 {
			continue
		}
		fmt.Fprintf(w, "\n%s\tREQUIRED\n", list.head)
		for _, s := range list.all {
			required := ""
			if s.Required {
				required = "true"
			}
			fmt.Fprintf(w, "%s\t%s\n", cli.Visible(s.Name), required)
		}
	}
	return w.Flush()
}

func writeIndented(w io.Writer, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s\n", data)
	return err
}

// sayWarnings says at the end what buildkit's checks have found.
func sayWarnings(w io.Writer, all []dockerfile.Warning) {
	if len(all) == 0 {
		return
	}
	noun := "warnings"
	if len(all) == 1 {
		noun = "warning"
	}
	fmt.Fprintf(w, "\n %d %s found (use --check to expand):\n", len(all), noun)
	for _, x := range all {
		fmt.Fprintf(w, " - %s: %s (line %d)\n", x.Rule, x.Message, x.Lines.First)
	}
}

// checkDockerfile is --check: nothing is built. Warnings make the exit status 1.
func checkDockerfile(c cli.Call, o build.Options, asJSON bool) error {
	found, err := build.Check(c.Context, c.Engine, o)
	if err != nil {
		return err
	}
	if asJSON {
		if err := writeIndented(c.Out, found); err != nil || len(found.Warnings) == 0 {
			return err
		}
		return cli.ExitStatus(1)
	}
	if len(found.Warnings) == 0 {
		_, err := fmt.Fprintln(c.Out, "Check complete, no warnings found.")
		return err
	}
	noun := "warnings have"
	if len(found.Warnings) == 1 {
		noun = "warning has"
	}
	fmt.Fprintf(c.Out, "Check complete, %d %s been found!\n", len(found.Warnings), noun)
	for _, w := range found.Warnings {
		fmt.Fprintf(c.Out, "\nWARNING: %s", w.Rule)
		if w.URL != "" {
			fmt.Fprintf(c.Out, " - %s", w.URL)
		}
		fmt.Fprintf(c.Out, "\n%s\n%s\n", w.Message, dockerfile.Excerpt(found.Name, found.Text, w.Lines))
	}
	return cli.ExitStatus(1)
}

// writeMetadata writes what buildx writes.
func writeMetadata(path string, r build.Result, mode os.FileMode) error {
	all := map[string]any{}
	if r.ID != "" {
		all["containerimage.descriptor"], all["containerimage.digest"] = r.Target, r.Target.Digest
		if r.Target.Digest == r.Manifest.Digest {
			all["containerimage.config.digest"] = r.ID
		}
	}
	if len(r.Names) > 0 {
		all["image.name"] = strings.Join(r.Names, ",")
	}
	data, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	return disk.OutputBytes(path, data, mode)
}

// buildOptions are what the flags of build ask for.
func buildOptions(c cli.Call) (o build.Options, err error) {
	o = build.Options{
		Source: build.Source{Context: c.Args[0], Dockerfile: option(c, "file"), Stdin: c.In},
		Target: option(c, "target"), Tags: c.Options["tag"], Squash: option(c, "squash") == "true",
		NoCache: option(c, "no-cache") == "true", Pull: option(c, "pull") == "true",
	}
	if o.Args, err = buildArgs(c.Options["build-arg"], os.LookupEnv); err != nil {
		return o, err
	}
	if err := proxyArgs(o.Args); err != nil {
		return o, err
	}
	if name := option(c, "builder"); name != "" && name != "default" {
		return o, errdef.Hint(errdef.New(errdef.Unsupported, "no builder %q found: there is one, which is berth itself", name), "leave --builder out")
	}
	if o.Labels, err = pairs("label", c.Options["label"]); err != nil {
		return o, err
	}
	if o.Annotations, err = annotations(c.Options["annotation"]); err != nil {
		return o, err
	}
	if o.Epoch, err = build.Epoch(o.Args["SOURCE_DATE_EPOCH"]); err != nil {
		return o, err
	}
	if o.Platforms, err = platforms(c.Options["platform"]); err != nil {
		return o, err
	}
	for _, list := range c.Options["no-cache-filter"] {
		o.NoCacheFor = append(o.NoCacheFor, strings.Split(list, ",")...)
	}
	for _, list := range c.Options["allow"] {
		for what := range strings.SplitSeq(list, ",") {
			switch what {
			case "security.insecure":
				o.Insecure = true
			case "network.host": // is allowed
			default:
				return o, errdef.New(errdef.Invalid, "unknown entitlement %q", what)
			}
		}
	}
	if o.Secret, err = secrets(c.Options["secret"]); err != nil {
		return o, err
	}
	if o.SSH, err = agents(c.Options["ssh"]); err != nil {
		return o, err
	}
	for _, text := range c.Options["build-context"] {
		name, value, ok := strings.Cut(text, "=")
		if !ok || name == "" || value == "" {
			return o, errdef.New(errdef.Invalid, "invalid context value: %s, expected key=value", text)
		}
		if o.Contexts == nil {
			o.Contexts = map[string]string{}
		}
		o.Contexts[name] = value
	}
	if err := outputOptions(c, &o); err != nil {
		return o, err
	}
	if err := cacheOptions(c, &o); err != nil {
		return o, err
	}
	if err := attestOptions(c, &o); err != nil {
		return o, err
	}
	o.Stdout, o.Explain = c.Out, option(c, "explain-cache") == "true"
	if path := option(c, "ca-bundle"); path != "" {
		if o.CABundle, err = filepath.Abs(path); err != nil {
			return o, err
		}
		if _, err := os.Stat(path); err != nil {
			return o, errdef.New(errdef.NotFound, "cannot read the certificates of --ca-bundle: %v", err)
		}
	}
	if option(c, "shell-on-failure") == "true" {
		o.Shell = &build.Shell{TTY: term.IsTerminal(int(c.In.Fd())), Talk: func(s *engine.Session) error { return cli.Stream(c, s) }}
	}
	o.Run, err = runOptions(c)
	return o, err
}

// runOptions are what every RUN is given.
func runOptions(c cli.Call) (cfg container.Config, err error) {
	cfg.Network = option(c, "network")
	for _, v := range c.Options["add-host"] {
		h, err := container.ParseHost(v)
		if err != nil {
			return cfg, err
		}
		cfg.Hosts = append(cfg.Hosts, h)
	}
	for _, v := range c.Options["ulimit"] {
		u, err := container.ParseUlimit(v)
		if err != nil {
			return cfg, err
		}
		cfg.Ulimits = append(cfg.Ulimits, u)
	}
	for _, list := range c.Options["security-opt"] {
		for v := range strings.SplitSeq(list, ",") {
			if err := container.ParseSecurity(&cfg.Security, v, os.ReadFile); err != nil {
				return cfg, err
			}
		}
	}
	for _, bytes := range []struct {
		name string
		to   *int64
	}{{"shm-size", &cfg.ShmBytes}, {"memory", &cfg.Resources.MemoryBytes}, {"memory-swap", &cfg.Resources.MemorySwapBytes}} {
		v := option(c, bytes.name)
		switch {
		case v == "":
		case v == "-1" && bytes.name == "memory-swap":
			*bytes.to = -1
		default:
			if *bytes.to, err = container.ParseBytes(v); err != nil {
				return cfg, err
			}
		}
	}
	number := func(name string) int64 {
		v := option(c, name)
		if v == "" {
			return 0
		}
		n, e := strconv.ParseInt(v, 10, 64)
		if e != nil || n < 0 {
			err = errors.Join(err, errdef.New(errdef.Invalid, "invalid --%s %s: it is a number", name, v))
		}
		return n
	}
	cfg.Resources.CPUShares = uint64(number("cpu-shares"))
	cfg.Resources.CPUSet, cfg.Resources.CPUSetMemory = option(c, "cpuset-cpus"), option(c, "cpuset-mems")
	cfg.CgroupParent = option(c, "cgroup-parent")
	if quota := number("cpu-quota"); quota > 0 {
		period := number("cpu-period")
		if period == 0 {
			period = 100_000 // microseconds, the kernel's own
		}
		cfg.Resources.NanoCPUs = quota * 1_000_000_000 / period
	}
	return cfg, err
}

// buildArgs are the variables of --build-arg. A name alone takes its value from the environment, and is left out if there is none.
func buildArgs(given []string, environment func(string) (string, bool)) (map[string]string, error) {
	args := map[string]string{}
	if v, ok := environment("SOURCE_DATE_EPOCH"); ok && v != "" { // as buildx has it
		args["SOURCE_DATE_EPOCH"] = v
	}
	for _, a := range given {
		name, value, ok := strings.Cut(a, "=")
		if name == "" {
			return nil, errdef.New(errdef.Invalid, "invalid build argument '%s': empty name", a)
		}
		if !ok {
			if value, ok = environment(name); !ok {
				continue
			}
		}
		args[name] = value
	}
	return args, nil
}

func pairs(what string, given []string) (map[string]string, error) {
	all := map[string]string{}
	for _, text := range given {
		key, value, _ := strings.Cut(text, "=")
		if key == "" {
			return nil, errdef.New(errdef.Invalid, "invalid %s '%s': empty name", what, text)
		}
		all[key] = value
	}
	return all, nil
}

// fields reads key=value pairs with commas between them, as docker quotes them. A word without "=" is a key with the value "".
func fields(text string) (map[string]string, error) {
	words, err := csv.NewReader(strings.NewReader(text)).Read()
	if err != nil {
		return nil, errdef.New(errdef.Invalid, "cannot understand %q: %w", text, err)
	}
	all := map[string]string{}
	for _, w := range words {
		key, value, _ := strings.Cut(w, "=")
		all[strings.ToLower(key)] = value
	}
	return all, nil
}

// secrets are those of --secret: files or variables, which are read when a command asks for them.
func secrets(given []string) (build.Secret, error) {
	sources := map[string]func() ([]byte, error){}
	for _, text := range given {
		f, err := fields(text)
		if err != nil {
			return nil, err
		}
		id, file, variable := f["id"], f["src"], f["env"]
		if file == "" {
			file = f["source"]
		}
		for key := range f {
			switch key {
			case "id", "src", "source", "env", "type":
			default:
				return nil, errdef.New(errdef.Invalid, "unexpected key '%s' in '%s'", key, text)
			}
		}
		kind := f["type"]
		if kind != "" && kind != "file" && kind != "env" {
			return nil, errdef.New(errdef.Invalid, "unsupported secret type %q", kind)
		}
		if id == "" {
			return nil, errdef.New(errdef.Invalid, "invalid secret '%s': it has no id", text)
		}
		if kind == "env" && variable == "" {
			variable, file = file, ""
		}
		if file == "" && variable == "" { // the variable of that name, else the file
			if _, ok := os.LookupEnv(id); ok && kind != "file" {
				variable = id
			} else {
				file = id
			}
		}
		if variable != "" {
			sources[id] = func() ([]byte, error) { return []byte(os.Getenv(variable)), nil }
			continue
		}
		if _, err := os.Stat(file); err != nil {
			return nil, errdef.New(errdef.NotFound, "cannot read the secret %s: %w", id, err)
		}
		sources[id] = func() ([]byte, error) { return readSecret(id, file) }
	}
	return func(id string) ([]byte, error) {
		if read := sources[id]; read != nil {
			return read()
		}
		return nil, fs.ErrNotExist
	}, nil
}

// maxSecret is BuildKit's limit, in bytes.
const maxSecret = 500 << 10

func readSecret(id, file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, errdef.New(errdef.NotFound, "cannot read the secret %s: %v", id, err)
	}
	defer f.Close()
	value, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err == nil && len(value) > maxSecret {
		err = errdef.New(errdef.Invalid, "invalid secret %s: it has more than %d bytes", id, maxSecret)
	}
	return value, err
}

// agents are those of --ssh: sockets by their ids.
func agents(given []string) (map[string]string, error) {
	all := map[string]string{}
	for _, text := range given {
		id, socket, _ := strings.Cut(text, "=")
		if socket == "" {
			socket = os.Getenv("SSH_AUTH_SOCK")
		}
		if socket == "" {
			return nil, errdef.Hint(errdef.New(errdef.Invalid, "invalid empty ssh agent socket for %s", id), "make sure SSH_AUTH_SOCK is set")
		}
		st, err := os.Stat(socket)
		if err != nil {
			return nil, errdef.New(errdef.NotFound, "cannot use the ssh agent %s: %w", id, err)
		}
		if st.Mode()&fs.ModeSocket == 0 {
			return nil, errdef.Hint(errdef.New(errdef.Unsupported, "cannot use %s for %s: it is no socket of an agent", socket, id), "add the key to an agent (ssh-add), and name its socket")
		}
		all[id] = socket
	}
	return all, nil
}
