// Package cdi reads specifications of the Container Device Interface (github.com/cncf-tags/container-device-interface, SPEC.md): files in
// which the makers of devices say what a container needs of the host for each. It resolves qualified names of devices (vendor.com/class=name)
// to edits of a container.
//
// It makes no device, runs no hook and looks at nothing but the specifications. Those are the host's administrator's; one that cannot be
// read does not keep the others from being used, unless a device is asked for that is then not found.
package cdi

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"berth/internal/container"
	"berth/internal/errdef"
)

// Edits are what a container needs for devices.
type Edits struct {
	Env            []string `json:"env"`
	Nodes          []Node   `json:"deviceNodes"`
	Mounts         []Mount  `json:"mounts"`
	Hooks          []Hook   `json:"hooks"`
	AdditionalGIDs []Number `json:"additionalGids"`

	// What is not known how to be done is refused, not left out.
	NetDevices []json.RawMessage `json:"netDevices"`
	IntelRDT   json.RawMessage   `json:"intelRdt"`
}

// Node is a device of the host. What is not said of it is as it is on the host.
type Node struct {
	Path        string  `json:"path"`
	HostPath    string  `json:"hostPath"` // empty: Path
	Type        string  `json:"type"`
	Major       *Number `json:"major"`
	Minor       *Number `json:"minor"`
	FileMode    *Number `json:"fileMode"`
	Permissions string  `json:"permissions"` // of r, w, m; empty is all
	UID         *Number `json:"uid"`
	GID         *Number `json:"gid"`
}

// Mount is a mount; options are those of the OCI runtime specification.
type Mount struct {
	HostPath      string   `json:"hostPath"`
	ContainerPath string   `json:"containerPath"`
	Options       []string `json:"options"`
	Type          string   `json:"type"`
}

// Hook is a program of the host that is to be run when the container is made.
type Hook struct {
	HookName string `json:"hookName"`
	Path     string `json:"path"`
}

// Number is a number, also where it is written as a text; one that begins with 0 is octal.
type Number int64

// UnmarshalJSON reads 438, "438" and "0666".
func (n *Number) UnmarshalJSON(data []byte) error {
	text := strings.Trim(string(data), `"`)
	if text == "null" {
		return nil
	}
	v, err := strconv.ParseInt(text, 0, 64)
	*n = Number(v)
	return err
}

// specification is a file.
type specification struct {
	path    string
	order   int    // of its directory
	Version string `json:"cdiVersion"`
	Kind    string `json:"kind"`
	Devices []struct {
		Name  string `json:"name"`
		Edits Edits  `json:"containerEdits"`
	} `json:"devices"`
	Edits Edits `json:"containerEdits"` // for each container that has any of the devices
}

// limitBytes bounds a specification; that of a host with sixteen GPUs has some 100 KB.
const limitBytes = 4 << 20

// Resolve finds the devices that are asked for, and returns what a container needs for all of them together. dirs are where specifications
// are; those of a later directory replace devices of an earlier one.
func Resolve(dirs []string, requests []container.DeviceRequest) (Edits, error) {
	if len(requests) == 0 {
		return Edits{}, nil
	}
	all, problems := readAll(dirs)
	var out Edits
	var used []string
	for _, r := range requests {
		names, err := r.Names(namesOf(all, container.GPUs))
		if err != nil {
			return Edits{}, errors.Join(err, problems)
		}
		for _, name := range names {
			s, i, err := find(all, name)
			if err != nil {
				return Edits{}, unresolved(dirs, r, err, problems)
			}
			if !slices.Contains(used, s.path) {
				used = append(used, s.path)
				out.add(s.Edits)
			}
			if !slices.Contains(used, name) { // no path: it has no slash in front
				used = append(used, name)
				out.add(s.Devices[i].Edits)
			}
		}
	}
	return out, out.check()
}

// unresolved is the error of a device that is not there.
func unresolved(dirs []string, r container.DeviceRequest, err, problems error) error {
	if problems != nil {
		err = fmt.Errorf("%w; %w", err, problems)
	}
	hint := "describe it in a file in " + strings.Join(dirs, " or ")
	if r.Driver != container.DriverCDI {
		hint = "describe the GPUs: nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml"
	}
	return errdef.Hint(errdef.As(errdef.NotFound, err), "%s", hint)
}

