package build

import (
	"testing"

	"github.com/moby/patternmatcher"
)

// What is remembered of directories changes nothing: the library, which looks at each path alone, says the same.
func TestPatternsMatchAsTheLibraryHasIt(t *testing.T) {
	paths := []string{
		"a", "a/b", "a/b/c", "a/b/c/d.txt", "ab", "ab/c", "xa", "xa/c", "xa/c/e", "node_modules", "node_modules/a", "src/node_modules/a/b.js", "src/a.go",
		"src/a_test.go", "src/deep/er/a_test.go", "README.md", "docs/README.md", ".git", ".git/config", "d/keep/me", "d/other",
	}
	for _, lines := range [][]string{
		{"a"},
		{"a/b", "!a/b/c"},
		{"x*", "!xa/c", "xa"},
		{"**/node_modules"},
		{"*", "!src", "src/**/*_test.go"},
		{"**", "!**/*.md"},
		{".git", "*.md", "!README.md"},
		{"d/*", "!d/keep"},
		{"a/**"},
		{"**/b"},
		{"!a"},
		{"a", "!a", "a/b"},
		{"./src/", "!src/deep"},
	} {
		theirs, err := patternmatcher.New(lines)
		if err != nil {
			t.Fatal(err)
		}
		ours, err := newPatterns(lines)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second time, from what is remembered
			for _, p := range paths {
				want, err := theirs.MatchesOrParentMatches(p)
				if err != nil {
					t.Fatal(err)
				}
				if got := ours.match(p); got != want {
					t.Errorf("%q match %s: %v, and the library says %v", lines, p, got, want)
				}
			}
		}
	}
	for _, bad := range []string{"[", "!", "a[b"} {
		if _, err := newPatterns([]string{bad}); err == nil {
			t.Errorf("%q is understood", bad)
		}
	}
}
