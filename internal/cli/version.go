package cli

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"berth/internal/host"
)

// The versions of docker's API whose meaning the commands and their output have. Programs ask for them to see what they may use.
const (
	apiVersion    = "1.50"
	apiMinVersion = "1.24"
)

// clientView and serverView are versionView's halves; the names of the fields are docker's. Of berth both are the same program.
type (
	clientView struct {
		Version           string
		APIVersion        string `json:"ApiVersion"`
		DefaultAPIVersion string
		GitCommit         string
		GoVersion         string
		Os                string
		Arch              string
		BuildTime         string `json:",omitempty"`
		Context           string
	}
	serverView struct {
		Platform      struct{ Name string }
		Components    []componentView
		Version       string
		APIVersion    string `json:"ApiVersion"`
		MinAPIVersion string
		GitCommit     string
		GoVersion     string
		Os            string
		Arch          string
		KernelVersion string
		BuildTime     string `json:",omitempty"`
	}
	componentView struct {
		Name    string
		Version string
		Details map[string]string
	}
	versionView struct {
		Client clientView
		Server *serverView
	}
)

// built is the commit that this program was built from, and when that was made, where the build knew.
func built() (commit, when string) {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "", ""
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			commit = s.Value[:min(7, len(s.Value))]
		case "vcs.time":
			when = s.Value
		}
	}
	return commit, when
}

func (c *call) clientView() clientView {
	commit, when := built()
	return clientView{
		Version: Version, APIVersion: apiVersion, DefaultAPIVersion: apiVersion, GitCommit: commit, GoVersion: runtime.Version(), Os: runtime.GOOS, Arch: runtime.GOARCH,
		BuildTime: when, Context: c.choice().Context,
	}
}

func (c *call) cmdVersion() error {
	if c.options.short {
		_, err := fmt.Fprintf(c.out, "berth version %s\n", Version)
		return err
	}
	of := c.clientView()
	s := serverView{
		Version: of.Version, APIVersion: apiVersion, MinAPIVersion: apiMinVersion, GitCommit: of.GitCommit, GoVersion: of.GoVersion, Os: of.Os, Arch: of.Arch,
		KernelVersion: host.Release(), BuildTime: of.BuildTime,
	}
	s.Platform.Name = "berth"
	s.Components = []componentView{{"Engine", s.Version, map[string]string{
		"ApiVersion": s.APIVersion, "Arch": s.Arch, "BuildTime": s.BuildTime, "Experimental": "false", "GitCommit": s.GitCommit, "GoVersion": s.GoVersion, "KernelVersion": s.KernelVersion,
		"MinAPIVersion": s.MinAPIVersion, "Os": s.Os,
	}}}
	if done, err := c.format([]any{versionView{of, &s}}); done {
		return err
	}
	_, err := fmt.Fprintf(c.out, `Client:
 Version:           %s
 API version:       %s
 Go version:        %s
 Git commit:        %s
 Built:             %s
 OS/Arch:           %s/%s
 Context:           %s

Server: %s
 Engine:
  Version:          %s
  API version:      %s (minimum version %s)
  Go version:       %s
  Git commit:       %s
  Built:            %s
  OS/Arch:          %s/%s
  Kernel version:   %s
  Experimental:     false
`, of.Version, of.APIVersion, of.GoVersion, of.GitCommit, of.BuildTime, of.Os, of.Arch, of.Context,
		s.Platform.Name, s.Version, s.APIVersion, s.MinAPIVersion, s.GoVersion, s.GitCommit, s.BuildTime, s.Os, s.Arch, s.KernelVersion)
	return err
}