// find finds a device by its qualified name: in the last directory that has it, where it may be in one file alone.
func find(all []specification, name string) (s specification, index int, err error) {
	vendor, class, device, ok := container.QualifiedDevice(name)
	if !ok {
		return s, 0, errdef.New(errdef.Invalid, "%q is no name of a device: it is VENDOR/CLASS=NAME", name)
	}
	found := false
	for _, have := range all {
		if have.Kind != vendor+"/"+class {
			continue
		}
		for i, d := range have.Devices {
			if d.Name != device {
				continue
			}
			if found && have.order == s.order {
				return s, 0, errdef.New(errdef.Conflict, "CDI device injection failed: the device %s is in both %s and %s", name, s.path, have.path)
			}
			s, index, found = have, i, true
		}
	}
	if !found {
		return s, 0, errdef.New(errdef.NotFound, "CDI device injection failed: unresolvable CDI devices %s", name)
	}
	return s, index, nil
}

func namesOf(all []specification, kind string) []string {
	var names []string
	for _, s := range all {
		if s.Kind != kind {
			continue
		}
		for _, d := range s.Devices {
			if !slices.Contains(names, d.Name) {
				names = append(names, d.Name)
			}
		}
	}
	return names
}

// readAll reads all specifications, and says what keeps others from being read.
func readAll(dirs []string) (all []specification, problems error) {
	for order, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			problems = errors.Join(problems, err)
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			if ext := filepath.Ext(path); ext != ".json" && ext != ".yaml" && ext != ".yml" {
				continue
			}
			s, err := read(path)
			if err != nil {
				problems = errors.Join(problems, fmt.Errorf("cannot read %s: %w", path, err))
				continue
			}
			s.path, s.order = path, order
			all = append(all, s)
		}
	}
	return all, problems
}

func read(path string) (s specification, err error) {
	st, err := os.Stat(path)
	if err != nil {
		return s, err
	}
	if !st.Mode().IsRegular() || st.Size() > limitBytes {
		return s, errors.New("it is no file of a sane size")
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return s, err
	}
	return parse(data, filepath.Ext(path) != ".json")
}

func parse(data []byte, isYAML bool) (s specification, err error) {
	if isYAML {
		if data, err = toJSON(data); err != nil {
			return s, err
		}
	}
	if err := json.Unmarshal(data, &s); err != nil {
		return s, err
	}
	if s.Version == "" || s.Kind == "" {
		return s, errors.New("it lacks cdiVersion or kind")
	}
	return s, nil
}

func (e *Edits) add(more Edits) {
	e.Env = append(e.Env, more.Env...)
	e.Nodes = append(e.Nodes, more.Nodes...)
	e.Mounts = append(e.Mounts, more.Mounts...)
	e.Hooks = append(e.Hooks, more.Hooks...)
	e.NetDevices = append(e.NetDevices, more.NetDevices...)
	if len(more.IntelRDT) > 0 {
		e.IntelRDT = more.IntelRDT
	}
	for _, gid := range more.AdditionalGIDs {
		if gid != 0 && !slices.Contains(e.AdditionalGIDs, gid) { // 0 is none (SPEC.md)
			e.AdditionalGIDs = append(e.AdditionalGIDs, gid)
		}
	}
}

// check refuses what cannot be done.
func (e *Edits) check() error {
	unsupported := func(what string) error {
		return errdef.New(errdef.Unsupported, "cannot give the container the devices that CDI describes: they need %s, which berth does not do yet", what)
	}
	switch {
	case len(e.Hooks) > 0:
		return unsupported(fmt.Sprintf("the hook %s (%s)", e.Hooks[0].HookName, e.Hooks[0].Path))
	case len(e.NetDevices) > 0:
		return unsupported("network devices")
	case len(e.IntelRDT) > 0 && string(e.IntelRDT) != "null":
		return unsupported("Intel RDT")
	}
	for _, n := range e.Nodes {
		if !strings.HasPrefix(n.Path, "/") || n.HostPath != "" && !strings.HasPrefix(n.HostPath, "/") || n.Permissions != "" && !container.DeviceAccess(n.Permissions) {
			return errdef.New(errdef.Invalid, "CDI describes a device without an absolute path, or with the unknown permissions %q: %q", n.Permissions, n.Path)
		}
	}
	for _, m := range e.Mounts {
		if !strings.HasPrefix(m.ContainerPath, "/") || m.HostPath == "" {
			return errdef.New(errdef.Invalid, "CDI describes a mount without a host path, or at no absolute path: %q", m.ContainerPath)
		}
	}
	for _, v := range e.Env {
		if name, _, has := strings.Cut(v, "="); !has || name == "" {
			return errdef.New(errdef.Invalid, "CDI describes the environment variable %q, which is not NAME=VALUE", v)
		}
	}
	for _, gid := range e.AdditionalGIDs {
		if gid < 0 || gid > 1<<31-1 {
			return errdef.New(errdef.Invalid, "CDI describes the additional group %d", gid)
		}
	}
	return nil
}
