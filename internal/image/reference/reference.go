// Package reference reads and writes the names of images as docker does: "alpine" is
// "docker.io/library/alpine:latest".
//
// The grammar is that of github.com/distribution/reference, written without regular expressions because
// this is on the way to every container; a fuzz test compares the two. The package resolves nothing: it
// knows neither registries' addresses nor what is stored, and an image ID is not a reference.
package reference

import (
	"strings"

	"berth/internal/errdef"
	"berth/internal/image"
)

const (
	// DefaultDomain is where names without a domain live.
	DefaultDomain = "docker.io"
	// DefaultTag is the tag of a reference with neither tag nor digest.
	DefaultTag = "latest"

	legacyDomain   = "index.docker.io"
	officialPrefix = "library/"
	maxPath        = 255
	maxTag         = 128
)

// Reference is the name of an image, normalised: Domain and Path are never empty, and at least one of
// Tag and Digest is set.
type Reference struct {
	Domain string // host with an optional port: docker.io, localhost:5000
	Path   string // library/alpine
	Tag    string
	Digest image.Digest
}

// Parse reads what a person or a file says and normalises it.
func Parse(s string) (Reference, error) {
	fail := func(format string, args ...any) (Reference, error) {
		cause := errdef.New(errdef.Invalid, "invalid reference format: "+format, args...)
		return Reference{}, errdef.New(errdef.Invalid, "cannot parse image reference %q: %w", s, cause)
	}
	if s == "" {
		return fail("it is empty")
	}
	if len(s) == 64 && isHex(s) {
		return fail("64 hexadecimal digits are an image ID, not a name")
	}
	domain, rest := splitDomain(s)

	name, digest, hasDigest := strings.Cut(rest, "@")
	name, tag, hasTag := strings.Cut(name, ":")
	if hasUpper(name) {
		return fail("repository name (%s) must be lowercase", name)
	}
	ref := Reference{Domain: domain, Path: name, Tag: tag}
	switch {
	case !validDomain(domain):
		return fail("%q is not a domain", domain)
	case !validPath(name):
		return fail("%q is not a repository name", name)
	case len(name) > maxPath:
		return fail("the repository name has %d bytes; at most %d are allowed", len(name), maxPath)
	case hasTag && !validTag(tag):
		return fail("%q is not a tag", tag)
	}
	if hasDigest {
		var err error
		if ref.Digest, err = image.ParseDigest(digest); err != nil {
			return fail("%w", err)
		}
	}
	if !hasTag && !hasDigest {
		ref.Tag = DefaultTag
	}
	return ref, nil
}

// splitDomain decides whether the first part of a name is a domain or, as in "user/app", a part of the path.
func splitDomain(s string) (domain, rest string) {
	first, after, ok := strings.Cut(s, "/")
	switch {
	case !ok:
		return DefaultDomain, officialPrefix + s
	case first == legacyDomain:
		domain, rest = DefaultDomain, after
	case first == "localhost" || strings.ContainsAny(first, ".:") || hasUpper(first):
		domain, rest = first, after
	default:
		domain, rest = DefaultDomain, s
	}
	if domain == DefaultDomain && !strings.Contains(rest, "/") {
		rest = officialPrefix + rest
	}
	return domain, rest
}

// String is the canonical form: docker.io/library/alpine:latest.
func (r Reference) String() string { return r.Repository() + r.suffix() }

// Repository is the canonical form without tag and digest: docker.io/library/alpine.
func (r Reference) Repository() string { return r.Domain + "/" + r.Path }

// Familiar is docker's short form: alpine:latest.
func (r Reference) Familiar() string { return r.FamiliarName() + r.suffix() }

// FamiliarName is docker's short form without tag and digest, what the column REPOSITORY shows: alpine.
func (r Reference) FamiliarName() string {
	if r.Domain != DefaultDomain {
		return r.Repository()
	}
	if short, ok := strings.CutPrefix(r.Path, officialPrefix); ok && !strings.Contains(short, "/") {
		return short
	}
	return r.Path
}

func (r Reference) suffix() string {
	var s string
	if r.Tag != "" {
		s = ":" + r.Tag
	}
	if r.Digest != "" {
		s += "@" + string(r.Digest)
	}
	return s
}

func isLower(c byte) bool { return 'a' <= c && c <= 'z' }
func isUpper(c byte) bool { return 'A' <= c && c <= 'Z' }
func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func isHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; !isDigit(c) && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func hasUpper(s string) bool {
	for i := range len(s) {
		if isUpper(s[i]) {
			return true
		}
	}
	return false
}

// validDomain: names of letters, digits and inner hyphens joined by dots, or "[" IPv6 address "]"; then a port.
func validDomain(s string) bool {
	host := s
	if strings.HasPrefix(s, "[") {
		end := strings.IndexByte(s, ']')
		if end < 2 {
			return false
		}
		for i := 1; i < end; i++ {
			if c := s[i]; !isDigit(c) && (c < 'a' || c > 'f') && (c < 'A' || c > 'F') && c != ':' {
				return false
			}
		}
		rest := s[end+1:]
		return rest == "" || rest[0] == ':' && validPort(rest[1:])
	}
	if colon := strings.IndexByte(s, ':'); colon >= 0 {
		if !validPort(s[colon+1:]) {
			return false
		}
		host = s[:colon]
	}
	start := true
	for i := range len(host) {
		switch c := host[i]; {
		case isLower(c) || isUpper(c) || isDigit(c):
			start = false
		case c == '-':
			if start || i+1 == len(host) || host[i+1] == '.' {
				return false
			}
		case c == '.':
			if start {
				return false
			}
			start = true
		default:
			return false
		}
	}
	return !start
}

func validPort(s string) bool {
	for i := range len(s) {
		if !isDigit(s[i]) {
			return false
		}
	}
	return s != ""
}

// validPath: components joined by "/", each of lower-case letters and digits with ".", "_", "__" or hyphens between.
func validPath(s string) bool {
	alnum := false // the last byte was a letter or digit
	for i := 0; i < len(s); i++ {
		c := s[i]
		if isLower(c) || isDigit(c) {
			alnum = true
			continue
		}
		if !alnum {
			return false
		}
		alnum = false
		switch c {
		case '/', '.':
		case '_':
			if i+1 < len(s) && s[i+1] == '_' {
				i++
			}
		case '-':
			for i+1 < len(s) && s[i+1] == '-' {
				i++
			}
		default:
			return false
		}
	}
	return alnum
}

// validTag: a letter, digit or "_", then up to 127 of these, "." and "-".
func validTag(s string) bool {
	if s == "" || len(s) > maxTag {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !isLower(c) && !isUpper(c) && !isDigit(c) && c != '_' && (i == 0 || c != '.' && c != '-') {
			return false
		}
	}
	return true
}
