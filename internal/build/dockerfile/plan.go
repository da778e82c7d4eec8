package dockerfile

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"berth/internal/errdef"
	"berth/internal/image"
	"berth/internal/image/reference"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// defaultPath is what PATH is where an image does not say.
const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// scratch is the base that is nothing.
const scratch = "scratch"

// planner makes a plan.
type planner struct {
	Options
	file
	lex     *shell.Lex
	global  environment // arguments before the first FROM
	stages  []*draft
	byName  map[string]*draft
	others  map[string]*draft // images and contexts that files are copied from
	planned []*Stage
}

// draft is a stage that is being decided.
type draft struct {
	*Stage
	source   instructions.Stage
	number   int
	baseName string
	base     *draft
	platform *image.Platform
	state    draftState

	env        environment // of the image, and arguments
	args       []instructions.KeyValuePairOptional
	index      int
	total      int
	onBuild    bool
	cmdSet     bool
	workdirSet bool
}

type draftState uint8

const (
	untouched draftState = iota
	underway
	done
)

// Make decides what a Dockerfile asks for.
func Make(text []byte, opt Options) (*Plan, error) {
	f, err := parse(text, opt.Warn)
	if err != nil {
		return nil, err
	}
	p := &planner{Options: opt, file: f, lex: shell.NewLex(f.escape), byName: map[string]*draft{}, others: map[string]*draft{}}
	if err := p.globals(); err != nil {
		return nil, err
	}
	for i, s := range p.file.stages {
		if err := p.declare(i, s); err != nil {
			return nil, err
		}
	}
	target, err := p.target()
	if err != nil {
		return nil, err
	}
	if err := p.decide(target); err != nil {
		return nil, err
	}
	for _, k := range sortedKeys(opt.Labels) {
		if target.Image.Config.Labels == nil {
			target.Image.Config.Labels = map[string]string{}
		}
		target.Image.Config.Labels[k] = opt.Labels[k]
	}
	return &Plan{p.planned}, located(p.lint.Error())
}

// globals are the arguments before the first FROM, and those that are always there.
func (p *planner) globals() error {
	target := p.Target
	if target == "" {
		target = p.file.stages[len(p.file.stages)-1].Name
	}
	if target == "" {
		target = "default"
	}
	for _, v := range [][2]string{
		{"BUILDPLATFORM", p.Build.String()},
		{"BUILDOS", p.Build.OS},
		{"BUILDOSVERSION", p.Build.OSVersion},
		{"BUILDARCH", p.Build.Architecture},
		{"BUILDVARIANT", p.Build.Variant},
		{"TARGETPLATFORM", p.Platform.String()},
		{"TARGETOS", p.Platform.OS},
		{"TARGETOSVERSION", p.Platform.OSVersion},
		{"TARGETARCH", p.Platform.Architecture},
		{"TARGETVARIANT", p.Platform.Variant},
		{"TARGETSTAGE", target},
	} {
		value := v[1]
		if given, ok := p.Args[v[0]]; ok {
			value = given
		}
		p.global = p.global.with(v[0], value)
	}
	for _, cmd := range p.file.args {
		for _, a := range cmd.Args {
			if v, ok := p.Args[a.Key]; ok {
				p.global = p.global.with(a.Key, v)
				continue
			}
			if a.Value == nil {
				continue
			}
			v, _, err := p.lex.ProcessWord(*a.Value, p.global)
			if err != nil {
				return At(linesOf(cmd.Location()), errdef.As(errdef.Invalid, err))
			}
			p.global = p.global.with(a.Key, v)
		}
	}
	return nil
}

// declare makes a stage known.
func (p *planner) declare(number int, s instructions.Stage) error {
	lines := linesOf(s.Location)
	name, _, err := p.lex.ProcessWord(s.BaseName, p.global)
	if err == nil && name == "" {
		err = errdef.New(errdef.Invalid, "base name (%s) should not be blank", s.BaseName)
	}
	if err != nil {
		return At(lines, errdef.As(errdef.Invalid, err))
	}
	d := &draft{Stage: &Stage{Name: s.Name, Lines: lines}, source: s, number: number, baseName: name}
	if d.Name == "" && len(p.file.stages) > 1 {
		d.Name = fmt.Sprintf("stage-%d", number)
	}
	if s.Platform != "" {
		text, _, err := p.lex.ProcessWord(s.Platform, p.global)
		if err == nil && text == "" {
			err = fmt.Errorf("empty platform value from expression %s", s.Platform)
		}
		if err != nil {
			return At(lines, errdef.As(errdef.Invalid, err))
		}
		platform, err := image.ParsePlatform(text)
		if err != nil {
			return At(lines, err)
		}
		d.platform = &platform
	}
	if base, ok := p.byName[strings.ToLower(name)]; ok {
		d.base = base
	}
	p.stages = append(p.stages, d)
	if s.Name != "" {
		p.byName[strings.ToLower(s.Name)] = d
	}
	return nil
}

