package cli

import (
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"berth/internal/container"
	"berth/internal/network"
	"berth/internal/runtime/cgroup"
	"berth/internal/state"

	"github.com/docker/go-units"
)

// infoView is what info says; the names of the fields are docker's, but for those at the end.
type infoView struct {
	ID                                                                         string
	Containers, ContainersRunning, ContainersPaused, ContainersStopped, Images int
	Driver                                                                     string
	DriverStatus                                                               [][2]string
	Plugins                                                                    pluginsView
	MemoryLimit, SwapLimit                                                     bool
	CPUCfsPeriod                                                               bool `json:"CpuCfsPeriod"`
	CPUCfsQuota                                                                bool `json:"CpuCfsQuota"`
	CPUShares, CPUSet                                                          bool
	PidsLimit, OomKillDisable, IPv4Forwarding, Debug                           bool
	NFd                                                                        int
	NGoroutines                                                                int
	SystemTime                                                                 string
	LoggingDriver, CgroupDriver, CgroupVersion                                 string
	KernelVersion, OperatingSystem, OSVersion, OSType, Architecture            string
	IndexServerAddress                                                         string
	NCPU                                                                       int
	MemTotal                                                                   int64
	DockerRootDir                                                              string
	HTTPProxy                                                                  string `json:"HttpProxy"`
	HTTPSProxy                                                                 string `json:"HttpsProxy"`
	NoProxy                                                                    string
	Name                                                                       string
	Labels                                                                     []string
	ExperimentalBuild                                                          bool
	ServerVersion                                                              string
	Runtimes                                                                   map[string]runtimeView
	DefaultRuntime                                                             string
	Swarm                                                                      struct{ LocalNodeState string }
	LiveRestoreEnabled                                                         bool
	Isolation, InitBinary                                                      string
	SecurityOptions                                                            []string
	CDISpecDirs                                                                []string
	Warnings                                                                   []string
	ClientInfo                                                                 struct {
		Debug bool
		clientView
		Plugins, Warnings []string
	}

	DriverReason, CgroupDriverReason, RunRoot string
	NetworkSettings                           []string // of the host, that networks have changed
	Rootless                                  bool
	RootlessUplink                            string // without root, what carries the traffic of networks
}

// registryIndex is where docker's clients log in that name no registry.
const registryIndex = "https://index.docker.io/v1/"

// runtimeView is an OCI runtime; the path of berth's own is empty.
type runtimeView struct {
	Path string `json:"path,omitempty"`
}

type pluginsView struct {
	Volume, Network, Authorization, Log []string
}

func (c *call) cmdInfo() error {
	e, err := c.engine()
	if err != nil {
		return err
	}
	all, err := e.ListOwn()
	if err != nil {
		return err
	}
	images, err := e.Images.List()
	if err != nil {
		return err
	}
	v := infoView{
		ID: instanceID(machineID(), c.settings.DataRoot), Containers: len(all), Images: len(images), LoggingDriver: container.LogJSON, DockerRootDir: c.settings.DataRoot, RunRoot: c.settings.RunRoot, ServerVersion: Version, OSType: runtime.GOOS,
		Plugins: pluginsView{Volume: []string{"local"}, Log: slices.Clone(container.LogDrivers)}, NGoroutines: runtime.NumGoroutine(), SystemTime: time.Now().UTC().Format(time.RFC3339Nano),
		IndexServerAddress: registryIndex, Labels: []string{}, Warnings: []string{}, DefaultRuntime: container.DefaultRuntime, InitBinary: "berth-init", Debug: c.settings.Debug,
		LiveRestoreEnabled: true, // no container needs another process of berth than its monitor
		HTTPProxy:          proxy("HTTP_PROXY"), HTTPSProxy: proxy("HTTPS_PROXY"), NoProxy: proxy("NO_PROXY"),
		Runtimes: map[string]runtimeView{container.DefaultRuntime: {}}, CDISpecDirs: c.settings.CDIDirs(),
	}
	v.Swarm.LocalNodeState = "inactive"
	for _, d := range []network.Driver{network.DriverBridge, network.DriverHost, network.DriverMacvlan, network.DriverNull} {
		v.Plugins.Network = append(v.Plugins.Network, string(d))
	}
	v.ClientInfo.Debug, v.ClientInfo.clientView, v.ClientInfo.Plugins = c.settings.Debug, c.clientView(), []string{}
	for name, program := range c.settings.Runtimes {
		v.Runtimes[name] = runtimeView{program}
	}
	for _, l := range all {
		switch l.Record.Status {
		case state.Running, state.Restarting:
			v.ContainersRunning++
		case state.Paused:
			v.ContainersPaused++
		default:
			v.ContainersStopped++
		}
	}
	driver, err := e.Driver()
	if err != nil {
		return err
	}
	v.Driver, v.DriverReason = driver.Name, driver.Why
	v.DriverStatus = [][2]string{{"Backing Filesystem", filesystem(c.settings.DataRoot)}, {"Reason", v.DriverReason}}
	groups, err := cgroup.Choose(e.Host(), cgroup.Driver(c.settings.CgroupManager))
	if err != nil {
		return err
	}
	describeHost(&v, e.Host(), groups)
	changes, err := e.Networks().Changes()
	if err != nil {
		return err
	}
	v.RootlessUplink = e.Uplink()
	for _, change := range changes {
		v.NetworkSettings = append(v.NetworkSettings, change.String())
	}
	if done, err := c.format([]any{v}); done {
		return err
	}
	_, err = fmt.Fprint(c.out, visibleLines(v.text()))
	return err
}

