package runtimecli

import (
	"github.com/mailru/easyjson/jlexer"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

//go:generate go run mkconfig.go

// config is what a bundle's config.json says of Linux.
type config struct {
	Version     string            `json:"ociVersion"`
	Process     *specs.Process    `json:"process"`
	Root        *specs.Root       `json:"root"`
	Hostname    string            `json:"hostname"`
	Domainname  string            `json:"domainname"`
	Mounts      []specs.Mount     `json:"mounts"`
	Hooks       *specs.Hooks      `json:"hooks"`
	Annotations map[string]string `json:"annotations"`
	Linux       *specs.Linux      `json:"linux"`
}

// parseConfig reads a config.json. Its readers are generated (config_json.go): encoding/json finds out about each of the
// hundred types by reflection, at every start, for 1 ms of the 10 that a container takes.
func parseConfig(data []byte) (*specs.Spec, error) {
	var c config
	in := jlexer.Lexer{Data: data}
	decodeConfig(&in, &c)
	in.Consumed()
	if err := in.Error(); err != nil {
		return nil, err
	}
	return &specs.Spec{
		Version: c.Version, Process: c.Process, Root: c.Root, Hostname: c.Hostname, Domainname: c.Domainname,
		Mounts: c.Mounts, Hooks: c.Hooks, Annotations: c.Annotations, Linux: c.Linux,
	}, nil
}