func (p *planner) target() (*draft, error) {
	if p.Target == "" {
		return p.stages[len(p.stages)-1], nil
	}
	if d, ok := p.byName[strings.ToLower(p.Target)]; ok {
		return d, nil
	}
	if n, err := strconv.Atoi(p.Target); err == nil && n >= 0 && n < len(p.stages) {
		return p.stages[n], nil
	}
	err := errdef.New(errdef.NotFound, "target stage %q could not be found", p.Target)
	if names := sortedKeys(p.byName); len(names) > 0 {
		return nil, errdef.Hint(err, "the stages are %s", strings.Join(names, ", "))
	}
	return nil, err
}

// decide decides a stage and all that it needs before it.
func (p *planner) decide(d *draft) error {
	switch d.state {
	case done:
		return nil
	case underway:
		return At(d.Lines, errdef.New(errdef.Invalid, "circular dependency detected on stage: %s", d.Name))
	}
	d.state = underway
	triggers, err := p.begin(d)
	if err != nil {
		return At(d.Lines, err)
	}
	commands, err := p.triggered(d, triggers)
	if err != nil {
		return At(d.Lines, err)
	}
	d.total = len(steps(d.source.Commands)) + len(steps(commands))
	if d.Base == nil && d.Ref != "" {
		d.total++
		d.Title = p.prefix(d) + "FROM " + d.Ref
	}
	d.BaseHistory = len(d.Image.History)
	d.onBuild = true
	for _, c := range commands {
		if err := p.dispatch(d, c); err != nil {
			return At(d.Lines, err)
		}
	}
	d.onBuild = false
	for _, c := range d.source.Commands {
		if err := p.dispatch(d, c); err != nil {
			return At(linesOf(c.Location()), located(err))
		}
	}
	d.state = done
	p.planned = append(p.planned, d.Stage)
	return nil
}

// begin is FROM: it decides the base, and returns the base's triggers.
func (p *planner) begin(d *draft) (triggers []string, err error) {
	platform := p.Platform
	if d.platform != nil {
		platform = *d.platform
	}
	d.Platform = platform
	if name, ref, ok := p.context(d); ok {
		d.base, d.baseName = nil, ref
		if name == d.source.Name {
			d.source.Commands = nil // the context is what the stage would have come to
		}
		if ref == "" {
			d.Named = name
		}
	}
	switch {
	case d.Named != "":
		d.Image = empty(platform)
		d.Image.History = []image.History{{CreatedBy: "FROM " + d.Named, Comment: historyComment}}
	case d.base != nil:
		if err := p.decide(d.base); err != nil {
			return nil, err
		}
		d.Base, d.Platform = d.base.Stage, d.base.Platform
		d.needs = append(d.needs, d.Base)
		d.Image = cloneImage(d.base.Image)
		d.args, d.workdirSet = slices.Clone(d.base.args), d.base.workdirSet
		triggers, d.Image.Config.OnBuild = d.Image.Config.OnBuild, nil
		d.env = slices.Clone(d.base.env)
		return triggers, nil
	case d.baseName == scratch:
		d.Image = empty(platform)
	default:
		ref, err := reference.Parse(d.baseName)
		if err != nil {
			return nil, err
		}
		d.Ref = ref.String()
		im, err := p.Image(d.Ref, platform)
		if err != nil {
			return nil, err
		}
		d.Image = cloneImage(im)
		d.Image.Created = nil
		d.Image.History = padded(im)
		triggers, d.Image.Config.OnBuild = im.Config.OnBuild, nil
		d.Platform = im.Platform
	}
	c := &d.Image.Config
	if _, ok := environment(c.Env).Get("PATH"); !ok {
		c.Env = append(c.Env, defaultPath)
	}
	d.env = slices.Clone(environment(c.Env))
	return triggers, nil
}

