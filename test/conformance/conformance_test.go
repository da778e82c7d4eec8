// Package conformance holds runtime.md: the demands of the runtime spec, and which test covers each. It has no code of its own.
package conformance

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestNamedTestsExist: runtime.md names no test that is not there.
func TestNamedTestsExist(t *testing.T) {
	data, err := os.ReadFile("runtime.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for line := range strings.Lines(string(data)) {
		cells := strings.Split(line, "|")
		if len(cells) != 5 || strings.HasPrefix(cells[1], " demand") || strings.HasPrefix(cells[1], " ---") {
			continue
		}
		rows++
		name := strings.Trim(strings.TrimSpace(cells[2]), "`")
		if !exists(t, name) {
			t.Errorf("%s: there is no test %q", strings.TrimSpace(cells[1]), name)
		}
	}
	if rows < 50 {
		t.Errorf("only %d rows were found", rows)
	}
	for _, name := range []string{"script nosuch", "plan.TestNothing", "nosuch.TestNothing", "text"} {
		if exists(t, name) {
			t.Errorf("%q is found", name)
		}
	}
}

func exists(t *testing.T, name string) bool {
	t.Helper()
	if script, ok := strings.CutPrefix(name, "script "); ok {
		_, err := os.Stat(filepath.Join("../../internal/cli/testdata/script", script+".txt"))
		return err == nil
	}
	pkg, test, ok := strings.Cut(name, ".")
	if !ok {
		return false
	}
	var files []string
	for _, pattern := range []string{"../../internal/" + pkg + "/*_test.go", "../../internal/*/" + pkg + "/*_test.go"} {
		more, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, more...)
	}
	is := regexp.MustCompile(`(?m)^func ` + regexp.QuoteMeta(test) + `\(`)
	for _, f := range files {
		if data, err := os.ReadFile(f); err == nil && is.Match(data) {
			return true
		}
	}
	return false
}
