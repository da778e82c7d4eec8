package container

import (
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"berth/internal/errdef"
	"berth/internal/ident"
	"berth/internal/logs"
)

// LogConfig says what becomes of the output.
type LogConfig struct {
	// Driver is one of LogDrivers; empty is json-file.
	Driver string `json:",omitempty"`
	// Options are the driver's, as they were given.
	Options map[string]string `json:",omitempty"`
	// Labels and Env are further names: those that labels-regex and env-regex match, found when the container is made.
	Labels []string `json:",omitempty"`
	Env    []string `json:",omitempty"`
}

// Names of drivers.
const (
	LogJSON    = "json-file"
	LogLocal   = "local"
	LogNone    = "none"
	LogJournal = "journald"
	LogSyslog  = "syslog"
)

// LogDrivers are the drivers.
var LogDrivers = []string{LogJSON, LogLocal, LogJournal, LogSyslog, LogNone}

// Logs are bounded unless the caller asks otherwise. Those of the driver local, and what is kept of an output that is sent elsewhere, have
// docker's bounds.
const (
	DefaultLogBytes   = 10 << 20
	DefaultLogFiles   = 3
	defaultLocalBytes = 20 << 20
	defaultLocalFiles = 5
)

var (
	logCommon  = []string{"mode", "max-buffer-size"}
	logExtra   = []string{"labels", "labels-regex", "env", "env-regex", "tag"}
	logFile    = []string{"max-size", "max-file", "compress"}
	logCached  = []string{"cache-disabled", "cache-max-size", "cache-max-file", "cache-compress"}
	logOptions = map[string][]string{
		LogJSON:    slices.Concat(logCommon, logExtra, logFile),
		LogLocal:   slices.Concat(logCommon, logFile),
		LogJournal: slices.Concat(logCommon, logExtra, logCached),
		LogSyslog: slices.Concat(logCommon, logExtra, logCached, []string{
			"syslog-address", "syslog-facility", "syslog-format", "syslog-tls-ca-cert", "syslog-tls-cert", "syslog-tls-key", "syslog-tls-skip-verify",
		}),
	}
)

// syslogFacilities are those of RFC 5424, in their order.
var syslogFacilities = []string{
	"kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp", "", "", "", "",
	"local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
}

// DriverName is the driver, json-file unless another is asked for.
func (l LogConfig) DriverName() string {
	if l.Driver == "" {
		return LogJSON
	}
	return l.Driver
}

// Sent reports whether the output is sent elsewhere, by a process of its own.
func (l LogConfig) Sent() bool { return l.Driver == LogJournal || l.Driver == LogSyslog }

// Readable reports whether `logs` can read the output: that of docker, which keeps a copy of what it sends.
func (l LogConfig) Readable() bool {
	return l.Driver != LogNone && !isTrue(l.Options["cache-disabled"])
}

// NonBlocking reports whether output that cannot be written quickly enough is left out rather than waited for, and how many bytes may
// wait.
func (l LogConfig) NonBlocking() (bytes int64, yes bool) {
	if l.Options["mode"] != "non-blocking" {
		return 0, false
	}
	if n, err := ParseBytes(l.Options["max-buffer-size"]); err == nil && n > 0 {
		return n, true
	}
	return 1 << 20, true
}

// Kept is how the output is kept on disk: the log itself, or what is to be sent, and is read by `logs`. Its path is the name of the
// file in the container's directory. None is kept with the driver none.
func (l LogConfig) Kept(id string) (f logs.Files, kept bool) {
	switch prefix := ""; l.DriverName() {
	case LogNone:
		return f, false
	case LogJSON:
		f = logs.Files{Path: id + "-json.log", Format: logs.JSON, MaxBytes: DefaultLogBytes, MaxFiles: DefaultLogFiles}
		l.bound(&f, prefix)
	case LogLocal:
		f = logs.Files{Path: "local.log", Format: logs.Text, MaxBytes: defaultLocalBytes, MaxFiles: defaultLocalFiles, Compress: true}
		l.bound(&f, prefix)
	default:
		f = logs.Files{Path: "cached.log", Format: logs.Text, MaxBytes: defaultLocalBytes, MaxFiles: defaultLocalFiles, Compress: true}
		l.bound(&f, "cache-")
	}
	f.Compress = f.Compress && f.MaxFiles > 1
	return f, true
}

