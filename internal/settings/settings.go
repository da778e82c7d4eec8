// Package settings finds where an instance of berth keeps its things and what its defaults are: flags, environment, the
// user's file, the machine's file and built-in values, in that order.
//
// It makes no directories and checks no permissions. An instance is a data root and a run root: two instances share
// nothing.
package settings

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"

	"berth/internal/container"
	"berth/internal/errdef"
	"berth/internal/host"

	"github.com/pelletier/go-toml/v2"
)

// Values are the settings in force. Each field is a key of the files and a global flag, by the name in its tag.
type Values struct {
	DataRoot string `toml:"data-root"` // images, containers, volumes
	RunRoot  string `toml:"run-root"`  // what dies with the boot
	LogBytes int64  `toml:"-"`
	LogFiles int    `toml:"-"`
	LogSize  string `toml:"log-max-size"` // of one log file of a container
	LogCount int    `toml:"log-max-file"`
	Debug    bool   `toml:"debug"`
	// CgroupManager is the driver of control groups; empty leaves the choice to the host.
	CgroupManager string `toml:"cgroup-manager"`
	// CDISpecDirs are where CDI's specifications of devices are, separated by colons; a later one counts before an earlier one.
	CDISpecDirs string `toml:"cdi-spec-dirs"`
	// KeepBlobs says that what a pull has fetched stays when it is unpacked.
	KeepBlobs bool `toml:"keep-blobs"`
	// HostLoopback lets the containers of a user without root reach the host's 127.0.0.1 and ::1.
	HostLoopback bool `toml:"host-loopback"`
	// Runtimes are further OCI runtimes, by the names that --runtime takes: their programs, as paths or as names to be looked up in $PATH.
	Runtimes map[string]string `toml:"runtimes"`
	// RootlessUplink is what carries the traffic of a user without root: berth (or empty), or pasta.
	RootlessUplink string `toml:"rootless-uplink"`
	// StorageDriver is how new containers get their files; empty leaves the choice to the host.
	StorageDriver string `toml:"storage-driver"`
}

// CgroupManagerEnv is the variable of the setting cgroup-manager.
const CgroupManagerEnv = "BERTH_CGROUP_MANAGER"

// HostLoopbackEnv is the variable of the setting host-loopback.
const HostLoopbackEnv = "BERTH_HOST_LOOPBACK"

// RootlessUplinkEnv is the variable of the setting rootless-uplink.
const RootlessUplinkEnv = "BERTH_ROOTLESS_UPLINK"

// CDIDirsEnv is the variable of the setting cdi-spec-dirs.
const CDIDirsEnv = "BERTH_CDI_SPEC_DIRS"

// CDIDirs are the directories of the setting cdi-spec-dirs.
func (v Values) CDIDirs() []string { return filepath.SplitList(v.CDISpecDirs) }

// Keys are the names of all settings, sorted, with what each is for.
var Keys = [...]struct{ Name, Env, Help string }{
	{"cdi-spec-dirs", CDIDirsEnv, "Where CDI's specifications of devices are, separated by colons"},
	{"cgroup-manager", CgroupManagerEnv, "Who makes the control groups of containers (systemd|cgroupfs)"},
	{"data-root", "BERTH_DATA_ROOT", "Where images, containers and volumes are kept"},
	{"debug", "BERTH_DEBUG", "Say more about what is done, and about errors"},
	{"host-loopback", HostLoopbackEnv, "Let containers without root reach the host's loopback interface, at 169.254.77.1"},
	{"keep-blobs", "BERTH_KEEP_BLOBS", "Keep the compressed layers of images that come from a registry, beside the unpacked ones (default true)"},
	{"log-max-file", "BERTH_LOG_MAX_FILE", "How many log files a container may have"},
	{"log-max-size", "BERTH_LOG_MAX_SIZE", "How large a log file of a container may grow"},
	{"rootless-uplink", RootlessUplinkEnv, "What carries the traffic of networks without root (berth|pasta)"},
	{"run-root", "BERTH_RUN_ROOT", "Where what dies with the boot is kept"},
	{"runtimes", "BERTH_RUNTIMES", "OCI runtimes for --runtime, as NAME=PROGRAM, separated by commas"},
	{"storage-driver", "BERTH_STORAGE_DRIVER", "How new containers get their files (overlay|fuse-overlayfs|btrfs|vfs)"},
}

