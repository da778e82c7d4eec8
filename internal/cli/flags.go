package cli

import (
	"bufio"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"berth/internal/container"
	"berth/internal/errdef"
	"berth/internal/image"
	"berth/internal/network"
	"berth/internal/volume"
)

// options are the values of all flags that are not part of a container's configuration.
type options struct {
	config container.Config

	detach, all, force, quiet, noTrunc, latest, follow, timestamps, details, volumes, explain, noSigProxy, noStdin bool

	cidfile      string
	detachKeys   string
	pull         string
	format       string
	signal       string
	timeout      *int
	tail         string
	since, until string
	filters      []string
	off, print   bool // of the unit that starts containers
	dry          bool // a command only says what would go, or be moved
	to           string
	last         int
	kind         string
	size, short  bool
	privileged   bool
	interactive  bool
	attachOutput bool

	// Of `berth runtime`.
	runtime runtimeOptions

	limitsGiven, restartGiven bool  // of what update can change, something is asked for
	pidsGiven                 bool  // the limit of processes is asked for; zero is then none
	kernelMemory              int64 // asked for, and no kernel's any more
	fileLabels                map[string]string
	noHealth                  bool
	noStream                  bool
	keepBytes                 int64

	// Of the network that --network names, if it is one.
	networks []container.Endpoint
	endpoint container.Endpoint

	// A network that is to be made, without its subnets, which are these.
	network                   network.Network
	subnets, gateways, ranges []string
	auxiliary                 map[string]netip.Addr
	volume                    volume.Volume // that is to be made
	availability              string
	link, verbose             bool
	platforms                 []string // of an image
	plain, tree               bool

	// Of a context that is made or changed.
	from           string
	description    *string
	dockerEndpoint map[string]string

	refused error // why a flag of docker's can have no effect here
}

func set(f func(o *options, v string) error) func(*call, string) error {
	return func(c *call, v string) error { return f(&c.options, v) }
}

func boolean(at func(o *options) *bool) func(*call, string) error {
	return set(func(o *options, v string) error { *at(o) = v == "true"; return nil })
}

func text(at func(o *options) *string) func(*call, string) error {
	return set(func(o *options, v string) error { *at(o) = v; return nil })
}

func list(at func(o *options) *[]string) func(*call, string) error {
	return set(func(o *options, v string) error { *at(o) = append(*at(o), v); return nil })
}

// addFilter takes a --filter; what keys there are is the command's.
func addFilter(o *options, v string) error {
	key, value, has := strings.Cut(v, "=")
	if !has {
		return errdef.New(errdef.Invalid, "bad format of filter (expected name=value)")
	}
	o.filters = append(o.filters, strings.ToLower(strings.TrimSpace(key))+"="+strings.TrimSpace(value))
	return nil
}

