package cli

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// withoutEffect are the flags that change nothing, and why that is their meaning.
var withoutEffect = map[string]string{
	"image ls --all":              "docker hides intermediate images without it; there are none",
	"image rm --no-prune":         "images have no parents here that could be pruned",
	"network create --ipv4":       "every network has IPv4; --ipv4=false is refused",
	"runtime run --no-subreaper":  "a container's orphans are never adopted",
	"network inspect --verbose":   "it adds to what a swarm's networks are shown with; there are none",
	"image build --compress":      "the context is read where it is",
	"builder inspect --bootstrap": "there is nothing to be started before a build",
	"image build --force-rm":      "no container of a build outlives it; --force-rm=false is what docker does, too",
	"image build --rm":            "no container of a build outlives it",
}

// refusing are commands that fail, whatever their flags say.
var refusing = []string{"builder create", "builder rm", "builder bake"}

// source is what the functions of a package mention and whom they call, by their names without receivers.
type source struct {
	fields   map[string]map[string]bool // of options
	literals map[string]map[string]bool
	calls    map[string]map[string]bool
	commands map[string]string // fullcli.Commands: command -> function
}

func readSource(t *testing.T, dir string) source {
	t.Helper()
	s := source{map[string]map[string]bool{}, map[string]map[string]bool{}, map[string]map[string]bool{}, map[string]string{}}
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no source in %s: %v", dir, err)
	}
	for _, path := range files {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Body != nil {
				s.function(fn)
			}
		}
	}
	return s
}

func (s *source) function(fn *ast.FuncDecl) {
	name := fn.Name.Name
	for _, m := range []map[string]map[string]bool{s.fields, s.literals, s.calls} {
		if m[name] == nil {
			m[name] = map[string]bool{}
		}
	}
	ast.Inspect(fn.Body, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.SelectorExpr:
			// c.options.F, or o.F of a copy or pointer; and the name of every method that may be called.
			switch x := n.X.(type) {
			case *ast.SelectorExpr:
				if x.Sel.Name == "options" {
					s.fields[name][n.Sel.Name] = true
				}
			case *ast.Ident:
				if x.Name == "o" {
					s.fields[name][n.Sel.Name] = true
				}
				if x.Name == "c" {
					s.calls[name][n.Sel.Name] = true
				}
			}
		case *ast.CallExpr:
			if id, ok := n.Fun.(*ast.Ident); ok {
				s.calls[name][id.Name] = true
			}
		case *ast.BasicLit:
			if text, err := strconv.Unquote(n.Value); err == nil && n.Kind == token.STRING {
				s.literals[name][text] = true
			}
		case *ast.KeyValueExpr:
			key, isText := n.Key.(*ast.BasicLit)
			value, isName := n.Value.(*ast.Ident)
			if isText && isName && name == "Commands" {
				if text, err := strconv.Unquote(key.Value); err == nil {
					s.commands[text] = value.Name
				}
			}
		}
		return true
	})
}

// reaches collects what a function mentions, and all that it calls.
func (s *source) reaches(name string, seen, fields, literals map[string]bool) {
	if seen[name] || s.calls[name] == nil {
		return
	}
	seen[name] = true
	for f := range s.fields[name] {
		fields[f] = true
	}
	for l := range s.literals[name] {
		literals[l] = true
	}
	for called := range s.calls[name] {
		s.reaches(called, seen, fields, literals)
	}
}

// sampleOf is a value that a flag accepts and that is not its default.
func sampleOf(f flag, envFile string) []string {
	switch {
	case f.name == "env-file", f.name == "label-file":
		return []string{envFile}
	case f.name == "no-stdin", f.kind == "":
		if f.name == "sig-proxy" || f.name == "human" {
			return []string{"false"}
		}
		return []string{"true"}
	case f.name == "driver" && f.short == "d" && strings.Contains(f.help, "volume"):
		return []string{"local"}
	case f.name == "opt" && f.short == "o" && strings.Contains(f.help, "device="):
		return []string{"type=tmpfs"}
	case f.name == "aux-address":
		return []string{"router=10.0.0.9"}
	case f.name == "docker":
		return []string{"host=tcp://a:1"}
	case f.name == "type":
		return []string{"image"}
	case f.name == "format":
		return []string{"json"}
	case f.name == "additional-gids":
		return []string{"5"}
	case f.kind == "duration":
		return []string{"5s"}
	case f.kind == "int", f.kind == "bytes":
		return []string{"5"}
	}
	if s := samples[f.name]; len(s) > 0 {
		return s
	}
	if f.kind == "filter" {
		return []string{"a=b"}
	}
	return []string{"x"}
}

// A flag that a command accepts and never looks at would be a promise that is not kept. What a flag sets is found by setting it,
// what a command looks at by its source; the flags of run and create have TestEveryFieldOfAContainersConfigHasAFlag besides.
func TestEveryCommandLooksAtItsFlags(t *testing.T) {
	quick, whole := readSource(t, "."), readSource(t, "../fullcli")
	envFile := filepath.Join(t.TempDir(), "env")
	excused := map[string]bool{}
	for _, cmd := range commands() {
		fields, literals := map[string]bool{}, map[string]bool{}
		if cmd.full {
			fn := whole.commands[cmd.name]
			if fn == "" {
				t.Errorf("berth %s is carried out by nobody", cmd.name)
			}
			whole.reaches(fn, map[string]bool{}, fields, literals)
		} else {
			name := runtime.FuncForPC(reflect.ValueOf(cmd.run).Pointer()).Name()
			quick.reaches(name[strings.LastIndexByte(name, '.')+1:], map[string]bool{}, fields, literals)
		}
		for _, f := range cmd.flagList() {
			full := cmd.name + " --" + f.name
			_, without := withoutEffect[full]
			excused[full] = without
			looked := literals[f.name] && cmd.full
			if f.set != nil {
				if f.name == "env-file" || f.name == "label-file" {
					writeFile(t, envFile, "FROM_FILE=1\n")
				}
				for _, v := range sampleOf(f, envFile) {
					c := new(call)
					if err := f.set(c, v); err != nil {
						t.Errorf("%s %s: %v", full, v, err)
					}
					o := reflect.ValueOf(c.options)
					for i := range o.NumField() {
						if !o.Field(i).IsZero() {
							looked = looked || fields[o.Type().Field(i).Name]
						}
					}
				}
			}
			switch {
			case !looked && slices.Contains(refusing, cmd.name):
			case !looked && !without:
				t.Errorf("berth %s is accepted, and nothing looks at it", full)
			case looked && without:
				t.Errorf("berth %s is excused from having an effect, and has one", full)
			}
		}
	}
	for full := range withoutEffect {
		if !excused[full] {
			t.Errorf("berth %s is excused, and there is no such flag", full)
		}
	}
}
