package dockerfile

import (
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
)

// TargetInfo is a stage as it is listed. The field names are BuildKit's (frontend/subrequests/targets).
type TargetInfo struct {
	Name        string `json:"name,omitempty"`
	Default     bool   `json:"default,omitempty"`
	Description string `json:"description,omitempty"`
	Base        string `json:"base,omitempty"`
	Platform    string `json:"platform,omitempty"`
}

// Targets lists the stages of a Dockerfile.
func Targets(text []byte) ([]TargetInfo, error) {
	f, err := parse(text, nil)
	if err != nil {
		return nil, err
	}
	var all []TargetInfo
	for i, s := range f.stages {
		all = append(all, TargetInfo{
			Name: s.Name, Default: i == len(f.stages)-1, Description: strings.TrimSpace(s.DocComment), Base: s.BaseName, Platform: s.Platform,
		})
	}
	return all, nil
}

// ArgInfo is an argument that a build takes.
type ArgInfo struct {
	Name        string `json:"name"`
	Description string `json:"description,omitempty"`
	Value       string `json:"value,omitempty"`
}

// InputInfo is a secret or an agent that a build uses.
type InputInfo struct {
	Name     string `json:"name"`
	Required bool   `json:"required,omitempty"`
}

// CacheInfo is a cache mount.
type CacheInfo struct {
	ID string `json:"ID"`
}

// Outline is what a target takes. The field names are BuildKit's (frontend/subrequests/outline).
type Outline struct {
	Name        string      `json:"name,omitempty"`
	Description string      `json:"description,omitempty"`
	Args        []ArgInfo   `json:"args,omitempty"`
	Secrets     []InputInfo `json:"secrets,omitempty"`
	SSH         []InputInfo `json:"ssh,omitempty"`
	Cache       []CacheInfo `json:"cache,omitempty"`
}

// Outlined says what a target, and what it needs, takes.
func Outlined(text []byte, opt Options) (o Outline, err error) {
	f, err := parse(text, nil)
	if err != nil {
		return o, err
	}
	plan, err := Make(text, opt)
	if err != nil {
		return o, err
	}
	needed := map[Lines]bool{}
	for _, s := range plan.Stages {
		needed[s.Lines] = true
	}
	args := argList{given: opt.Args}
	global := map[string]string{}
	for _, c := range f.args {
		for _, a := range c.Args {
			if a.Value != nil {
				global[a.Key] = *a.Value
			}
			args.add(a, nil)
		}
	}
	for _, s := range f.stages {
		if !needed[linesOf(s.Location)] {
			continue
		}
		if linesOf(s.Location) == plan.Target().Lines {
			o.Name, o.Description = s.Name, strings.TrimSpace(s.DocComment)
		}
		for _, c := range s.Commands {
			switch c := c.(type) {
			case *instructions.ArgCommand:
				for _, a := range c.Args {
					args.add(a, global)
				}
			case *instructions.RunCommand:
				// Its mounts are understood when variables are replaced.
				if err := c.Expand(func(w string) (string, error) { return w, nil }); err != nil {
					return o, At(linesOf(c.Location()), located(err))
				}
				o.mounts(c)
			}
		}
	}
	o.Args = args.all
	return o, nil
}

type argList struct {
	given map[string]string
	all   []ArgInfo
}

// add adds an argument, or what another ARG of that name says more about it.
func (l *argList) add(a instructions.KeyValuePairOptional, global map[string]string) {
	one := ArgInfo{Name: a.Key, Description: strings.TrimSpace(a.DocComment), Value: global[a.Key]}
	if a.Value != nil {
		one.Value = *a.Value
	}
	if v, ok := l.given[a.Key]; ok {
		one.Value = v
	}
	for i := range l.all {
		if have := &l.all[i]; have.Name == a.Key {
			if have.Description == "" {
				have.Description = one.Description
			}
			if have.Value == "" {
				have.Value = one.Value
			}
			return
		}
	}
	l.all = append(l.all, one)
}

func (o *Outline) mounts(c *instructions.RunCommand) {
	for _, m := range instructions.GetMounts(c) {
		var list *[]InputInfo
		id := m.CacheID
		switch m.Type {
		case instructions.MountTypeSecret:
			list = &o.Secrets
			if id == "" {
				id = m.Source
			}
			if id == "" {
				id = m.Target[strings.LastIndexByte(m.Target, '/')+1:]
			}
		case instructions.MountTypeSSH:
			if list = &o.SSH; id == "" {
				id = "default"
			}
		case instructions.MountTypeCache:
			if id == "" {
				id = m.Target
			}
			if !slices.Contains(o.Cache, CacheInfo{id}) {
				o.Cache = append(o.Cache, CacheInfo{id})
			}
			continue
		default:
			continue
		}
		known := false
		for i := range *list {
			if have := &(*list)[i]; have.Name == id {
				known, have.Required = true, have.Required || m.Required
			}
		}
		if !known {
			*list = append(*list, InputInfo{id, m.Required})
		}
	}
}