// containerFlags are the flags of run and create.
func containerFlags() []flag {
	return sortFlags(append(limitFlags(), []flag{
		{"add-host", "", "list", "Add a custom host-to-IP mapping (host:ip)", set(func(o *options, v string) error {
			h, err := container.ParseHost(v)
			o.config.Hosts = append(o.config.Hosts, h)
			return err
		})},
		{"annotation", "", "map", "Add an annotation to the container (passed through to the OCI runtime)", set(func(o *options, v string) error {
			return setPair(&o.config.Annotations, "annotation", v)
		})},
		{"attach", "a", "list", "Attach to STDIN, STDOUT or STDERR", set(func(o *options, v string) error {
			v = strings.ToLower(v)
			if !slices.Contains([]string{"stdin", "stdout", "stderr"}, v) {
				return errdef.New(errdef.Invalid, "valid streams are STDIN, STDOUT and STDERR")
			}
			o.config.Attach = append(o.config.Attach, v)
			return nil
		})},
		{"cap-add", "", "list", "Add Linux capabilities", list(func(o *options) *[]string { return &o.config.CapAdd })},
		{"cap-drop", "", "list", "Drop Linux capabilities", list(func(o *options) *[]string { return &o.config.CapDrop })},
		{"cgroupns", "", "string", "Cgroup namespace to use (host|private)", choice(func(o *options) *string { return &o.config.Cgroupn }, "cgroup namespace", "host", "private")},
		{"cidfile", "", "string", "Write the container ID to the file", text(func(o *options) *string { return &o.cidfile })},
		{"device", "", "list", "Add a host device to the container", set(setDevice)},
		{"dns", "", "list", "Set custom DNS servers", set(func(o *options, v string) error {
			if _, err := netip.ParseAddr(v); err != nil {
				return errdef.New(errdef.Invalid, "%s is not an ip address", v)
			}
			o.config.DNS = append(o.config.DNS, v)
			return nil
		})},
		{"dns-option", "", "list", "Set DNS options", list(func(o *options) *[]string { return &o.config.DNSOptions })},
		{"dns-search", "", "list", "Set custom DNS search domains", list(func(o *options) *[]string { return &o.config.DNSSearch })},
		{"domainname", "", "string", "Container NIS domain name", text(func(o *options) *string { return &o.config.Domainname })},
		{"entrypoint", "", "string", "Overwrite the default ENTRYPOINT of the image", set(func(o *options, v string) error {
			o.config.EntrypointSet, o.config.Entrypoint = true, nil
			if v != "" {
				o.config.Entrypoint = []string{v}
			}
			return nil
		})},
		{"env", "e", "list", "Set environment variables", set(func(o *options, v string) error {
			o.config.Env = appendEnv(o.config.Env, v)
			if strings.HasPrefix(v, "=") || v == "" {
				return errdef.New(errdef.Invalid, "invalid environment variable: %s", v)
			}
			return nil
		})},
		{"env-file", "", "list", "Read in a file of environment variables", set(func(o *options, v string) error {
			more, err := readEnvFile(v)
			o.config.Env = append(more, o.config.Env...) // -e wins
			return err
		})},
		{"expose", "", "list", "Expose a port or a range of ports", set(func(o *options, v string) error {
			ports, err := container.ParseExpose(v)
			o.config.Exposed = append(o.config.Exposed, ports...)
			return err
		})},
		{"gpus", "", "gpu-request", "GPU devices to add to the container ('all' to pass all GPUs)", set(func(o *options, v string) error {
			r, err := container.ParseGPUs(v)
			o.config.Requests = append(o.config.Requests, r)
			return err
		})},
		{"group-add", "", "list", "Add additional groups to join", list(func(o *options) *[]string { return &o.config.Groups })},
		{"health-cmd", "", "string", "Command to run to check health", set(func(o *options, v string) error {
			if v != "" {
				o.config.Health.Test = []string{"CMD-SHELL", v}
			}
			return nil
		})},
		{"health-interval", "", "duration", "Time between running the check (ms|s|m|h) (default 0s)", healthDuration("health-interval", func(h *image.Healthcheck) *time.Duration { return &h.Interval })},
		{"health-on-failure", "", "string", "What to do with a container that becomes unhealthy (none|kill|restart|stop)", choice(func(o *options) *string { return &o.config.HealthOnFailure },
			"on-failure action", container.OnFailureNone, container.OnFailureKill, container.OnFailureRestart, container.OnFailureStop)},
		{"health-retries", "", "int", "Consecutive failures needed to report unhealthy", set(func(o *options, v string) (err error) {
			if o.config.Health.Retries, err = strconv.Atoi(v); err == nil && o.config.Health.Retries < 0 {
				err = errdef.New(errdef.Invalid, "--health-retries cannot be negative")
			}
			return err
		})},
		{"health-start-interval", "", "duration", "Time between running the check during the start period (ms|s|m|h) (default 0s)", healthDuration("health-start-interval", func(h *image.Healthcheck) *time.Duration { return &h.StartInterval })},
		{"health-start-period", "", "duration", "Start period for the container to initialize before starting health-retries countdown (ms|s|m|h) (default 0s)", healthDuration("health-start-period", func(h *image.Healthcheck) *time.Duration { return &h.StartPeriod })},
		{"health-timeout", "", "duration", "Maximum time to allow one check to run (ms|s|m|h) (default 0s)", healthDuration("health-timeout", func(h *image.Healthcheck) *time.Duration { return &h.Timeout })},
		{"hostname", "h", "string", "Container host name", set(func(o *options, v string) error {
			o.config.Hostname = v
			return checkHostname(v)
		})},
		{"init", "", "", "Run an init inside the container that forwards signals and reaps processes", boolean(func(o *options) *bool { return &o.config.Init })},
		{"interactive", "i", "", "Keep STDIN open even if not attached", boolean(func(o *options) *bool { return &o.config.Interactive })},
		{"ip", "", "string", "IPv4 address (e.g., 172.30.100.104)", set(func(o *options, v string) (err error) {
			o.endpoint.IPv4, err = container.ParseAddress(v, false)
			return err
		})},
		{"ip6", "", "string", "IPv6 address (e.g., 2001:db8::33)", set(func(o *options, v string) (err error) {
			o.endpoint.IPv6, err = container.ParseAddress(v, true)
			return err
		})},
		{"ipc", "", "string", "IPC mode to use", set(func(o *options, v string) (err error) {
			o.config.IPC, err = container.ParseIPCMode(v)
			return err
		})},
		{"isolation", "", "string", "Container isolation technology (default)", set(func(o *options, v string) error {
			o.config.Isolation = v
			return container.CheckIsolation(v)
		})},
		{"label", "l", "list", "Set meta data on a container", set(func(o *options, v string) error {
			return setPair(&o.config.Labels, "label", v)
		})},
		{"label-file", "", "list", "Read in a line delimited file of labels", set(func(o *options, v string) error {
			lines, err := readLines(v)
			if err != nil {
				return err
			}
			for _, l := range lines {
				if err := setPair(&o.fileLabels, "label", l.text); err != nil {
					return errdef.New(errdef.Invalid, "invalid label file (%s) on line %d: %w", v, l.number, err)
				}
			}
			return nil
		})},
		{"link", "", "list", "Add link to another container", set(func(o *options, v string) error {
			l, err := container.ParseLink(v)
			o.config.Links = append(o.config.Links, l)
			return err
		})},
		{"link-local-ip", "", "list", "Container IPv4/IPv6 link-local addresses", set(func(o *options, v string) error {
			a, err := container.ParseLinkLocal(v)
			o.endpoint.LinkLocal = append(o.endpoint.LinkLocal, a)
			return err
		})},
		{"log-driver", "", "string", "Logging driver for the container (json-file|local|journald|syslog|none)", set(setLogDriver)},
		{"log-opt", "", "list", "Log driver options", set(setLogOption)},
		{"mac-address", "", "string", "Container MAC address (e.g., 92:d0:c6:0a:29:33)", set(func(o *options, v string) error {
			o.endpoint.MAC = v
			if m, err := net.ParseMAC(v); err != nil || len(m) != 6 {
				return errdef.New(errdef.Invalid, "%s is not a valid mac address", v)
			}
			return nil
		})},
		{"mount", "", "mount", "Attach a filesystem mount to the container", set(func(o *options, v string) error {
			m, err := container.ParseMount(v, workingDirectory())
			o.config.Mounts = append(o.config.Mounts, m)
			return err
		})},
		{"name", "", "string", "Assign a name to the container", text(func(o *options) *string { return &o.config.Name })},
		{"network", "", "network", "Connect a container to a network", set(func(o *options, v string) error {
			e, err := container.ParseNetwork(v)
			o.networks = append(o.networks, e)
			return err
		})},
		{"network-alias", "", "list", "Add network-scoped alias for the container", list(func(o *options) *[]string { return &o.endpoint.Aliases })},
		{"no-healthcheck", "", "", "Disable any container-specified HEALTHCHECK", boolean(func(o *options) *bool { return &o.noHealth })},
		{"oom-score-adj", "", "int", "Tune host's OOM preferences (-1000 to 1000)", set(func(o *options, v string) error {
			n, err := strconv.Atoi(v)
			if err != nil || n < -1000 || n > 1000 {
				return errdef.New(errdef.Invalid, "Invalid value %s, range for oom score adj is [-1000, 1000]", v)
			}
			o.config.OOMScoreAdj = n
			return nil
		})},
		{"pid", "", "string", "PID namespace to use", set(func(o *options, v string) (err error) {
			o.config.PID, err = container.ParsePIDMode(v)
			return err
		})},
		{"platform", "", "string", "Set platform if server is multi-platform capable", text(func(o *options) *string { return &o.config.Platform })},
		{"privileged", "", "", "Give extended privileges to this container", boolean(func(o *options) *bool { return &o.config.Privileged })},
		{"publish", "p", "list", "Publish a container's port(s) to the host", set(func(o *options, v string) error {
			ports, err := container.ParsePublish(v)
			o.config.Ports = append(o.config.Ports, ports...)
			return err
		})},
		{"publish-all", "P", "", "Publish all exposed ports to random ports", boolean(func(o *options) *bool { return &o.config.PublishAll })},
		{"pull", "", "string", "Pull image before running (always|missing|never)", choice(func(o *options) *string { return &o.pull }, "pull option", "always", "missing", "never")},
		{"quiet", "q", "", "Suppress the pull output", boolean(func(o *options) *bool { return &o.quiet })},
		{"read-only", "", "", "Mount the container's root filesystem as read only", boolean(func(o *options) *bool { return &o.config.ReadOnly })},
		{"restart", "", "string", "Restart policy to apply when a container exits", set(func(o *options, v string) (err error) {
			o.config.Restart, err = container.ParseRestart(v)
			return err
		})},
		{"rm", "", "", "Automatically remove the container when it exits", boolean(func(o *options) *bool { return &o.config.AutoRemove })},
		{"runtime", "", "string", "OCI runtime to use for this container: a name (of the setting runtimes, or in $PATH) or a path", set(func(o *options, v string) error {
			o.config.Runtime = v
			return container.CheckRuntime(v)
		})},
		{"security-opt", "", "list", "Security options", set(func(o *options, v string) error {
			return container.ParseSecurity(&o.config.Security, v, os.ReadFile)
		})},
		{"shm-size", "", "bytes", "Size of /dev/shm", set(func(o *options, v string) (err error) {
			o.config.ShmBytes, err = container.ParseBytes(v)
			return err
		})},
		{"stop-signal", "", "string", "Signal to stop the container", set(func(o *options, v string) error {
			o.config.StopSignal = v
			_, err := parseSignal(v)
			return err
		})},
		{"stop-timeout", "", "int", "Timeout (in seconds) to stop a container", set(func(o *options, v string) error {
			n, err := strconv.Atoi(v)
			o.config.StopTimeout = &n
			return err
		})},
		{"sysctl", "", "map", "Sysctl options", set(func(o *options, v string) error {
			key, value, has := strings.Cut(v, "=")
			if !has {
				return errdef.New(errdef.Invalid, "sysctl '%s' is not KEY=VALUE", v)
			}
			if o.config.Sysctls == nil {
				o.config.Sysctls = map[string]string{}
			}
			o.config.Sysctls[key] = value
			return nil
		})},
		{"systemd", "", "string", "Give the container what systemd needs as its first process: where the command is one (true), never (false), always", choice(func(o *options) *string { return &o.config.Systemd }, "systemd mode", container.SystemdAuto, container.SystemdNever, container.SystemdAlways)},
		{"tmpfs", "", "list", "Mount a tmpfs directory", set(func(o *options, v string) error {
			m, err := container.ParseTmpfs(v)
			o.config.Mounts = append(o.config.Mounts, m)
			return err
		})},
		{"tty", "t", "", "Allocate a pseudo-TTY", boolean(func(o *options) *bool { return &o.config.TTY })},
		{"ulimit", "", "ulimit", "Ulimit options", set(func(o *options, v string) error {
			u, err := container.ParseUlimit(v)
			o.config.Ulimits = append(o.config.Ulimits, u)
			return err
		})},
		{"user", "u", "string", "Username or UID (format: <name|uid>[:<group|gid>])", text(func(o *options) *string { return &o.config.User })},
		{"userns", "", "string", "User namespace to use (host|keep-id|auto)", choice(func(o *options) *string { return &o.config.UserNS }, "user namespace", container.UserNSHost, container.UserNSKeepID, container.UserNSAuto)},
		{"uts", "", "string", "UTS namespace to use (host)", choice(func(o *options) *string { return &o.config.UTS }, "UTS mode", "host")},
		{"volume", "v", "list", "Bind mount a volume", set(func(o *options, v string) error {
			m, err := container.ParseVolume(v, workingDirectory())
			o.config.Mounts = append(o.config.Mounts, m)
			return err
		})},
		{"volumes-from", "", "list", "Mount volumes from the specified container(s)", list(func(o *options) *[]string { return &o.config.VolumesFrom })},
		{"volume-driver", "", "string", "Optional volume driver for the container (local)", set(func(o *options, v string) error {
			o.config.VolumeDriver = v
			return container.CheckVolumeDriver(v)
		})},
		{"workdir", "w", "string", "Working directory inside the container", text(func(o *options) *string { return &o.config.Workdir })},
	}...))
}

