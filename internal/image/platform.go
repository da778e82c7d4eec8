package image

import (
	"runtime"
	"strings"

	"berth/internal/errdef"
)

// HostPlatform is what this program was built for.
func HostPlatform() Platform {
	return Platform{OS: runtime.GOOS, Architecture: runtime.GOARCH}
}

// ParsePlatform reads "linux/arm64/v8", and as docker does "linux" or "arm64" alone: the other half is the host's.
func ParsePlatform(s string) (Platform, error) {
	p := HostPlatform()
	parts := strings.Split(s, "/")
	for _, part := range parts {
		if !validPlatformPart(part) {
			return Platform{}, errdef.Hint(errdef.New(errdef.Invalid, "cannot understand platform %q", s),
				"write OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT, for example linux/arm64")
		}
	}
	switch len(parts) {
	case 1:
		if isOS(strings.ToLower(s)) {
			p.OS = s
		} else {
			p.Architecture = s
			if !isArchitecture(p.Normalized().Architecture) {
				return Platform{}, errdef.New(errdef.Invalid, "cannot understand platform %q: it is neither an operating system nor an architecture", s)
			}
		}
	case 2:
		p.OS, p.Architecture = parts[0], parts[1]
	case 3:
		p.OS, p.Architecture, p.Variant = parts[0], parts[1], parts[2]
	default:
		return Platform{}, errdef.New(errdef.Invalid, "cannot understand platform %q: it has more than three parts", s)
	}
	return p.Normalized(), nil
}

func validPlatformPart(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' && c != '-' && c != '.' {
			return false
		}
	}
	return s != ""
}

// The values of GOOS and GOARCH in which images are seen.
func isOS(s string) bool {
	switch s {
	case "linux", "windows", "darwin", "macos", "freebsd", "netbsd", "openbsd", "solaris", "illumos", "aix", "plan9", "wasip1", "wasi":
		return true
	}
	return false
}

func isArchitecture(s string) bool {
	switch s {
	case "386", "amd64", "arm", "arm64", "loong64", "mips", "mipsle", "mips64", "mips64le", "ppc64", "ppc64le", "riscv64", "s390x", "wasm":
		return true
	}
	return false
}

// Known reports whether images of such an operating system and architecture are seen.
func (p Platform) Known() bool {
	n := p.Normalized()
	return isOS(n.OS) && isArchitecture(n.Architecture)
}

// Normalized gives every platform one spelling: x86_64 is amd64, arm64/v8 is arm64, arm is arm/v7.
func (p Platform) Normalized() Platform {
	p.OS = strings.ToLower(p.OS)
	if p.OS == "macos" {
		p.OS = "darwin"
	}
	p.Architecture, p.Variant = strings.ToLower(p.Architecture), strings.ToLower(p.Variant)
	switch p.Architecture {
	case "i386":
		p.Architecture, p.Variant = "386", ""
	case "x86_64", "x86-64":
		p.Architecture = "amd64"
	case "aarch64":
		p.Architecture = "arm64"
	case "armhf":
		p.Architecture, p.Variant = "arm", "v7"
	case "armel":
		p.Architecture, p.Variant = "arm", "v6"
	}
	switch p.Architecture {
	case "amd64":
		if p.Variant == "v1" {
			p.Variant = ""
		}
	case "arm64":
		if p.Variant == "8" || p.Variant == "v8" || p.Variant == "v8.0" {
			p.Variant = ""
		}
	case "arm":
		switch p.Variant {
		case "":
			p.Variant = "v7"
		case "5", "6", "7", "8":
			p.Variant = "v" + p.Variant
		}
	}
	return p
}

// String is OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT, the form that ParsePlatform reads.
func (p Platform) String() string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// Rank says how well an image of platform have runs where want is asked for: 0 is an exact match, greater is
// worse, negative is not at all. As in docker an older variant of the same architecture will do, and what the
// same processor runs in its 32-bit mode.
func Rank(want, have Platform) int {
	want, have = want.Normalized(), have.Normalized()
	if want.OS != have.OS {
		return -1
	}
	if want.Architecture == have.Architecture {
		w, h := variantNumber(want), variantNumber(have)
		switch {
		case want.Variant == have.Variant:
			return 0
		case w < 0 || h < 0 || h > w:
			return -1
		}
		return w - h
	}
	const otherMode = 1000
	switch {
	case want.Architecture == "amd64" && have.Architecture == "386":
		return otherMode
	case want.Architecture == "arm64" && have.Architecture == "arm":
		if n := variantNumber(have); n >= 5 && n <= 80 {
			return otherMode + 80 - n
		}
	}
	return -1
}

// variantNumber orders the variants of one architecture; -1 is one that we do not know. ARM's minor versions
// ("v8.2") count as tenths.
func variantNumber(p Platform) int {
	v := p.Variant
	switch {
	case v == "" && p.Architecture == "amd64":
		v = "v1"
	case v == "" && p.Architecture == "arm64":
		v = "v8"
	case v == "":
		return 0
	}
	major, minor, _ := strings.Cut(strings.TrimPrefix(v, "v"), ".")
	if len(major) != 1 || major[0] < '0' || major[0] > '9' {
		return -1
	}
	n := 10 * int(major[0]-'0')
	if minor != "" {
		if len(minor) != 1 || minor[0] < '0' || minor[0] > '9' {
			return -1
		}
		n += int(minor[0] - '0')
	}
	return n
}

// Select returns the manifest of an index that runs best on the platform want. Of equals the first wins. An entry
// without a platform is taken only where nothing else fits and it is the only one; attestations of builders
// (platform unknown/unknown) never are.
func Select(x Index, want Platform) (Descriptor, error) {
	best, bestRank := -1, 0
	without, nameless := 0, -1
	var have []string
	for i, d := range x.Manifests {
		switch {
		case d.Annotations["vnd.docker.reference.type"] != "" || d.ArtifactType != "":
			continue
		case d.Platform == nil:
			without++
			nameless = i
			continue
		}
		if d.Platform.OS == "unknown" {
			continue
		}
		if len(have) < 32 {
			have = append(have, d.Platform.String())
		}
		if rank := Rank(want, *d.Platform); rank >= 0 && (best < 0 || rank < bestRank) {
			best, bestRank = i, rank
		}
	}
	if best < 0 && without == 1 {
		best = nameless
	}
	if best < 0 {
		err := errdef.New(errdef.NotFound, "no image for platform %s", want.Normalized())
		if len(have) == 0 {
			return Descriptor{}, err
		}
		return Descriptor{}, errdef.Hint(err, "there is one for %s", strings.Join(have, ", "))
	}
	return x.Manifests[best], nil
}
