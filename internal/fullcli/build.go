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
	"strconv"
	"strings"

	"berth/internal/build"
	"berth/internal/build/dockerfile"
	"berth/internal/cli"
	"berth/internal/container"
	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/image"
)

// buildImage builds an image from a Dockerfile.
func buildImage(c cli.Call) error {
	o, err := buildOptions(c)
	if err != nil {
		return err
	}
	to := c.Err
	quiet := option(c, "quiet") == "true"
	switch mode := option(c, "progress"); {
	case mode != "" && mode != "auto" && mode != "plain" && mode != "quiet":
		return errdef.New(errdef.Invalid, "invalid progress %q: it is auto, plain or quiet", mode)
	case quiet || mode == "quiet":
		quiet, to = true, io.Discard
	}
	o.Progress = build.NewProgress(to)
	if option(c, "check") == "true" {
		return checkDockerfile(c, o)
	}
	r, err := build.Build(c.Context, c.Engine, o)
	var at *build.SourceError
	if errors.As(err, &at) && at.Excerpt != "" {
		fmt.Fprintln(c.Err, at.Excerpt)
	}
	if err != nil {
		return err
	}
	sayWarnings(to, r.Warnings)
	if err := c.Engine.BoundBuildCache(c.Context); err != nil {
		return err
	}
	own := 0o644 &^ c.Umask
	if path := option(c, "iidfile"); path != "" {
		if err := disk.Replace(path, []byte(r.ID), own, disk.Volatile); err != nil {
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
func checkDockerfile(c cli.Call, o build.Options) error {
	found, err := build.Check(c.Context, c.Engine, o)
	if err != nil {
		return err
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
	data, err := json.MarshalIndent(struct {
		Config     image.Digest     `json:"containerimage.config.digest"`
		Descriptor image.Descriptor `json:"containerimage.descriptor"`
		Digest     image.Digest     `json:"containerimage.digest"`
		Names      string           `json:"image.name,omitempty"`
	}{r.ID, r.Manifest, r.Manifest.Digest, strings.Join(r.Names, ",")}, "", "  ")
	if err != nil {
		return err
	}
	return disk.Replace(path, data, mode, disk.Volatile)
}

// buildOptions are what the flags of build ask for.
func buildOptions(c cli.Call) (o build.Options, err error) {
	o = build.Options{
		Source: build.Source{Context: c.Args[0], Dockerfile: option(c, "file"), Stdin: c.In},
		Target: option(c, "target"), Tags: c.Options["tag"],
		NoCache: option(c, "no-cache") == "true", Pull: option(c, "pull") == "true",
	}
	if o.Args, err = buildArgs(c.Options["build-arg"], os.LookupEnv); err != nil {
		return o, err
	}
	if o.Labels, err = pairs("label", c.Options["label"]); err != nil {
		return o, err
	}
	if o.Annotations, err = pairs("annotation", c.Options["annotation"]); err != nil {
		return o, err
	}
	if o.Epoch, err = build.Epoch(o.Args["SOURCE_DATE_EPOCH"]); err != nil {
		return o, err
	}
	if p, err := platform(c); err != nil {
		return o, err
	} else if p != nil {
		o.Platform = *p
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
	for _, text := range c.Options["output"] {
		out, err := output(text)
		if err != nil {
			return o, err
		}
		o.Outputs = append(o.Outputs, out)
	}
	o.Stdout = c.Out
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
	cfg.Resources.CPUSet = option(c, "cpuset-cpus")
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

// output reads one --output.
func output(text string) (build.Output, error) {
	if !strings.Contains(text, "=") {
		if text == "-" {
			return build.Output{Type: build.OutputTar, Dest: "-"}, nil
		}
		return build.Output{Type: build.OutputLocal, Dest: text}, nil
	}
	f, err := fields(text)
	if err != nil {
		return build.Output{}, err
	}
	out := build.Output{Type: f["type"], Dest: f["dest"], Name: f["name"], Rewrite: f["rewrite-timestamp"] == "true"}
	for key := range f {
		switch key {
		case "type", "dest", "name", "rewrite-timestamp":
		default:
			return out, errdef.New(errdef.Unsupported, "cannot understand '%s' in --output %s", key, text)
		}
	}
	switch out.Type {
	case build.OutputLocal, build.OutputTar:
		if out.Dest == "" {
			return out, errdef.New(errdef.Invalid, "--output type=%s needs dest=", out.Type)
		}
	case build.OutputDocker, build.OutputOCI, build.OutputImage:
	default:
		return out, errdef.New(errdef.Unsupported, "unknown output type %q: it is local, tar, docker, oci or image", out.Type)
	}
	if out.Dest != "" && out.Dest != "-" {
		if out.Dest, err = filepath.Abs(out.Dest); err != nil {
			return out, err
		}
	}
	return out, nil
}