func sortFlags(all []flag) []flag {
	slices.SortFunc(all, func(a, b flag) int { return strings.Compare(a.name, b.name) })
	return all
}

// runFlags are those of run alone.
func runFlags() []flag {
	own := []flag{
		{"detach", "d", "", "Run container in background and print container ID", boolean(func(o *options) *bool { return &o.detach })},
		{"detach-keys", "", "string", "Override the key sequence for detaching a container", set(setDetachKeys)},
		{"explain", "", "", "Print the plan, system call by system call, instead of running it", boolean(func(o *options) *bool { return &o.explain })},
		{"sig-proxy", "", "", "Proxy received signals to the process", set(func(o *options, v string) error { o.noSigProxy = v == "false"; return nil })},
	}
	return sortFlags(append(containerFlags(), own...))
}

// setPair puts KEY=VALUE into a map.
func setPair(to *map[string]string, what, s string) error {
	key, value, err := container.ParsePair(what, s)
	if *to == nil {
		*to = map[string]string{}
	}
	(*to)[key] = value
	return err
}

// healthDuration is a flag of a health check; zero leaves it to the image or docker's default.
func healthDuration(name string, at func(h *image.Healthcheck) *time.Duration) func(*call, string) error {
	return set(func(o *options, v string) error {
		d, err := time.ParseDuration(v)
		if err == nil && d < 0 {
			err = errdef.New(errdef.Invalid, "--%s cannot be negative", name)
		}
		*at(&o.config.Health) = d
		return err
	})
}