// Sources says for each key where its value comes from.
type Sources map[string]string

// Files are the configuration files, the machine's first.
func Files() []string {
	files := []string{"/etc/berth/config.toml"}
	if path := os.Getenv("BERTH_CONFIG"); path != "" {
		return append(files, path)
	}
	if dir := os.Getenv("XDG_CONFIG_HOME"); dir != "" {
		return append(files, filepath.Join(dir, "berth/config.toml"))
	}
	if home := os.Getenv("HOME"); home != "" {
		return append(files, filepath.Join(home, ".config/berth/config.toml"))
	}
	return files
}

// Load gathers the settings; flags are those that were given, by key.
func Load(flags map[string]string) (Values, Sources, error) {
	v := Values{CDISpecDirs: "/etc/cdi:/var/run/cdi", LogSize: "10m", LogCount: container.DefaultLogFiles, KeepBlobs: true}
	from := Sources{}
	for _, k := range Keys {
		from[k.Name] = "default"
	}
	v.DataRoot, v.RunRoot, from["run-root"] = defaultRoots()
	for _, path := range Files() {
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) && path == Files()[0] {
			continue
		}
		given := map[string]any{}
		if err == nil {
			err = errors.Join(toml.Unmarshal(data, &given), toml.Unmarshal(data, &v))
		}
		if err != nil {
			return v, from, errdef.New(errdef.Invalid, "cannot read the configuration %s: %w", path, err)
		}
		for key := range given {
			if _, ok := from[key]; !ok {
				return v, from, errdef.Hint(errdef.New(errdef.Invalid, "the configuration %s has the unknown key %q", path, key), "berth config lists the keys")
			}
			from[key] = path
		}
	}
	for _, k := range Keys {
		if s := os.Getenv(k.Env); s != "" {
			if err := v.set(k.Name, s); err != nil {
				return v, from, err
			}
			from[k.Name] = k.Env
		}
	}
	names := make([]string, 0, len(flags))
	for name := range flags {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		if err := v.set(name, flags[name]); err != nil {
			return v, from, err
		}
		from[name] = "--" + name
	}
	return v, from, v.check()
}

func (v *Values) check() error {
	var err error
	if v.LogBytes, err = container.ParseBytes(v.LogSize); err != nil || v.LogBytes == 0 {
		return errdef.New(errdef.Invalid, "log-max-size %q is no size", v.LogSize)
	}
	if v.LogFiles = v.LogCount; v.LogFiles < 1 {
		return errdef.New(errdef.Invalid, "log-max-file %d is less than 1", v.LogCount)
	}
	if v.DataRoot == "" {
		err := errdef.New(errdef.Invalid, "cannot tell where to keep images and containers: HOME is not set, and /etc/passwd has no user %d", host.Caller().UID)
		return errdef.Hint(err, "set HOME, or choose a directory with --data-root")
	}
	for _, root := range []*string{&v.DataRoot, &v.RunRoot} {
		if *root, err = filepath.Abs(*root); err != nil {
			return err
		}
	}
	if m := v.CgroupManager; m != "" && m != "systemd" && m != "cgroupfs" {
		return errdef.New(errdef.Invalid, "cgroup-manager %q is neither systemd nor cgroupfs", m)
	}
	for name, program := range v.Runtimes {
		if name == "" || program == "" || strings.ContainsAny(name, "/=, ") || container.OwnRuntime(name) {
			return errdef.New(errdef.Invalid, "the runtime %q cannot be %q: a name of one's own and a program are needed", name, program)
		}
	}
	if u := v.RootlessUplink; u != "" && u != "berth" && u != "pasta" {
		return errdef.New(errdef.Invalid, "rootless-uplink %q is neither berth nor pasta", u)
	}
	if v.DataRoot == v.RunRoot {
		return errdef.New(errdef.Invalid, "data-root and run-root are both %s: they must differ", v.DataRoot)
	}
	return nil
}

