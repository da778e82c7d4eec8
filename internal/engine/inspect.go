package engine

import (
	"errors"
	"io/fs"
	"strings"
	"time"

	"berth/internal/container"
	"berth/internal/image"
	"berth/internal/runtime/monitor"
	"berth/internal/runtime/spec"
	"berth/internal/state"
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
		ExposedPorts map[string]struct{} `json:",omitempty"`
		Tty          bool
		OpenStdin    bool
		Env          []string
		Cmd          []string
		Image        string
		WorkingDir   string
		Entrypoint   []string
		Labels       map[string]string
		StopSignal   string             `json:",omitempty"`
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
		Mounts: []ViewMount{},
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
		AutoRemove: cfg.AutoRemove, CapAdd: cfg.CapAdd, CapDrop: cfg.CapDrop, CgroupnsMode: orDefault(cfg.Cgroupn, "private"), GroupAdd: cfg.Groups, VolumesFrom: cfg.VolumesFrom,
		IpcMode: orDefault(cfg.IPC, "private"), OomScoreAdj: cfg.OOMScoreAdj, PidMode: cfg.PID, Privileged: cfg.Privileged, ReadonlyRootfs: cfg.ReadOnly,
		UTSMode: cfg.UTS, ShmSize: shm, Runtime: orDefault(cfg.Runtime, container.DefaultRuntime), VolumeDriver: cfg.VolumeDriver, Isolation: cfg.Isolation, Annotations: cfg.Annotations, Links: e.viewLinks(c), Sysctls: cfg.Sysctls,
		UsernsMode: cfg.UserNS, StorageOpt: storageOptions(cfg), ViewResources: viewResources(cfg), Init: cfg.Init,
		SecurityOpt: securityOptions(cfg.Security), PortBindings: bindings(cfg.Ports), PublishAllPorts: cfg.PublishAll,
		DNS: orNone(cfg.DNS), DNSOptions: orNone(cfg.DNSOptions), DNSSearch: orNone(cfg.DNSSearch), ExtraHosts: hostLines(cfg),
	}
	v.HostConfig.MaskedPaths, v.HostConfig.ReadonlyPaths = spec.Protected(cfg)
	upper, work := e.Containers.Writable(c)
	v.GraphDriver = ViewDriver{driverOf(c), map[string]string{"UpperDir": upper, "WorkDir": work}}
	if c.Driver == state.DriverCopy {
		v.GraphDriver.Data = map[string]string{"TreeDir": e.Containers.Tree(c.ID)}
	}
	for _, m := range cfg.Mounts {
		vm := ViewMount{Type: m.Type, Source: m.Source, Destination: m.Target, RW: !m.ReadOnly, Propagation: m.Propagation}
		if m.Type == container.MountBind {
			v.HostConfig.Binds = append(v.HostConfig.Binds, m.Source+":"+m.Target)
			vm.Propagation = orDefault(m.Propagation, "rprivate")
		}
		for _, vol := range c.Volumes {
			if vol.Target == m.Target {
				vm.Name, vm.Driver = vol.Name, "local"
			}
		}
		v.Mounts = append(v.Mounts, vm)
	}
	v.Config = ViewConfig{
		Hostname: spec.Hostname(spec.Input{ID: c.ID, Config: cfg}), Domainname: cfg.Domainname, User: cfg.User, Tty: cfg.TTY, OpenStdin: cfg.Interactive,
		Env: cfg.Env, Cmd: cfg.Command, Image: c.Image.Name, WorkingDir: cfg.Workdir, Entrypoint: cfg.Entrypoint, Labels: cfg.Labels, StopSignal: cfg.StopSignal,
		ExposedPorts: exposed(cfg), HealthOnFailure: cfg.HealthOnFailure,
	}
	if len(cfg.Health.Test) > 0 {
		v.Config.Healthcheck = &cfg.Health
	}
	if v.Config.Labels == nil {
		v.Config.Labels = map[string]string{}
	}
	v.NetworkSettings, err = e.viewNetworks(c, v.State.Pid)
	return v, err
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