func choice(at func(o *options) *string, what string, allowed ...string) func(*call, string) error {
	return set(func(o *options, v string) error {
		if !slices.Contains(allowed, v) {
			return errdef.New(errdef.Invalid, "invalid %s %q: it is %s", what, v, strings.Join(allowed, " or "))
		}
		*at(o) = v
		return nil
	})
}

func workingDirectory() string {
	dir, err := os.Getwd()
	if err != nil {
		return "/"
	}
	return dir
}

// appendEnv adds a variable; a name alone takes its value from our own environment, and is left out if there is none.
func appendEnv(env []string, v string) []string {
	if strings.Contains(v, "=") {
		return append(env, v)
	}
	if value, ok := os.LookupEnv(v); ok {
		return append(env, v+"="+value)
	}
	return append(env, v) // takes the image's away
}

// textLine is a line of a file, and its number.
type textLine struct {
	text   string
	number int
}

// readLines reads the lines of --env-file and --label-file: # begins a comment, nothing is quoted.
func readLines(path string) ([]textLine, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, errdef.New(errdef.Invalid, "cannot read the file: %w", err)
	}
	defer f.Close()
	var all []textLine
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimLeft(strings.TrimPrefix(lines.Text(), "\ufeff"), " \t")
		if line != "" && !strings.HasPrefix(line, "#") {
			all = append(all, textLine{line, n})
		}
	}
	return all, lines.Err()
}

