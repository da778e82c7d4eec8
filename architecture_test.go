package berth_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// packageOrder reads the table of ARCHITECTURE.md: package -> number of its line.
func packageOrder(t *testing.T) map[string]int {
	t.Helper()
	text, err := os.ReadFile("ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, ok := strings.Cut(string(text), "<!-- order: begin -->")
	table, _, ok2 := strings.Cut(table, "<!-- order: end -->")
	if !ok || !ok2 {
		t.Fatal("ARCHITECTURE.md has no table between <!-- order: begin --> and <!-- order: end -->")
	}
	order := map[string]int{}
	for i, line := range strings.Split(table, "\n") {
		// Names stand left of the first run of two spaces, which separates them from what they are for.
		names, _, _ := strings.Cut(strings.TrimSpace(line), "  ")
		for _, name := range strings.Fields(names) {
			if _, twice := order[name]; twice {
				t.Errorf("ARCHITECTURE.md names %s twice", name)
			}
			order[name] = i
		}
	}
	return order
}

// packages returns the non-test files of every package below internal/, by package path.
func packages(t *testing.T) map[string][]*ast.File {
	t.Helper()
	found := map[string][]*ast.File{}
	err := filepath.WalkDir("internal", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() && d.Name() == "testdata" {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			t.Error(err)
			return nil
		}
		name := strings.TrimPrefix(filepath.ToSlash(filepath.Dir(path)), "internal/")
		found[name] = append(found[name], file)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestImportsPointOneWay(t *testing.T) {
	order := packageOrder(t)
	found := packages(t)
	for name := range order {
		if found[name] == nil {
			t.Errorf("ARCHITECTURE.md lists %s, and there is no such package", name)
		}
	}
	for name, files := range found {
		line, listed := order[name]
		if !listed {
			t.Errorf("internal/%s is missing from the table in ARCHITECTURE.md", name)
			continue
		}
		if strings.Count(name, "/") > 1 {
			t.Errorf("internal/%s is more than one level deep", name)
		}
		for _, file := range files {
			for _, spec := range file.Imports {
				path, _ := strconv.Unquote(spec.Path.Value)
				imported, ours := strings.CutPrefix(path, "berth/internal/")
				if !ours {
					continue
				}
				if other, listed := order[imported]; listed && other >= line {
					t.Errorf("internal/%s imports %s, which is not on a line above it in ARCHITECTURE.md", name, imported)
				}
			}
		}
	}
}

// A package comment says what the package does and what it deliberately does not.
var saysNot = regexp.MustCompile(`(?i)\b(not|no|nor|never|nothing|neither|without|only)\b`)

func TestPackagesSayWhatTheyAreAndAreNot(t *testing.T) {
	for name, files := range packages(t) {
		var comment string
		for _, file := range files {
			if file.Doc == nil || !strings.HasPrefix(file.Doc.Text(), "Package ") {
				continue
			}
			if comment != "" {
				t.Errorf("internal/%s has two package comments", name)
			}
			comment = file.Doc.Text()
		}
		switch {
		case comment == "":
			t.Errorf("internal/%s has no package comment", name)
		case !saysNot.MatchString(comment):
			t.Errorf("the package comment of internal/%s does not say what the package is not:\n%s", name, comment)
		}
	}
}