// bound reads the options that bound a log; Check has read them before.
func (l LogConfig) bound(f *logs.Files, prefix string) {
	if s, ok := l.Options[prefix+"max-size"]; ok {
		f.MaxBytes, _ = logSize(s)
	}
	if s, ok := l.Options[prefix+"max-file"]; ok {
		f.MaxFiles, _ = strconv.Atoi(s)
	}
	if s, ok := l.Options[prefix+"compress"]; ok {
		f.Compress = isTrue(s)
	}
}

// logSize reads a size; docker's -1 is no bound, which is 0 here.
func logSize(s string) (int64, error) {
	if s == "-1" {
		return 0, nil
	}
	n, err := ParseBytes(s)
	if err == nil && n == 0 {
		err = fmt.Errorf("it must be more than 0, or -1 for no bound")
	}
	return n, err
}

func isTrue(s string) bool {
	yes, err := strconv.ParseBool(s)
	return err == nil && yes
}

// Check reports a driver that there is not, or options that it does not have.
func (l LogConfig) Check() error {
	driver := l.DriverName()
	if driver == LogNone && len(l.Options) == 0 {
		return nil
	}
	if driver == LogNone {
		return errdef.New(errdef.Invalid, "invalid logging opts for driver none")
	}
	known := logOptions[driver]
	if known == nil {
		return errdef.Hint(errdef.New(errdef.Invalid, "logger: no log driver named '%s' is registered", driver), "there are %s", strings.Join(LogDrivers, ", "))
	}
	for _, key := range slices.Sorted(maps.Keys(l.Options)) {
		if !slices.Contains(known, key) {
			return errdef.New(errdef.Invalid, "unknown log opt '%s' for %s log driver", key, driver)
		}
		if err := checkLogOption(key, l.Options[key]); err != nil {
			return errdef.New(errdef.Invalid, "invalid log opt %s=%s: %v", key, l.Options[key], err)
		}
	}
	if l.Options["max-buffer-size"] != "" && l.Options["mode"] != "non-blocking" {
		return errdef.New(errdef.Invalid, "logger: max-buffer-size option is only supported with 'mode=non-blocking'")
	}
	f, _ := l.Kept("")
	if isTrue(l.Options["compress"]) && (f.MaxFiles < 2 || f.MaxBytes == 0) {
		return errdef.New(errdef.Invalid, "compress cannot be true when max-file is less than 2 or max-size is not set")
	}
	if driver == LogJSON {
		_, err := l.renderTag(TagFacts{})
		return err
	}
	return nil
}

func checkLogOption(key, value string) (err error) {
	switch key {
	case "max-size", "cache-max-size":
		_, err = logSize(value)
	case "max-file", "cache-max-file":
		var n int
		if n, err = strconv.Atoi(value); err == nil && n < 1 {
			err = fmt.Errorf("it is at least 1")
		}
	case "compress", "cache-compress", "cache-disabled":
		_, err = strconv.ParseBool(value)
	case "mode":
		if value != "blocking" && value != "non-blocking" {
			err = fmt.Errorf("it is blocking or non-blocking")
		}
	case "max-buffer-size":
		var n int64
		if n, err = ParseBytes(value); err == nil && n == 0 {
			err = fmt.Errorf("it must be more than 0")
		}
	case "syslog-address":
		_, err = ParseSyslogAddress(value)
	case "syslog-facility":
		_, err = SyslogFacility(value)
	case "syslog-format":
		if !slices.Contains([]string{"", "rfc3164", "rfc5424", "rfc5424micro"}, value) {
			err = fmt.Errorf("it is rfc3164, rfc5424 or rfc5424micro")
		}
	}
	return err
}

