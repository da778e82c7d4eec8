package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"berth/internal/container"
	"berth/internal/image"
	"berth/internal/runtime/cgroup"
	"berth/internal/runtime/monitor"
	"berth/internal/runtime/spec"
	"berth/internal/state"
	"berth/internal/storage"
)

// View is a container as docker's inspect shows it; the names of its fields are docker's.
type View struct {
	ID              string `json:"Id"`
	Created         time.Time
	Path            string
	Args            []string
	State           ViewState
	Image           string
	ResolvConfPath  string
	HostnamePath    string
	HostsPath       string
	LogPath         string
	Name            string
	RestartCount    int
	Driver          string
	Platform        string
	MountLabel      string
	ProcessLabel    string
	AppArmorProfile string
	ExecIDs         []string // nobody is told these
	HostConfig      ViewHost
	GraphDriver     ViewDriver
	SizeRw          *int64 `json:",omitempty"`
	SizeRootFs      *int64 `json:",omitempty"`
	Mounts          []ViewMount
	Config          ViewConfig
	NetworkSettings ViewNetworks
}

// ViewState is what a container is doing.
type ViewState struct {
	Status     state.Status
	Running    bool
	Paused     bool
	Restarting bool
	OOMKilled  bool
	Dead       bool
	Pid        int
	ExitCode   int
	Error      string
	StartedAt  time.Time
	FinishedAt time.Time
	Health     *container.Health `json:",omitempty"`
}

// ViewHost is what of the configuration depends on the host.
type ViewHost struct {
	Binds           []string
	ContainerIDFile string
	LogConfig       ViewLog
	NetworkMode     string
	PortBindings    map[string][]ViewBinding
	RestartPolicy   ViewRestart
	AutoRemove      bool
	CapAdd          []string
	CapDrop         []string
	CgroupnsMode    string
	DNS             []string `json:"Dns"`
	DNSOptions      []string `json:"DnsOptions"`
	DNSSearch       []string `json:"DnsSearch"`
	ExtraHosts      []string
	GroupAdd        []string
	VolumesFrom     []string
	IpcMode         string
	Cgroup          string // of Windows
	OomScoreAdj     int
	PidMode         string
	Privileged      bool
	PublishAllPorts bool
	ReadonlyRootfs  bool
	SecurityOpt     []string
	UTSMode         string
	UsernsMode      string
	VolumeDriver    string
	Annotations     map[string]string `json:",omitempty"`
	Links           []string
	Sysctls         map[string]string `json:",omitempty"`
	Isolation       string
	ShmSize         int64
	Tmpfs           map[string]string `json:",omitempty"`
	Mounts          []ViewAskedMount  `json:",omitempty"`
	ConsoleSize     [2]int            // of Windows
	Runtime         string
	StorageOpt      map[string]string `json:",omitempty"`
	ViewResources
	Init          bool
	MaskedPaths   []string
	ReadonlyPaths []string
}

// ViewLog, ViewRestart, ViewDriver, ViewMount and ViewConfig are parts of View.
type (
	ViewLog struct {
		Type   string
		Config map[string]string
	}
	ViewRestart struct {
		Name              string
		MaximumRetryCount int
	}
	ViewDriver struct {
		Name string
		Data map[string]string
	}
	ViewMount struct {
		Type        container.MountType
		Name        string `json:",omitempty"`
		Source      string
		Destination string
		Driver      string `json:",omitempty"`
		Mode        string
		RW          bool
		Propagation string
	}
	ViewConfig struct {
		Hostname     string
		Domainname   string
		User         string
		AttachStdin  bool
		AttachStdout bool
		AttachStderr bool
		ExposedPorts map[string]struct{} `json:",omitempty"`
		Tty          bool
		OpenStdin    bool
		StdinOnce    bool
		Env          []string
		Cmd          []string
		Image        string
		Volumes      map[string]struct{}
		WorkingDir   string
		Entrypoint   []string
		OnBuild      []string // of an image alone
		Labels       map[string]string
		StopSignal   string             `json:",omitempty"`
		StopTimeout  *int               `json:",omitempty"` // seconds
		Healthcheck  *image.Healthcheck `json:",omitempty"`
		// HealthOnFailure is podman's.
		HealthOnFailure string `json:"HealthcheckOnFailureAction,omitempty"`
	}
)