func (v *Values) set(name, value string) error {
	var err error
	switch name {
	case "cdi-spec-dirs":
		v.CDISpecDirs = value
	case "cgroup-manager":
		v.CgroupManager = value
	case "host-loopback":
		v.HostLoopback, err = strconv.ParseBool(value)
	case "keep-blobs":
		v.KeepBlobs, err = strconv.ParseBool(value)
	case "rootless-uplink":
		v.RootlessUplink = value
	case "storage-driver":
		v.StorageDriver = value
	case "data-root":
		v.DataRoot = value
	case "run-root":
		v.RunRoot = value
	case "runtimes":
		v.Runtimes, err = parseRuntimes(value)
	case "log-max-size":
		v.LogSize = value
	case "log-max-file":
		v.LogCount, err = strconv.Atoi(value)
	case "debug":
		v.Debug, err = strconv.ParseBool(value)
	}
	if err != nil {
		return errdef.New(errdef.Invalid, "invalid value %q for %s", value, name)
	}
	return nil
}

// Get is the value of a key as text.
func (v Values) Get(name string) string {
	switch name {
	case "cdi-spec-dirs":
		return v.CDISpecDirs
	case "cgroup-manager":
		return v.CgroupManager
	case "host-loopback":
		return strconv.FormatBool(v.HostLoopback)
	case "keep-blobs":
		return strconv.FormatBool(v.KeepBlobs)
	case "rootless-uplink":
		return v.RootlessUplink
	case "storage-driver":
		return v.StorageDriver
	case "data-root":
		return v.DataRoot
	case "run-root":
		return v.RunRoot
	case "runtimes":
		return v.runtimes()
	case "log-max-size":
		return v.LogSize
	case "log-max-file":
		return strconv.Itoa(v.LogCount)
	case "debug":
		return strconv.FormatBool(v.Debug)
	}
	return ""
}

// parseRuntimes reads NAME=PROGRAM,...
func parseRuntimes(value string) (map[string]string, error) {
	all := map[string]string{}
	for entry := range strings.SplitSeq(value, ",") {
		name, program, ok := strings.Cut(entry, "=")
		if !ok {
			return nil, errdef.New(errdef.Invalid, "%q is not NAME=PROGRAM", entry)
		}
		all[name] = program
	}
	return all, nil
}

// runtimes are the runtimes as text.
func (v Values) runtimes() string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(v.Runtimes)) {
		all = append(all, name+"="+v.Runtimes[name])
	}
	return strings.Join(all, ",")
}

// defaultRoots are the machine's for root, and the user's for everybody else. Without a session there is no
// XDG_RUNTIME_DIR; then the run root is in /tmp, in a directory that is checked to be the user's when it is made.
func defaultRoots() (data, run, runSource string) {
	user := host.Caller().UID
	if user == 0 {
		return "/var/lib/berth", "/run/berth", "default"
	}
	if dir, home := os.Getenv("XDG_DATA_HOME"), os.Getenv("HOME"); dir != "" {
		data = filepath.Join(dir, "berth")
	} else if home != "" {
		data = filepath.Join(home, ".local/share/berth")
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		return data, filepath.Join(dir, "berth"), "XDG_RUNTIME_DIR"
	}
	uid := strconv.Itoa(user)
	if dir := "/run/user/" + uid; writable(dir) {
		return data, dir + "/berth", "default: " + dir
	}
	return data, "/tmp/berth-" + uid, "default: no XDG_RUNTIME_DIR and no /run/user/" + uid
}

func writable(dir string) bool {
	st, err := os.Stat(dir)
	return err == nil && st.IsDir() && st.Mode().Perm()&0o200 != 0
}
