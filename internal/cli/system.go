package cli

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"

	"berth/internal/engine"
	"berth/internal/errdef"
	"berth/internal/host"
	"berth/internal/runtime/cgroup"
	"berth/internal/runtime/lsm"
	"berth/internal/runtime/needs"
	"berth/internal/settings"
	"berth/internal/state"
)

type versionView struct {
	Version, GoVersion, Os, Arch, KernelVersion string
}

func (c *call) cmdVersion() error {
	if c.options.short {
		_, err := fmt.Fprintf(c.out, "berth version %s\n", Version)
		return err
	}
	v := versionView{Version, runtime.Version(), runtime.GOOS, runtime.GOARCH, host.Release()}
	if done, err := c.format([]any{v}); done {
		return err
	}
	_, err := fmt.Fprintf(c.out, "berth\n Version:        %s\n Go version:     %s\n OS/Arch:        %s/%s\n Kernel version: %s\n", v.Version, v.GoVersion, v.Os, v.Arch, v.KernelVersion)
	return err
}

type infoView struct {
	Containers, ContainersRunning, ContainersPaused, ContainersStopped, Images int
	Driver, DriverReason, LoggingDriver                                        string
	CgroupDriver, CgroupDriverReason, CgroupVersion                            string
	KernelVersion, OperatingSystem, OSType, Architecture                       string
	NCPU                                                                       int
	MemTotal                                                                   int64
	DockerRootDir, RunRoot, Name, ServerVersion                                string
	SecurityOptions                                                            []string
	NetworkSettings                                                            []string // of the host, that networks have changed
	Rootless                                                                   bool
	RootlessUplink                                                             string // without root, what carries the traffic of networks
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
	v := infoView{Containers: len(all), Images: len(images), LoggingDriver: "json-file", DockerRootDir: c.settings.DataRoot, RunRoot: c.settings.RunRoot, ServerVersion: Version, OSType: runtime.GOOS, Architecture: runtime.GOARCH}
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
	v.Driver, v.DriverReason = e.Driver()
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
	_, err = fmt.Fprintf(c.out, ` Containers: %d
  Running: %d
  Paused: %d
  Stopped: %d
 Images: %d
 Server Version: %s
 Storage Driver: %s (%s)
 Logging Driver: %s
 Cgroup Driver: %s (%s)
 Cgroup Version: %s
 Security Options: %s
 Kernel Version: %s
 Operating System: %s
 OSType: %s
 Architecture: %s
 CPUs: %d
 Total Memory: %d bytes
 Name: %s
 Data Root: %s
 Run Root: %s
 Rootless: %v
`, v.Containers, v.ContainersRunning, v.ContainersPaused, v.ContainersStopped, v.Images, v.ServerVersion, v.Driver, v.DriverReason, v.LoggingDriver,
		v.CgroupDriver, v.CgroupDriverReason, v.CgroupVersion, strings.Join(v.SecurityOptions, ", "), v.KernelVersion, v.OperatingSystem, v.OSType, v.Architecture, v.NCPU, v.MemTotal, v.Name,
		v.DockerRootDir, v.RunRoot, v.Rootless)
	if v.RootlessUplink != "" && err == nil {
		_, err = fmt.Fprintf(c.out, " Rootless Uplink: %s\n", v.RootlessUplink)
	}
	for _, s := range v.NetworkSettings {
		if err == nil {
			_, err = fmt.Fprintf(c.out, " Changed Setting: %s\n", s)
		}
	}
	return err
}

func (c *call) cmdConfig() error {
	var rows [][]string
	for _, k := range settings.Keys {
		rows = append(rows, []string{k.Name, c.settings.Get(k.Name), c.sources[k.Name], k.Help})
	}
	if err := table(c.out, []string{"KEY", "VALUE", "FROM", "MEANING"}, rows); err != nil {
		return err
	}
	_, err := fmt.Fprintf(c.out, "\nfiles: %s\n", strings.Join(settings.Files(), ", "))
	return err
}

func (c *call) cmdCheck() error {
	all := engine.Check(c.settings)
	for _, f := range all {
		mark, color := "ok     ", green
		switch {
		case !f.OK && f.Needed:
			mark, color = "MISSING", red
		case !f.OK:
			mark, color = "absent ", yellow
		}
		mark = paint(c.out, color, mark)
		fmt.Fprintf(c.out, "%s  %-24s %s\n", mark, f.Name, visible(f.Found))
		if !f.OK {
			fmt.Fprintf(c.out, "         needed for: %s\n", f.For)
			if f.Hint != "" {
				fmt.Fprintf(c.out, "         next step:  %s\n", visible(f.Hint))
			}
		}
	}
	missing := needs.Missing(all)
	if len(missing) == 0 {
		return nil
	}
	names := make([]string, len(missing))
	for i, f := range missing {
		names[i] = f.Name
	}
	return errdef.Hint(errdef.New(errdef.Unsupported, "no container can be started here, for want of: %s", strings.Join(names, ", ")), "%s", missing[0].Advice())
}

// cmdAppArmorProfile prints the profile by which this program may make user namespaces where AppArmor forbids them.
func (c *call) cmdAppArmorProfile() error {
	path, err := os.Executable()
	if err != nil {
		return fmt.Errorf("cannot find this program's own file: %w", err)
	}
	_, err = io.WriteString(c.out, lsm.ProgramProfile(path))
	return err
}