// Inspect describes a container.
func (e *Engine) Inspect(c *state.Container) (View, error) {
	status, r, err := e.Status(c)
	if err != nil {
		return View{}, err
	}
	cfg := c.Config
	args := cfg.Args()
	if len(args) == 0 {
		args = []string{""}
	}
	v := View{
		ID: c.ID, Created: c.Created, Path: args[0], Args: args[1:], Image: string(c.Image.ID), Name: "/" + c.Name,
		RestartCount: r.RestartCount, Driver: driverOf(c), Platform: "linux",
		ResolvConfPath: monitor.EtcFile(e.Containers, c, "resolv.conf"), HostnamePath: monitor.EtcFile(e.Containers, c, "hostname"), HostsPath: monitor.EtcFile(e.Containers, c, "hosts"),
	}
	if f, kept := monitor.LogFiles(e.Containers, c); kept && cfg.Log.DriverName() == container.LogJSON {
		v.LogPath = f.Path
	}
	v.State = ViewState{
		Status: status, Running: status == state.Running || status == state.Paused || status == state.Restarting, Paused: status == state.Paused, Restarting: status == state.Restarting,
		OOMKilled: r.OOMKilled, ExitCode: r.ExitCode, Error: r.Error, StartedAt: r.StartedAt, FinishedAt: r.FinishedAt,
	}
	r.Status = status
	v.State.Health = e.Health(c, r)
	if status == state.Running || status == state.Paused {
		p, err := e.Containers.Process(c.ID)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return View{}, err
		}
		v.State.Pid = p.PID
		if cfg.Resources.MemoryBytes != 0 && p.Cgroup != "" {
			g, err := cgroup.Open(e.Host(), p.Cgroup)
			v.State.OOMKilled = err == nil && g.OOMKills() > 0
		}
	}
	logOptions := cfg.Log.Options
	if logOptions == nil {
		logOptions = map[string]string{}
	}
	restart := cfg.Restart.Name
	if restart == "" {
		restart = container.RestartNo
	}
	shm := cfg.ShmBytes
	if shm == 0 {
		shm = spec.ShmBytes
	}
	v.HostConfig = ViewHost{
		LogConfig: ViewLog{cfg.Log.DriverName(), logOptions}, NetworkMode: cfg.Network, RestartPolicy: ViewRestart{restart, cfg.Restart.Retries},
		AutoRemove: cfg.AutoRemove, CapAdd: capabilities(cfg.CapAdd), CapDrop: capabilities(cfg.CapDrop), CgroupnsMode: orDefault(cfg.Cgroupn, "private"), GroupAdd: cfg.Groups, VolumesFrom: cfg.VolumesFrom,
		IpcMode: orDefault(cfg.IPC, "private"), OomScoreAdj: cfg.OOMScoreAdj, PidMode: cfg.PID, Privileged: cfg.Privileged, ReadonlyRootfs: cfg.ReadOnly,
		UTSMode: cfg.UTS, ShmSize: shm, Runtime: orDefault(cfg.Runtime, container.DefaultRuntime), VolumeDriver: cfg.VolumeDriver, Isolation: cfg.Isolation, Annotations: cfg.Annotations, Links: e.viewLinks(c), Sysctls: cfg.Sysctls,
		UsernsMode: cfg.UserNS, StorageOpt: storageOptions(cfg), ViewResources: viewResources(cfg), Init: cfg.Init,
		SecurityOpt: securityOptions(cfg.Security), PortBindings: bindings(cfg.Ports), PublishAllPorts: cfg.PublishAll,
		DNS: orNone(cfg.DNS), DNSOptions: orNone(cfg.DNSOptions), DNSSearch: orNone(cfg.DNSSearch), ExtraHosts: hostLines(cfg),
	}
	v.HostConfig.MaskedPaths, v.HostConfig.ReadonlyPaths = spec.Protected(cfg)
	v.GraphDriver.Name = driverOf(c)
	v.Config = ViewConfig{
		Hostname: spec.Hostname(spec.Input{ID: c.ID, Config: cfg}), Domainname: cfg.Domainname, User: cfg.User, Tty: cfg.TTY, OpenStdin: cfg.Interactive,
		Env: cfg.Env, Cmd: cfg.Command, Image: c.Image.Name, WorkingDir: cfg.Workdir, Entrypoint: cfg.Entrypoint, Labels: cfg.Labels, StopSignal: cfg.StopSignal,
		ExposedPorts: exposed(cfg), StopTimeout: cfg.StopTimeout, HealthOnFailure: cfg.HealthOnFailure,
	}
	viewMounts(&v, c)
	v.GraphDriver.Data = e.viewLayers(c, v.State.Pid)
	for _, stream := range cfg.Attach {
		v.Config.AttachStdin = v.Config.AttachStdin || stream == "stdin"
		v.Config.AttachStdout = v.Config.AttachStdout || stream == "stdout"
		v.Config.AttachStderr = v.Config.AttachStderr || stream == "stderr"
	}
	v.Config.StdinOnce = v.Config.AttachStdin
	if len(cfg.Health.Test) > 0 {
		v.Config.Healthcheck = &cfg.Health
	}
	if v.Config.Labels == nil {
		v.Config.Labels = map[string]string{}
	}
	v.NetworkSettings, err = e.viewNetworks(c, v.State.Pid, !r.StartedAt.IsZero())
	return v, err
}

