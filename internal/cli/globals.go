package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"berth/internal/dockerconfig"
	"berth/internal/errdef"
	"berth/internal/settings"

	"github.com/spf13/pflag"
)

// clientOptions are what docker's global flags say.
type clientOptions struct {
	context  string
	hosts    []string
	tls      bool
	version  bool
	logLevel string
}

// globalFlags are the flags before the command: docker's, and the settings by their keys.
func globalFlags() []flag {
	client := func(at func(o *clientOptions, v string) error) func(*call, string) error {
		return func(c *call, v string) error { return at(&c.client, v) }
	}
	tls := client(func(o *clientOptions, v string) error { o.tls = o.tls || v == "true"; return nil })
	// Without TLS these files are for nothing, as with docker, and an engine that is reached by TLS is refused.
	material := func(*call, string) error { return nil }
	all := []flag{
		{"config", "", "string", "Location of client config files (DOCKER_CONFIG, or ~/.docker)", func(_ *call, v string) error {
			return os.Setenv(dockerconfig.DirEnv, v) // for the programs that this one calls, too
		}},
		{"context", "c", "string", "Name of the context to use (DOCKER_CONTEXT); only this machine's can be used", client(func(o *clientOptions, v string) error { o.context = v; return nil })},
		{"host", "H", "list", "Engine to connect to (DOCKER_HOST); only local, this machine, can be used", client(func(o *clientOptions, v string) error { o.hosts = append(o.hosts, v); return nil })},
		{"log-level", "l", "string", "How much is said on standard error (debug|info|warn|error|fatal)", func(c *call, v string) error {
			if c.client.logLevel = v; v == "debug" {
				c.given["debug"] = "true"
			}
			return nil
		}},
		{"tls", "", "", "Use TLS for the connection with an engine elsewhere (there is none)", tls},
		{"tlscacert", "", "string", "Trust certs signed only by this CA (with --tls)", material},
		{"tlscert", "", "string", "Path to TLS certificate file (with --tls)", material},
		{"tlskey", "", "string", "Path to TLS key file (with --tls)", material},
		{"tlsverify", "", "", "Use TLS and verify the remote (there is none)", tls},
		{"version", "v", "", "Print version information and quit", client(func(o *clientOptions, v string) error { o.version = v == "true"; return nil })},
	}
	return sortFlags(append(all, settingFlags()...))
}

// settingFlags are the settings as flags, which may stand after the command, too.
func settingFlags() []flag {
	var all []flag
	for _, k := range settings.Keys {
		f := flag{name: k.Name, kind: "string", help: k.Help + " (" + k.Env + ")", set: func(c *call, v string) error { c.given[k.Name] = v; return nil }}
		switch k.Name {
		case "debug":
			f.kind, f.short = "", "D"
		case "host-loopback", "keep-blobs":
			f.kind = ""
		}
		all = append(all, f)
	}
	return all
}

// flagSet is flags as pflag reads them; given takes their values.
func (c *call) flagSet(name string, flags []flag, given map[string][]string) *pflag.FlagSet {
	set := pflag.NewFlagSet(name, pflag.ContinueOnError)
	set.SetOutput(io.Discard)
	set.Usage = func() {}
	set.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName { return pflag.NormalizedName(longName(name)) })
	for _, f := range flags {
		c.add(set, f, given)
	}
	return set
}

// longName is the name in the table of a flag of docker's that has another one, too, which its help does not show.
func longName(name string) string {
	switch name {
	case "net":
		return "network"
	case "net-alias":
		return "network-alias"
	case "dns-opt":
		return "dns-option"
	case "time": // of stop and restart, until docker 28
		return "timeout"
	}
	return name
}

func (c *call) add(set *pflag.FlagSet, f flag, given map[string][]string) {
	pf := set.VarPF(&value{c: c, f: f, given: given}, f.name, f.short, f.help)
	if f.kind == "" {
		pf.NoOptDefVal = "true"
	}
}

