// Package dockerfile decides what a Dockerfile asks for: its text, arguments and the configurations of its base images in, a Plan of
// stages and steps out, with everything expanded, and the configuration and history of the image complete but for its layers.
//
// The grammar is buildkit's own (frontend/dockerfile/parser, instructions, shell, linter); what instructions mean follows
// frontend/dockerfile/dockerfile2llb of the same version. The package opens no files, fetches no images and carries nothing out.
//
// The words: a *stage* begins with FROM; a *step* is what may make a layer (RUN, COPY, ADD, WORKDIR); the *context* is the directory
// that files are copied from.
package dockerfile

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"berth/internal/errdef"
	"berth/internal/image"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// Options say what is to be made of a Dockerfile.
type Options struct {
	Args     map[string]string // --build-arg
	Target   string            // the name or the number of a stage; the last one if it is empty
	Labels   map[string]string // --label
	Platform image.Platform    // what the image is to run on
	Build    image.Platform    // what the build runs on
	// Contexts are further contexts by their names, which take the place of stages and images of that name: an image, or "" for a directory.
	Contexts map[string]string
	Epoch    *time.Time // SOURCE_DATE_EPOCH
	Prefix   string     // of all titles, such as the platform; "" is none
	// Image returns the configuration of an image. It is asked only for what the target needs.
	Image func(ref string, p image.Platform) (image.Image, error)
	// Warn, unless it is nil, takes what buildkit's checks find.
	Warn func(Warning)
}

// Warning is a finding of a check.
type Warning struct {
	Rule, Description, URL, Message string
	Lines                           Lines
}

// Lines are lines of a Dockerfile, from 1; the zero value is none.
type Lines struct{ First, Last int }

func linesOf(ranges []parser.Range) (l Lines) {
	for _, r := range ranges {
		if l.First == 0 || r.Start.Line < l.First {
			l.First = r.Start.Line
		}
		l.Last = max(l.Last, r.End.Line, r.Start.Line)
	}
	return l
}