// readEnvFile reads docker's --env-file: a variable a line.
func readEnvFile(path string) ([]string, error) {
	lines, err := readLines(path)
	if err != nil {
		return nil, err
	}
	var env []string
	for _, l := range lines {
		name, _, _ := strings.Cut(l.text, "=")
		if name == "" || strings.ContainsAny(name, " \t") {
			return nil, errdef.New(errdef.Invalid, "invalid env file (%s) on line %d: variable '%s' contains whitespaces or has no name", path, l.number, name)
		}
		env = appendEnv(env, l.text)
	}
	return env, nil
}

// checkHostname allows what RFC 1123 does, and "_", which docker's users have.
func checkHostname(name string) error {
	if name == "" || len(name) > 64 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_") != "" || strings.HasPrefix(name, "-") {
		return errdef.New(errdef.Invalid, "invalid hostname %q: letters, digits, '.', '-' and '_', at most 64", name)
	}
	return nil
}

// setDevice reads --device: a path, or the name of a device that CDI describes.
func setDevice(o *options, v string) error {
	if _, _, _, ok := container.QualifiedDevice(v); ok {
		i := slices.IndexFunc(o.config.Requests, func(r container.DeviceRequest) bool { return r.Driver == container.DriverCDI })
		if i < 0 {
			i, o.config.Requests = len(o.config.Requests), append(o.config.Requests, container.DeviceRequest{Driver: container.DriverCDI})
		}
		o.config.Requests[i].IDs = append(o.config.Requests[i].IDs, v)
		return nil
	}
	d, err := container.ParseDevice(v)
	o.config.Devices = append(o.config.Devices, d)
	return err
}

