package container

import (
	"encoding/csv"
	"path"
	"slices"
	"strconv"
	"strings"

	"berth/internal/errdef"
)

// DriverCDI is the Driver of a request for qualified names of CDI.
const DriverCDI = "cdi"

// ParseDevice reads --device: PATH[:PATH-IN-CONTAINER][:rwm][,optional].
func ParseDevice(s string) (Device, error) {
	text, optional := strings.CutSuffix(s, ",optional")
	parts := strings.Split(text, ":")
	d := Device{Host: parts[0], Path: parts[0], Permissions: "rwm", Optional: optional}
	switch len(parts) {
	case 1:
	case 2:
		if DeviceAccess(parts[1]) {
			d.Permissions = parts[1]
		} else {
			d.Path = parts[1]
		}
	case 3:
		d.Path, d.Permissions = parts[1], parts[2]
	}
	if len(parts) == 3 && !DeviceAccess(d.Permissions) {
		return Device{}, errdef.New(errdef.Invalid, "bad mode specified: %s", d.Permissions)
	}
	if len(parts) > 3 || !strings.HasPrefix(d.Host, "/") || !strings.HasPrefix(d.Path, "/") {
		return Device{}, errdef.New(errdef.Invalid, "invalid device %q: it is PATH[:PATH-IN-CONTAINER][:rwm][,optional], or VENDOR/CLASS=NAME", s)
	}
	d.Host, d.Path = path.Clean(d.Host), path.Clean(d.Path)
	return d, nil
}

// QualifiedDevice is a name of CDI, VENDOR/CLASS=NAME, in its parts; ok reports whether s is one.
func QualifiedDevice(s string) (vendor, class, name string, ok bool) {
	kind, name, has := strings.Cut(s, "=")
	vendor, class, slash := strings.Cut(kind, "/")
	ok = has && slash && plainName(vendor, "_-.") && plainName(class, "_-.") && letter(vendor[0]) && letter(class[0]) && plainName(name, "_-.:")
	return vendor, class, name, ok
}

// plainName reports whether a name is of letters, digits and, between them, some further characters.
func plainName(s, more string) bool {
	for i := range len(s) {
		c := s[i]
		alphanumeric := letter(c) || c >= '0' && c <= '9'
		if !alphanumeric && (i == 0 || i == len(s)-1 || strings.IndexByte(more, c) < 0) {
			return false
		}
	}
	return s != ""
}

func letter(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }

// gpuCapability is what docker asks of GPUs' drivers.
const gpuCapability = "gpu"

// ParseGPUs reads docker's --gpus: all, a number, or key=value pairs quoted as CSV.
func ParseGPUs(s string) (DeviceRequest, error) {
	invalid := func(format string, args ...any) (DeviceRequest, error) {
		return DeviceRequest{}, errdef.New(errdef.Invalid, format, args...)
	}
	fields, err := csv.NewReader(strings.NewReader(s)).Read()
	if err != nil {
		return invalid("invalid request for GPUs %q: %v", s, err)
	}
	r := DeviceRequest{}
	seen := map[string]bool{}
	for _, field := range fields {
		key, value, has := strings.Cut(field, "=")
		if !has && (key == "all" || isNumber(key)) {
			key, value, has = "count", key, true
		}
		switch {
		case !has:
			return invalid("%q is neither all, nor a number, nor KEY=VALUE", field)
		case seen[key]:
			return invalid("gpu request key '%s' can be specified only once", key)
		}
		seen[key] = true
		switch key {
		case "driver":
			r.Driver = value
		case "count":
			if r.Count = -1; value != "all" {
				if r.Count, err = strconv.Atoi(value); err != nil || r.Count < -1 {
					return invalid("invalid count (%s): value must be either \"all\" or an integer", value)
				}
			}
		case "device":
			r.IDs = strings.Split(value, ",")
		case "capabilities":
			r.Capabilities = append(strings.Split(value, ","), gpuCapability)
		case "options":
			r.Options = map[string]string{}
			for o := range strings.SplitSeq(value, ",") {
				k, v, _ := strings.Cut(o, "=")
				r.Options[k] = v
			}
		default:
			return invalid("unexpected key '%s' in '%s'", key, field)
		}
	}
	switch {
	case r.Count != 0 && r.IDs != nil:
		return invalid("cannot set both Count and DeviceIDs on device request")
	case r.Count == 0 && r.IDs == nil:
		r.Count = 1
	}
	if r.Capabilities == nil {
		r.Capabilities = []string{gpuCapability}
	}
	return r, nil
}

func isNumber(s string) bool {
	_, err := strconv.Atoi(s)
	return err == nil
}

// GPUs are the kind of devices that --gpus means.
const GPUs = "nvidia.com/gpu"

// Names are the qualified names of what is asked for. existing are the names of the GPUs that there are.
func (r DeviceRequest) Names(existing []string) ([]string, error) {
	if r.Driver == DriverCDI {
		return r.IDs, nil
	}
	if r.Driver != "" && r.Driver != "nvidia" {
		return nil, errdef.New(errdef.Unsupported, "could not select device driver %q with capabilities: %v: GPUs are given by CDI, which has no drivers", r.Driver, r.Capabilities)
	}
	ids := r.IDs
	switch {
	case ids != nil:
	case r.Count < 0:
		ids = []string{"all"}
	default:
		ids = slices.DeleteFunc(slices.Clone(existing), func(name string) bool { return !isNumber(name) })
		slices.SortFunc(ids, func(a, b string) int {
			x, _ := strconv.Atoi(a)
			y, _ := strconv.Atoi(b)
			return x - y
		})
		if len(ids) < r.Count {
			return nil, errdef.Hint(errdef.New(errdef.Invalid, "cannot give the container %d GPUs: CDI describes %d", r.Count, len(ids)), "describe them: nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml")
		}
		ids = ids[:r.Count]
	}
	var names []string
	for _, id := range ids {
		names = append(names, GPUs+"="+id)
	}
	return names, nil
}