// Error is a failure with the lines of the Dockerfile that it is about.
type Error struct {
	Lines Lines
	Err   error
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// At says which lines an error is about, unless it says that itself.
func At(l Lines, err error) error {
	var located *Error
	if err == nil || l.First == 0 || errors.As(err, &located) {
		return err
	}
	return &Error{l, err}
}

// Excerpt shows lines of a text with some around them, as buildkit does.
func Excerpt(name, text string, at Lines) string {
	lines := strings.Split(text, "\n")
	if at.First < 1 || at.First > len(lines) {
		return ""
	}
	last := min(max(at.Last, at.First), len(lines))
	around := 1
	if last == at.First {
		around = 2
	}
	from, to := max(1, at.First-around), min(len(lines), last+around)
	var b strings.Builder
	fmt.Fprintf(&b, "%s:%d\n--------------------\n", name, at.First)
	for i := from; i <= to; i++ {
		mark := "   "
		if i >= at.First && i <= last {
			mark = ">>>"
		}
		fmt.Fprintf(&b, " %3d | %s %s\n", i, mark, strings.TrimSuffix(lines[i-1], "\r"))
	}
	b.WriteString("--------------------")
	return b.String()
}

// Plan is what is to be done, and what comes of it.
type Plan struct {
	// Stages are those that the target needs, each after those that it needs itself; the target is the last.
	Stages []*Stage
}

// Target is the stage that the image is made of.
func (p *Plan) Target() *Stage { return p.Stages[len(p.Stages)-1] }

// Stage is one stage, or an image or a context that files are copied from, which is a stage without steps.
type Stage struct {
	Name     string
	Platform image.Platform
	Lines    Lines
	// Base is where it begins: another stage, an image, a further context, or nothing at all.
	Base  *Stage
	Ref   string // of an image, canonical
	Named string // of a further context
	// Title is what the progress calls the base.
	Title string
	Steps []*Step
	// Image is the configuration at the end, with the history of the base and its own. It has no layers yet.
	Image image.Image
	// Bare says that it is no stage of the Dockerfile: it is only copied from.
	Bare bool
	// BaseHistory is how many entries of the history are the base's.
	BaseHistory int
	needs       []*Stage
}

// Step is something that may make a layer. One of Run, Copy and Mkdir is set.
type Step struct {
	Title   string // "[build 2/4] RUN make"
	Lines   Lines
	History int // its entry of the stage's history

	Run   *Run
	Copy  *Copy
	Mkdir *Mkdir
}

// Run is a command that is carried out in the stage's tree.
type Run struct {
	Args    []string
	Env     []string
	Proxy   []string // variables that the result is said not to depend on
	User    string
	Workdir string
	Mounts  []Mount
	Network string // default, none or host
	// Script, if it has a name, is a file that is mounted at /dev/pipes.
	Script File
	// Insecure asks for --privileged.
	Insecure bool
	Devices  []string
}

// File is a file whose content stands in the Dockerfile.
type File struct {
	Name string
	Data string
	Mode uint32
}

// Mount is a mount of a Run. From is nil for the context and for mounts that come from nowhere.
type Mount struct {
	Type           string // bind, cache, tmpfs, secret, ssh
	From           *Stage `json:"-"`
	Empty          bool   // a cache that begins empty
	Source, Target string
	ReadOnly       bool
	Bytes          int64
	ID             string
	Sharing        string // shared, private, locked
	Required       bool
	Env            *string
	Mode           *uint32
	UID, GID       *uint32
}

// Copy is files that are put into the stage's tree.
type Copy struct {
	From     *Stage // nil is the context
	Sources  []string
	Contents []File
	Dest     string // absolute; a "/" at its end says that it is a directory
	Add      bool
	Chown    string
	Chmod    string
	Link     bool
	Parents  bool
	Exclude  []string
	Checksum string
	KeepGit  *bool
	Unpack   *bool
}

// Mkdir is a directory that is made unless it is there.
type Mkdir struct {
	Path string
	User string
}

// file is a Dockerfile that has been read.
type file struct {
	escape rune
	stages []instructions.Stage
	args   []instructions.ArgCommand
	lint   *linter.Linter
}

// builtinSyntaxes are the frontends whose language this is.
var builtinSyntaxes = [...]string{"docker/dockerfile", "docker.io/docker/dockerfile", "docker/dockerfile-upstream", "docker.io/docker/dockerfile-upstream"}

// checkSyntax refuses a frontend that is none of docker's own: it would be a program that reads another language.
func checkSyntax(text []byte) error {
	ref, _, at, ok := parser.DetectSyntax(text)
	if !ok {
		return nil
	}
	name, _, _ := strings.Cut(ref, "@")
	if i := strings.LastIndex(name, ":"); i > strings.LastIndex(name, "/") {
		name = name[:i]
	}
	if slices.Contains(builtinSyntaxes[:], name) {
		return nil
	}
	err := errdef.New(errdef.Unsupported, "cannot use the frontend %s: only the language of docker/dockerfile is known", ref)
	return At(linesOf(at), errdef.Hint(err, "remove the line \"# syntax=\" if the file is a plain Dockerfile"))
}

func parse(text []byte, warn func(Warning)) (file, error) {
	if err := checkSyntax(text); err != nil {
		return file{}, err
	}
	config := &linter.Config{}
	if warn != nil {
		config.Warn = func(rule, description, url, message string, location []parser.Range) {
			warn(Warning{rule, description, url, message, linesOf(location)})
		}
	}
	if check, _, at, ok := parser.ParseDirective("check", text); ok {
		more, err := linter.ParseLintOptions(check)
		if err != nil {
			return file{}, At(linesOf(at), errdef.New(errdef.Invalid, "failed to parse check options: %w", err))
		}
		config.SkipRules, config.SkipAll, config.ReturnAsError, config.ExperimentalRules = more.SkipRules, more.SkipAll, more.ReturnAsError, more.ExperimentalRules
	}
	f := file{lint: linter.New(config)}
	result, err := parser.Parse(bytes.NewReader(text))
	if err != nil {
		return f, located(err)
	}
	f.escape = result.EscapeToken
	for _, w := range result.Warnings {
		if w.URL == linter.RuleNoEmptyContinuation.URL {
			f.lint.Run(&linter.RuleNoEmptyContinuation, []parser.Range{*w.Location}, linter.RuleNoEmptyContinuation.Format())
		}
	}
	if f.stages, f.args, err = instructions.Parse(result.AST, f.lint); err != nil {
		return f, located(err)
	}
	if len(f.stages) == 0 {
		return f, errdef.New(errdef.Invalid, "dockerfile contains no stages to build")
	}
	return f, nil
}

// located takes the lines out of an error of the parser's.
func located(err error) error {
	if err == nil {
		return nil
	}
	var at *parser.LocationError
	if !errors.As(err, &at) || len(at.Locations) == 0 {
		return errdef.As(errdef.Invalid, err)
	}
	return At(linesOf(at.Locations[0]), errdef.As(errdef.Invalid, err))
}

// environment is variables in the order in which they were first set.
type environment []string

func (e environment) Get(name string) (string, bool) {
	for _, v := range e {
		if key, value, _ := strings.Cut(v, "="); key == name {
			return value, true
		}
	}
	return "", false
}

// Keys are the names, for suggestions.
func (e environment) Keys() []string {
	keys := make([]string, len(e))
	for i, v := range e {
		keys[i], _, _ = strings.Cut(v, "=")
	}
	return keys
}

// with returns the variables with one set; e is left as it is.
func (e environment) with(name, value string) environment {
	out := slices.Clone(e)
	for i, v := range out {
		if key, _, _ := strings.Cut(v, "="); key == name {
			out[i] = name + "=" + value
			return out
		}
	}
	return append(out, name+"="+value)
}

var _ shell.EnvGetter = environment(nil)

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, cmp.Compare[string])
	return keys
}