// instanceID tells this instance from every other, here and on other machines. It follows from what it is, so that no file need keep it; of
// the machine's id, which its owner may not want to be known (machine-id(5)), it shows nothing.
func instanceID(machine, dataRoot string) string {
	sum := hmac.New(sha256.New, []byte(machine))
	sum.Write([]byte("berth instance\x00" + filepath.Clean(dataRoot)))
	b := sum.Sum(nil)[:16]
	b[6], b[8] = b[6]&0x0f|0x80, b[8]&0x3f|0x80 // a UUID of version 8, whose bits are the maker's (RFC 9562)
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// machineID is what distinguishes this machine: its id, or its name if it has none.
func machineID() string {
	for _, path := range []string{"/etc/machine-id", "/var/lib/dbus/machine-id"} {
		if data, err := os.ReadFile(path); err == nil && len(strings.TrimSpace(string(data))) > 0 {
			return strings.TrimSpace(string(data))
		}
	}
	name, _ := os.Hostname() // a machine without a name has one id more in common with its like
	return name
}

// proxy is a proxy of the environment, by which images are fetched.
func proxy(name string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return os.Getenv(strings.ToLower(name))
}

// text is what people read.
func (v *infoView) text() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("Client:\n Version:    %s\n Context:    %s\n Debug Mode: %v\n\nServer:", v.ClientInfo.Version, v.ClientInfo.Context, v.Debug)
	line(" Containers: %d\n  Running: %d\n  Paused: %d\n  Stopped: %d\n Images: %d", v.Containers, v.ContainersRunning, v.ContainersPaused, v.ContainersStopped, v.Images)
	line(" Server Version: %s\n Storage Driver: %s (%s)\n  Backing Filesystem: %s", v.ServerVersion, v.Driver, v.DriverReason, v.DriverStatus[0][1])
	line(" Logging Driver: %s\n Cgroup Driver: %s (%s)\n Cgroup Version: %s", v.LoggingDriver, v.CgroupDriver, v.CgroupDriverReason, v.CgroupVersion)
	line(" Plugins:\n  Volume: %s\n  Network: %s\n  Log: %s", strings.Join(v.Plugins.Volume, " "), strings.Join(v.Plugins.Network, " "), strings.Join(v.Plugins.Log, " "))
	line(" Swarm: %s\n Runtimes: %s\n Default Runtime: %s\n Init Binary: %s\n Security Options:", v.Swarm.LocalNodeState, strings.Join(slices.Sorted(maps.Keys(v.Runtimes)), " "), v.DefaultRuntime, v.InitBinary)
	for _, o := range v.SecurityOptions {
		name, more, _ := strings.Cut(strings.TrimPrefix(o, "name="), ",")
		line("  %s", name)
		if key, value, ok := strings.Cut(more, "="); ok {
			line("   %s: %s", strings.ToUpper(key[:1])+key[1:], value)
		}
	}
	line(" Kernel Version: %s\n Operating System: %s\n OSType: %s\n Architecture: %s\n CPUs: %d", v.KernelVersion, v.OperatingSystem, v.OSType, v.Architecture, v.NCPU)
	line(" Total Memory: %s\n Name: %s\n ID: %s\n Docker Root Dir: %s\n Run Root: %s\n Debug Mode: %v", units.BytesSize(float64(v.MemTotal)), v.Name, v.ID, v.DockerRootDir, v.RunRoot, v.Debug)
	line(" Live Restore Enabled: %v\n Rootless: %v", v.LiveRestoreEnabled, v.Rootless)
	if v.RootlessUplink != "" {
		line(" Rootless Uplink: %s", v.RootlessUplink)
	}
	for _, s := range v.NetworkSettings {
		line(" Changed Setting: %s", s)
	}
	return b.String()
}