func setLogDriver(o *options, v string) error {
	o.config.Log.Driver = v
	return container.LogConfig{Driver: v}.Check()
}

// setLogOption takes an option of whatever driver it is; which one that has is known when all flags have been read.
func setLogOption(o *options, v string) error {
	key, value, has := strings.Cut(v, "=")
	if !has || key == "" {
		return errdef.New(errdef.Invalid, "invalid logging opts format: '%s' should be in the form key=value", v)
	}
	if o.config.Log.Options == nil {
		o.config.Log.Options = map[string]string{}
	}
	o.config.Log.Options[key] = value
	return nil
}

func setDetachKeys(o *options, v string) error {
	o.detachKeys = v
	_, err := parseDetachKeys(v)
	return err
}

// parseDetachKeys reads docker's notation: comma-separated letters, or ctrl- and a letter or one of @ [ \ ] ^ _.
func parseDetachKeys(s string) ([]byte, error) {
	if s == "" {
		return []byte{16, 17}, nil // ctrl-p,ctrl-q
	}
	var keys []byte
	for part := range strings.SplitSeq(s, ",") {
		c, ctrl := strings.CutPrefix(strings.ToLower(part), "ctrl-")
		switch {
		case len(c) != 1:
			return nil, errdef.New(errdef.Invalid, "invalid detach keys (%s): Unknown character: '%s'", s, part)
		case !ctrl:
			keys = append(keys, part[0])
		case c[0] >= 'a' && c[0] <= 'z':
			keys = append(keys, c[0]-'a'+1)
		case strings.ContainsRune("@[\\]^_", rune(c[0])):
			keys = append(keys, c[0]&0x1f)
		default:
			return nil, errdef.New(errdef.Invalid, "invalid detach keys (%s): Unknown character: '%s'", s, part)
		}
	}
	return keys, nil
}