// context is the further context that takes the place of a stage or of its base.
func (p *planner) context(d *draft) (name, ref string, ok bool) {
	for _, name := range []string{d.source.Name, d.baseName} {
		if name == d.baseName && d.base != nil {
			continue
		}
		if ref, ok := p.Contexts[name]; ok && name != "" {
			return name, ref, true
		}
	}
	return "", "", false
}

// empty is the configuration of nothing.
func empty(platform image.Platform) image.Image {
	return image.Image{Platform: platform, Config: image.Config{WorkingDir: "/", Env: []string{defaultPath}}, RootFS: image.RootFS{Type: "layers"}}
}

// padded is the history of an image with exactly one entry for each layer.
func padded(im image.Image) []image.History {
	history := slices.Clone(im.History)
	layers := len(im.RootFS.DiffIDs)
	for i := range history {
		switch {
		case history[i].EmptyLayer:
		case layers == 0:
			history[i].EmptyLayer = true
		default:
			layers--
		}
	}
	for ; layers > 0; layers-- {
		history = append(history, image.History{Created: im.Created})
	}
	return history
}

func cloneImage(im image.Image) image.Image {
	var out image.Image
	data, err := json.Marshal(im)
	if err == nil {
		err = json.Unmarshal(data, &out)
	}
	if err != nil {
		panic(err) // a struct of strings, numbers and times
	}
	return out
}

// triggered reads the triggers of a base.
func (p *planner) triggered(d *draft, triggers []string) (commands []instructions.Command, err error) {
	for _, t := range triggers {
		result, err := parser.Parse(strings.NewReader(t))
		if err != nil {
			return nil, errdef.New(errdef.Invalid, "cannot understand the trigger %q of the base: %w", t, err)
		}
		if len(result.AST.Children) != 1 {
			return nil, errdef.New(errdef.Invalid, "the trigger %q of the base should be a single expression", t)
		}
		node := result.AST.Children[0]
		node.StartLine, node.EndLine = d.Lines.First, d.Lines.Last
		c, err := instructions.ParseCommand(node)
		if err != nil {
			return nil, errdef.New(errdef.Invalid, "cannot understand the trigger %q of the base: %w", t, err)
		}
		commands = append(commands, c)
	}
	return commands, nil
}

// steps are those of commands that may make layers.
func steps(commands []instructions.Command) (out []instructions.Command) {
	for _, c := range commands {
		switch c.(type) {
		case *instructions.AddCommand, *instructions.CopyCommand, *instructions.RunCommand, *instructions.WorkdirCommand:
			out = append(out, c)
		}
	}
	return out
}

// prefix counts a step: "[build 2/4] ".
func (p *planner) prefix(d *draft) string {
	if d.total == 0 {
		return ""
	}
	d.index++
	b := "["
	if p.Prefix != "" {
		b += p.Prefix + " "
	}
	if d.Name != "" {
		b += d.Name + " "
	}
	b += fmt.Sprintf("%*d/%d] ", 1+int(math.Log10(float64(d.total))), d.index, d.total)
	if d.onBuild {
		b += "ONBUILD "
	}
	return b
}

// source is where files are copied from: a stage that stands before d, an image, or a further context. nil is the context.
func (p *planner) sourceOf(d *draft, from string) (*Stage, error) {
	s, ok := p.byName[strings.ToLower(from)]
	if n, err := strconv.Atoi(from); err == nil && !ok {
		if n < 0 || n >= len(p.stages) {
			return nil, errdef.New(errdef.Invalid, "invalid stage index %d", n)
		}
		s, ok = p.stages[n], true
	}
	if ok {
		switch {
		case s == d:
			return nil, errdef.New(errdef.Invalid, "circular dependency detected on stage: %s", d.Name)
		case s.number > d.number:
			return nil, errdef.New(errdef.Invalid, "cannot copy from stage %q, it needs to be defined before current stage %q", from, d.Name)
		}
	} else if s, ok = p.others[from]; !ok {
		s = &draft{Stage: &Stage{Bare: true}, number: -1, baseName: from}
		p.others[from] = s
	}
	if err := p.decide(s); err != nil {
		return nil, err
	}
	if !slices.Contains(d.needs, s.Stage) {
		d.needs = append(d.needs, s.Stage)
	}
	return s.Stage, nil
}

// Needs are the stages that must be there before this one.
func (s *Stage) Needs() []*Stage { return s.needs }