// SyslogFacility is the number of a facility, which is given by its name or number; empty is daemon.
func SyslogFacility(s string) (int, error) {
	if s == "" {
		s = "daemon"
	}
	if i := slices.Index(syslogFacilities, s); i >= 0 {
		return i, nil
	}
	if n, err := strconv.Atoi(s); err == nil && n >= 0 && n < len(syslogFacilities) {
		return n, nil
	}
	return 0, fmt.Errorf("invalid syslog facility")
}

// SyslogAddress is where messages go. An empty Network is the host's own syslog.
type SyslogAddress struct {
	Network string // unix, unixgram, udp, tcp or tcp+tls
	Address string // a path, or host and port
}

// ParseSyslogAddress reads docker's form: a URL.
func ParseSyslogAddress(s string) (SyslogAddress, error) {
	if s == "" {
		return SyslogAddress{}, nil
	}
	u, err := url.Parse(s)
	if err != nil {
		return SyslogAddress{}, err
	}
	a := SyslogAddress{Network: u.Scheme}
	switch u.Scheme {
	case "unix", "unixgram":
		a.Address = u.Path
		if !strings.HasPrefix(a.Address, "/") {
			return a, fmt.Errorf("it is %s:// and an absolute path", u.Scheme)
		}
	case "udp", "tcp", "tcp+tls":
		port := u.Port()
		if port == "" {
			port = "514"
		}
		host := u.Hostname()
		if host == "" {
			return a, fmt.Errorf("it names no host")
		}
		if ip, err := netip.ParseAddr(host); err == nil && ip.Is6() {
			host = "[" + host + "]"
		}
		a.Address = host + ":" + port
	default:
		return a, fmt.Errorf("unsupported scheme: '%s'; there are unix, unixgram, udp, tcp and tcp+tls", u.Scheme)
	}
	return a, nil
}

// TagFacts are what a tag may name, docker's words for a container.
type TagFacts struct {
	ID, Name, ImageID, ImageName string
	Config                       Config
}

// Names are the fields of docker's templates of tags.
func (f TagFacts) Names() map[string]string {
	image := strings.TrimPrefix(f.ImageID, "sha256:")
	return map[string]string{
		"ID": ident.Short(f.ID), "FullID": f.ID, "Name": f.Name, "ImageID": ident.Short(image), "ImageFullID": f.ImageID, "ImageName": f.ImageName, "DaemonName": "berth",
	}
}

// DefaultTag is the tag of drivers that send: the short ID.
const DefaultTag = "{{.ID}}"

// renderTag fills in the fields of the option tag. Whatever more a template can do is for drivers that send, whose process knows
// templates.
func (l LogConfig) renderTag(f TagFacts) (string, error) {
	tag, names := l.Options["tag"], f.Names()
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(tag, "{{")
		b.WriteString(before)
		if !found {
			return b.String(), nil
		}
		action, after, found := strings.Cut(rest, "}}")
		value, known := names[strings.TrimPrefix(strings.TrimSpace(action), ".")]
		if !found || !known {
			return "", errdef.Hint(errdef.New(errdef.Invalid, "cannot read the log tag %q: in json-file's there is no {{%s}}", l.Options["tag"], action),
				"it may name {{.%s}}", strings.Join(slices.Sorted(maps.Keys(names)), "}}, {{."))
		}
		b.WriteString(value)
		tag = after
	}
}

// Attributes are what each entry of the log also says: the labels and variables asked for, and json-file's tag.
func (l LogConfig) Attributes(f TagFacts) map[string]string {
	all := map[string]string{}
	env := map[string]string{}
	for _, v := range f.Config.Env {
		if name, value, ok := strings.Cut(v, "="); ok {
			env[name] = value
		}
	}
	take := func(names []string, from map[string]string) {
		for _, name := range names {
			if v, ok := from[name]; ok {
				all[name] = v
			}
		}
	}
	take(strings.Split(l.Options["labels"], ","), f.Config.Labels)
	take(l.Labels, f.Config.Labels)
	take(strings.Split(l.Options["env"], ","), env)
	take(l.Env, env)
	if tag, err := l.renderTag(f); err == nil && tag != "" && l.DriverName() == LogJSON {
		all["tag"] = tag
	}
	return all
}
