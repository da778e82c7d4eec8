package reference

import (
	"strings"
	"testing"

	distribution "github.com/distribution/reference"

	"berth/internal/errdef"
)

func TestParse(t *testing.T) {
	const hex = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	for _, test := range []struct{ summary, in, canonical, familiar string }{
		{"a bare name is official", "alpine", "docker.io/library/alpine:latest", "alpine:latest"},
		{"a tag is kept", "alpine:3.20", "docker.io/library/alpine:3.20", "alpine:3.20"},
		{"a user's image", "user/app", "docker.io/user/app:latest", "user/app:latest"},
		{"the hub by its old name", "index.docker.io/alpine", "docker.io/library/alpine:latest", "alpine:latest"},
		{"localhost is a domain", "localhost/x", "localhost/x:latest", "localhost/x:latest"},
		{"a port makes a domain", "localhost:5000/x:1", "localhost:5000/x:1", "localhost:5000/x:1"},
		{"without a slash it is a tag", "localhost:5000", "docker.io/library/localhost:5000", "localhost:5000"},
		{"upper case makes a domain", "Quay/x", "Quay/x:latest", "Quay/x:latest"},
		{"an IPv6 address", "[fd00::1]:5000/x", "[fd00::1]:5000/x:latest", "[fd00::1]:5000/x:latest"},
		{"a digest needs no tag", "alpine@sha256:" + hex, "docker.io/library/alpine@sha256:" + hex, "alpine@sha256:" + hex},
		{"tag and digest", "a:b@sha256:" + hex, "docker.io/library/a:b@sha256:" + hex, "a:b@sha256:" + hex},
		{"deep below library is not short", "library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"},
		{"separators", "a__b/c---d/e.f_g", "docker.io/a__b/c---d/e.f_g:latest", "a__b/c---d/e.f_g:latest"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			ref, err := Parse(test.in)
			if err != nil {
				t.Fatal(err)
			}
			if ref.String() != test.canonical || ref.Familiar() != test.familiar {
				t.Errorf("got %s and %s, want %s and %s", ref, ref.Familiar(), test.canonical, test.familiar)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	for summary, in := range map[string]string{
		"nothing":                    "",
		"upper case":                 "Alpine",
		"upper case behind a domain": "quay.io/Alpine",
		"an image ID":                strings.Repeat("ab", 32),
		"an empty tag":               "alpine:",
		"a long tag":                 "alpine:" + strings.Repeat("a", 129),
		"a long path":                strings.Repeat("a", 256),
		"three underscores":          "a___b",
		"a trailing slash":           "a/",
		"dot dot":                    "../x",
		"a short digest":             "a@sha256:abcd",
		"a terminal's escape":        "a\x1b[31m",
		"a newline":                  "a\n",
		"a domain with underscore":   "foo_bar.example/x",
		"an unclosed bracket":        "[::1/x",
	} {
		t.Run(summary, func(t *testing.T) {
			ref, err := Parse(in)
			if !errdef.Is(err, errdef.Invalid) {
				t.Errorf("Parse(%q) = %q, %v; want an invalid reference", in, ref, err)
			}
		})
	}
	if _, err := Parse("quay.io/Alpine"); err == nil || !strings.Contains(err.Error(), "repository name (Alpine) must be lowercase") {
		t.Errorf("upper case is not explained as docker does: %v", err)
	}
}

// FuzzParse compares with the implementation that docker, containerd and podman use.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"alpine", "localhost:5000/x:1", "index.docker.io/a", "a@sha256:" + strings.Repeat("0", 64), "[::1]:80/x",
		"A/b", "a.b/c:d", "a-/b", "-a.b/c", "a__b/c", "a:_", "a.b.:1/c", "docker.io/library/x", "a@sha512:" + strings.Repeat("f", 128),
		strings.Repeat("0", 64), "docker.io/localhost/x",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		theirs, theirErr := distribution.ParseNormalizedNamed(s)
		ours, err := Parse(s)
		if theirErr == nil {
			if distribution.Domain(theirs) == "" {
				return // a first part that is neither a domain nor the hub's: no registry could be asked
			}
			if d, ok := theirs.(distribution.Digested); ok && d.Digest().Algorithm() == "sha384" {
				return // a hash that image-spec does not register
			}
		}
		if (err == nil) != (theirErr == nil) {
			t.Fatalf("Parse(%q): we say %v, %v; they say %v, %v", s, ours, err, theirs, theirErr)
		}
		if err != nil {
			return
		}
		theirs = distribution.TagNameOnly(theirs)
		if ours.String() != theirs.String() || ours.Familiar() != distribution.FamiliarString(theirs) ||
			ours.Domain != distribution.Domain(theirs) || ours.Path != distribution.Path(theirs) ||
			ours.FamiliarName() != distribution.FamiliarName(theirs) {
			t.Fatalf("Parse(%q): we say %s, %s; they say %s, %s", s, ours, ours.Familiar(), theirs, distribution.FamiliarString(theirs))
		}
		again, err := Parse(ours.String())
		if err != nil || again != ours {
			t.Fatalf("Parse(%q) = %v, which parses to %v, %v", s, ours, again, err)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	for b.Loop() {
		_, _ = Parse("registry.example:5000/team/app:1.2.3")
	}
}