// globals takes the flags before the command.
func (c *call) globals(args []string) ([]string, error) {
	if len(args) == 0 || !strings.HasPrefix(args[0], "-") {
		return args, nil
	}
	flags := globalFlags()
	set := c.flagSet("berth", flags, map[string][]string{})
	set.SetInterspersed(false)
	switch err := set.Parse(args); {
	case errors.Is(err, pflag.ErrHelp):
		return []string{"help"}, nil
	case err != nil:
		return nil, c.flagError(err, flags)
	case c.client.version:
		return []string{"version", "--short"}, nil
	case c.client.context != "" && len(c.client.hosts) > 0:
		return nil, errdef.New(errdef.Invalid, "conflicting options: cannot specify both --host and --context")
	case c.client.logLevel != "" && !slices.Contains([]string{"debug", "info", "warn", "error", "fatal"}, c.client.logLevel):
		return nil, errdef.New(errdef.Invalid, "Unable to parse logging level: %s", c.client.logLevel)
	case len(c.client.hosts) > 1:
		return nil, errdef.New(errdef.Invalid, "Specify only one -H")
	}
	return set.Args(), nil
}

// flagError is pflag's error with the name that was probably meant.
func (c *call) flagError(err error, flags []flag) error {
	text := err.Error()
	if name, ok := strings.CutPrefix(text, "unknown flag: --"); ok {
		if near := nearestFlag(name, flags); near != "" {
			text += "; did you mean --" + near + "?"
		}
	}
	if c.command != nil && strings.HasPrefix(c.command.name, "runtime ") {
		return c.usage("%s", text)
	}
	var bad *pflag.InvalidValueError
	if c.command != nil && c.command.name == "container create" && errors.As(err, &bad) && slices.Contains(daemons, bad.GetFlag().Name) {
		return c.misused(1, "%s", text)
	}
	return c.misused(badFlag, "%s", text)
}

// daemons are flags of create whose values docker's client hands on as they are: what its daemon then refuses has create's own status.
var daemons = []string{"volume", "log-driver", "tmpfs", "stop-signal", "isolation", "oom-score-adj", "ipc"}

// badFlag is the exit status for flags that make no sense; docker's. As an OCI runtime berth has runc's.
const badFlag = 125

// warn says what does not stop the command, unless --log-level asks for errors alone.
func (c *call) warn(format string, args ...any) {
	if c.client.logLevel != "error" && c.client.logLevel != "fatal" {
		fmt.Fprintf(c.err, "WARNING: %s\n", visible(fmt.Sprintf(format, args...)))
	}
}

// configured is docker's client configuration. As with docker, one that cannot be read is warned of and counts as empty.
func (c *call) configured() dockerconfig.File {
	if c.configFile == nil {
		f, err := dockerconfig.Default().Load()
		if err != nil {
			c.warn("%v", err)
		}
		c.configFile = &f
	}
	return *c.configFile
}

// choice is which engine is meant.
func (c *call) choice() dockerconfig.Choice {
	host := ""
	if len(c.client.hosts) > 0 {
		host = c.client.hosts[0]
	}
	return dockerconfig.Choose(c.client.context, host, c.client.tls, os.Getenv, c.configured().CurrentContext)
}

// checkLocal is an error if the engine that is meant is not this machine's.
func (c *call) checkLocal() error {
	choice := c.choice()
	of, err := dockerconfig.Default().Get(choice, choice.Context)
	if err != nil {
		return err
	}
	if of.Host() == dockerconfig.Local {
		return nil
	}
	hint := map[string]string{
		"--context": "leave out --context", "--host": "leave out --host", "TLS": "leave out --tls and --tlsverify, and unset DOCKER_TLS_VERIFY",
		"docker context use": "berth context use default",
	}[choice.From]
	if hint == "" {
		hint = "unset " + choice.From
	}
	return errdef.Hint(errdef.New(errdef.Unsupported, "cannot use the engine %s (by %s): berth works on this machine alone, in its context default", of.Host(), choice.From), "%s", hint)
}

// configuredFormat is the --format that docker's client configuration has for a command.
func (c *call) configuredFormat(command string) string {
	switch command {
	case "container ls":
		return c.configured().PsFormat
	case "image ls":
		return c.configured().ImagesFormat
	case "network ls":
		return c.configured().NetworksFormat
	case "volume ls":
		return c.configured().VolumesFormat
	case "container stats":
		return c.configured().StatsFormat
	}
	return ""
}

// detachKeys are the keys for leaving a terminal.
func (c *call) detachKeys() string {
	if keys := c.options.detachKeys; keys != "" {
		return keys
	}
	return c.configured().DetachKeys
}