// capabilities are docker's names for those that a flag names.
func capabilities(names []string) (all []string) {
	for _, name := range names {
		if name = strings.ToUpper(name); name != "ALL" && !strings.HasPrefix(name, "CAP_") {
			name = "CAP_" + name
		}
		all = append(all, name)
	}
	return all
}

// viewLayers says where the parts of a container's tree are, and the whole of it while it runs: nobody else has it mounted.
func (e *Engine) viewLayers(c *state.Container, pid int) map[string]string {
	data := map[string]string{}
	if storage.Whole(c.Driver) {
		data["TreeDir"] = e.Containers.Tree(c)
	} else {
		var lower []string
		for _, chain := range slices.Backward(c.Image.ChainIDs) {
			lower = append(lower, e.Images.Layers.Path(chain))
		}
		data["LowerDir"] = strings.Join(lower, ":")
		data["UpperDir"], data["WorkDir"] = e.Containers.Writable(c)
	}
	if pid != 0 {
		data["MergedDir"] = fmt.Sprintf("/proc/%d/root", pid)
	}
	return data
}

func securityOptions(s container.Security) []string {
	var out []string
	if s.NoNewPrivileges {
		out = append(out, "no-new-privileges")
	}
	if s.Seccomp != "" {
		out = append(out, "seccomp="+s.Seccomp)
	}
	if s.AppArmor != "" {
		out = append(out, "apparmor="+s.AppArmor)
	}
	if len(s.Mask) > 0 {
		out = append(out, "mask="+strings.Join(s.Mask, ":"))
	}
	if len(s.Unmask) > 0 {
		out = append(out, "unmask="+strings.Join(s.Unmask, ":"))
	}
	if s.UnmaskAll {
		out = append(out, "systempaths=unconfined")
	}
	return out
}

// orNone is a list that is [] in JSON when it is empty.
func orNone(l []string) []string {
	if l == nil {
		return []string{}
	}
	return l
}

func orDefault(s, d string) string {
	if s == "" {
		return d
	}
	return s
}
