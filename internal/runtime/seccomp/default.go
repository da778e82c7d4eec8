package seccomp

import (
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"

	"berth/internal/host"
)

// Default returns docker's default profile for a container with the bounding set caps ("CAP_CHOWN") on a host of
// architecture arch, in Go's words, and with that kernel. The lists of names in it are shared by all callers and must
// not be changed; everything else is the caller's own.
//
// The profile is data of the Moby project, licensed under the Apache License 2.0 (github.com/moby/profiles/seccomp).
// mkdefault turns it into tables, because building it when it is needed took 26 us and 146 allocations, and importing
// it 0.1 ms of every start. A test compares the two.
func Default(caps []string, arch string, kernel host.Version) *specs.LinuxSeccomp {
	spec := defaultProfile.resolve(caps, arch, kernel)
	spec.DefaultErrnoRet = clone(spec.DefaultErrnoRet)
	for i := range spec.Syscalls {
		r := &spec.Syscalls[i]
		r.ErrnoRet = clone(r.ErrnoRet)
		r.Args = slices.Clone(r.Args)
	}
	return spec
}

func clone(errno *uint) *uint {
	if errno == nil {
		return nil
	}
	return new(*errno)
}
