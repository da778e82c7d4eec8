package container

import (
	"strings"

	"berth/internal/errdef"
)

// Link is a container that another one is told of, under a name of the other's own.
type Link struct{ Container, Alias string }

// ParseLink reads docker's --link: CONTAINER[:ALIAS].
func ParseLink(s string) (Link, error) {
	name, alias, has := strings.Cut(s, ":")
	name = strings.TrimPrefix(name, "/")
	if !has {
		alias = name
	}
	if name == "" || alias == "" || strings.ContainsAny(alias, ":/ \t\n") {
		return Link{}, errdef.New(errdef.Invalid, "bad format for links: %s", s)
	}
	return Link{name, alias}, nil
}

// ParsePair reads KEY=VALUE; what is the noun for an error. A key alone has an empty value.
func ParsePair(what, s string) (key, value string, err error) {
	key, value, _ = strings.Cut(s, "=")
	if key == "" || strings.TrimSpace(key) != key {
		return "", "", errdef.New(errdef.Invalid, "invalid %s '%s': the name is empty or has spaces around it", what, s)
	}
	return key, value, nil
}

// DefaultRuntime is the name of what starts containers unless another runtime is asked for: this program.
const DefaultRuntime = "berth"

// OwnRuntime reports whether docker's users, or berth's, mean this program by a name. One of them, runc, is a program of its own where there
// is one.
func OwnRuntime(name string) bool {
	return name == "" || name == DefaultRuntime || name == "io.containerd.runc.v2"
}

// CheckRuntime refuses what can neither be the name of a runtime nor the path of one.
func CheckRuntime(name string) error {
	if strings.Contains(name, "/") && !strings.HasPrefix(name, "/") || strings.ContainsAny(name, " \t\n") {
		return errdef.New(errdef.Invalid, "unknown or invalid runtime name: %s", name)
	}
	return nil
}

// CheckIsolation refuses what is not Linux's way to isolate a container.
func CheckIsolation(name string) error {
	if name == "" || strings.EqualFold(name, "default") {
		return nil
	}
	return errdef.New(errdef.Unsupported, "invalid isolation %q on linux: hyperv and process are of Windows; leave out --isolation", name)
}

// CheckVolumeDriver refuses drivers of volumes other than local.
func CheckVolumeDriver(name string) error {
	if name == "" || name == "local" {
		return nil
	}
	return errdef.New(errdef.NotFound, "error looking up volume plugin %s: plugin \"%s\" not found; the driver local is the one that there is", name, name)
}
