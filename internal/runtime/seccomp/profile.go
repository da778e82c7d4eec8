package seccomp

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"berth/internal/errdef"
	"berth/internal/host"
)

// profile is a profile in docker's form (--security-opt seccomp=FILE): a runtime spec's, with rules that depend on the
// host and the container's capabilities. Podman and containerd read the same form.
type profile struct {
	DefaultAction    specs.LinuxSeccompAction `json:"defaultAction"`
	DefaultErrnoRet  *uint                    `json:"defaultErrnoRet"`
	Architectures    []specs.Arch             `json:"architectures"`
	ArchMap          []archMap                `json:"archMap"`
	Flags            []specs.LinuxSeccompFlag `json:"flags"`
	ListenerPath     string                   `json:"listenerPath"`
	ListenerMetadata string                   `json:"listenerMetadata"`
	Syscalls         []*rule                  `json:"syscalls"`
}

// archMap says which architectures belong to a host's native one.
type archMap struct {
	Arch     specs.Arch   `json:"architecture"`
	SubArchs []specs.Arch `json:"subArchitectures"`
}

// rule is one entry of a profile's list. Name is the old form of Names.
type rule struct {
	Name     string                   `json:"name"`
	Names    []string                 `json:"names"`
	Action   specs.LinuxSeccompAction `json:"action"`
	ErrnoRet *uint                    `json:"errnoRet"`
	Args     []specs.LinuxSeccompArg  `json:"args"`
	Includes *when                    `json:"includes"`
	Excludes *when                    `json:"excludes"`
}

// when says for which containers a rule is: included are those with all of Caps, one of Arches and at least MinKernel;
// excluded those with one of Caps, one of Arches or at least MinKernel.
type when struct {
	Caps      []string   `json:"caps"`
	Arches    []string   `json:"arches"`
	MinKernel *minKernel `json:"minKernel"`
}

type minKernel host.Version

// UnmarshalJSON reads "4.8"; an empty text is no condition.
func (k *minKernel) UnmarshalJSON(data []byte) error {
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		return fmt.Errorf("minKernel %s is not a text like \"4.8\"", data)
	}
	if text == "" {
		*k = minKernel{}
		return nil
	}
	major, minor, ok := strings.Cut(text, ".")
	x, err1 := strconv.ParseUint(major, 10, 8)
	y, err2 := strconv.ParseUint(minor, 10, 8)
	if !ok || err1 != nil || err2 != nil || x == 0 && y == 0 {
		return fmt.Errorf("minKernel %q is not of the form \"4.8\"", text)
	}
	*k = minKernel{Major: int(x), Minor: int(y)}
	return nil
}

// Load reads a profile in docker's form and returns what it says about a container with the bounding set caps
// ("CAP_CHOWN") on a host of architecture arch, in Go's words, and with that kernel. Fields it does not know are
// ignored, as docker does. Nil means that the profile asks for no filter: it has no default action and no rules.
func Load(data []byte, caps []string, arch string, kernel host.Version) (*specs.LinuxSeccomp, error) {
	var p profile
	if err := json.Unmarshal(data, &p); err != nil {
		return nil, errdef.New(errdef.Invalid, "cannot read the seccomp profile: %w", err)
	}
	if p.DefaultAction == "" && len(p.Syscalls) == 0 {
		return nil, nil
	}
	if err := p.check(); err != nil {
		return nil, errdef.New(errdef.Invalid, "cannot use the seccomp profile: %w", err)
	}
	return p.resolve(caps, arch, kernel), nil
}

// check finds what makes a profile senseless on every host; Compile finds the rest.
func (p *profile) check() error {
	switch {
	case p.DefaultAction == "":
		return fmt.Errorf("it has rules and no defaultAction")
	case len(p.Architectures) > 0 && len(p.ArchMap) > 0:
		return fmt.Errorf("it has both architectures and archMap")
	}
	for i, r := range p.Syscalls {
		switch {
		case r == nil:
			return fmt.Errorf("rule %d of syscalls is null", i)
		case r.Name != "" && len(r.Names) > 0:
			return fmt.Errorf("rule %d of syscalls has both name %q and names", i, r.Name)
		case r.Name == "" && len(r.Names) == 0:
			return fmt.Errorf("rule %d of syscalls names no system call", i)
		case slices.Contains(r.Names, ""):
			return fmt.Errorf("rule %d of syscalls has an empty name", i)
		case r.Action == "":
			return fmt.Errorf("rule %d of syscalls (%s) has no action", i, strings.Join(r.names(), " "))
		}
	}
	return nil
}

// resolve returns the profile for one container on one host.
func (p *profile) resolve(caps []string, arch string, kernel host.Version) *specs.LinuxSeccomp {
	spec := &specs.LinuxSeccomp{
		DefaultAction:    p.DefaultAction,
		DefaultErrnoRet:  p.DefaultErrnoRet,
		Architectures:    p.Architectures,
		Flags:            p.Flags,
		ListenerPath:     p.ListenerPath,
		ListenerMetadata: p.ListenerMetadata,
		Syscalls:         make([]specs.LinuxSyscall, 0, len(p.Syscalls)),
	}
	native := specs.ArchX86_64
	if arch == "arm64" {
		native = specs.ArchAARCH64
	}
	for i := range p.ArchMap {
		if m := &p.ArchMap[i]; m.Arch == native {
			spec.Architectures = append([]specs.Arch{m.Arch}, m.SubArchs...)
			break
		}
	}
	for _, r := range p.Syscalls {
		if r.Excludes.any(caps, arch, kernel) || !r.Includes.all(caps, arch, kernel) {
			continue
		}
		spec.Syscalls = append(spec.Syscalls, specs.LinuxSyscall{
			Names: r.names(), Action: r.Action, ErrnoRet: r.ErrnoRet, Args: r.Args,
		})
	}
	return spec
}

// names returns the names of the rule in whichever form it has them.
func (r *rule) names() []string {
	if r.Name != "" {
		return []string{r.Name}
	}
	return r.Names
}

// all reports whether every condition of w holds.
func (w *when) all(caps []string, arch string, kernel host.Version) bool {
	if w == nil {
		return true
	}
	for _, name := range w.Caps {
		if !slices.Contains(caps, name) {
			return false
		}
	}
	return (len(w.Arches) == 0 || slices.Contains(w.Arches, arch)) &&
		(w.MinKernel == nil || kernel.AtLeast(w.MinKernel.Major, w.MinKernel.Minor))
}

// any reports whether some condition of w holds.
func (w *when) any(caps []string, arch string, kernel host.Version) bool {
	if w == nil {
		return false
	}
	return slices.ContainsFunc(w.Caps, func(name string) bool { return slices.Contains(caps, name) }) ||
		slices.Contains(w.Arches, arch) ||
		w.MinKernel != nil && kernel.AtLeast(w.MinKernel.Major, w.MinKernel.Minor)
}
