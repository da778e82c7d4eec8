package dockerfile

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"berth/internal/container"
	"berth/internal/errdef"
	"berth/internal/image"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// historyComment is what buildkit writes into the history; tools tell its images by it.
const historyComment = "buildkit.dockerfile.v0"

// dispatch carries an instruction out on the configuration of a stage, and adds its step if it is one.
func (p *planner) dispatch(d *draft, c instructions.Command) error {
	if err := p.expand(d, c); err != nil {
		return errdef.As(errdef.Invalid, err)
	}
	config := &d.Image.Config
	switch c := c.(type) {
	case *instructions.EnvCommand:
		said := "ENV"
		for _, e := range c.Env {
			if e.NoDelim {
				p.lint.Run(&linter.RuleLegacyKeyValueFormat, c.Location(), linter.RuleLegacyKeyValueFormat.Format(c.Name()))
			}
			said += " " + e.String()
			d.env = d.env.with(e.Key, e.Value)
			config.Env = environment(config.Env).with(e.Key, e.Value)
		}
		p.history(d, said)
	case *instructions.LabelCommand:
		said := "LABEL"
		if config.Labels == nil {
			config.Labels = map[string]string{}
		}
		for _, l := range c.Labels {
			if l.NoDelim {
				p.lint.Run(&linter.RuleLegacyKeyValueFormat, c.Location(), linter.RuleLegacyKeyValueFormat.Format(c.Name()))
			}
			config.Labels[l.Key] = l.Value
			said += " " + l.String()
		}
		p.history(d, said)
	case *instructions.MaintainerCommand:
		d.Image.Author = c.Maintainer
		p.history(d, "MAINTAINER "+c.Maintainer)
	case *instructions.ArgCommand:
		return p.arg(d, c)
	case *instructions.CmdCommand:
		config.Cmd, config.ArgsEscaped = p.withShell(d, c.ShellDependantCmdLine, c), true
		d.cmdSet = true
		p.history(d, fmt.Sprintf("CMD %q", config.Cmd))
	case *instructions.EntrypointCommand:
		config.Entrypoint = p.withShell(d, c.ShellDependantCmdLine, c)
		if !d.cmdSet {
			config.Cmd = nil
		}
		p.history(d, fmt.Sprintf("ENTRYPOINT %q", config.Entrypoint))
	case *instructions.ExposeCommand:
		return p.expose(d, c)
	case *instructions.HealthCheckCommand:
		config.Healthcheck = &image.Healthcheck{
			Test: c.Health.Test, Interval: c.Health.Interval, Timeout: c.Health.Timeout,
			StartPeriod: c.Health.StartPeriod, StartInterval: c.Health.StartInterval, Retries: c.Health.Retries,
		}
		p.history(d, fmt.Sprintf("HEALTHCHECK %+v", *config.Healthcheck))
	case *instructions.OnbuildCommand:
		config.OnBuild = append(config.OnBuild, c.Expression)
	case *instructions.ShellCommand:
		config.Shell = c.Shell
		p.history(d, fmt.Sprintf("SHELL %v", c.Shell))
	case *instructions.StopSignalCommand:
		if _, err := container.ParseSignal(c.Signal); err != nil {
			return err
		}
		config.StopSignal = c.Signal
		p.history(d, "STOPSIGNAL "+c.Signal)
	case *instructions.UserCommand:
		config.User = c.User
		p.history(d, "USER "+c.User)
	case *instructions.VolumeCommand:
		if config.Volumes == nil {
			config.Volumes = map[string]struct{}{}
		}
		for _, v := range c.Volumes {
			if v == "" {
				return errdef.New(errdef.Invalid, "VOLUME specified can not be an empty string")
			}
			config.Volumes[v] = struct{}{}
		}
		p.history(d, fmt.Sprintf("VOLUME %v", c.Volumes))
	case *instructions.WorkdirCommand:
		p.workdir(d, c)
	case *instructions.RunCommand:
		return p.run(d, c)
	case *instructions.CopyCommand:
		return p.copy(d, c, Copy{Chown: c.Chown, Chmod: c.Chmod, Link: c.Link, Parents: c.Parents, Exclude: c.ExcludePatterns}, c.SourcesAndDest, c.From)
	case *instructions.AddCommand:
		return p.copy(d, c, Copy{
			Add: true, Chown: c.Chown, Chmod: c.Chmod, Link: c.Link, Exclude: c.ExcludePatterns,
			Checksum: c.Checksum, KeepGit: c.KeepGitDir, Unpack: c.Unpack,
		}, c.SourcesAndDest, "")
	default:
		return errdef.New(errdef.Unsupported, "the instruction %s is not known", strings.ToUpper(c.Name()))
	}
	return nil
}

// expand replaces variables by what they are at this place.
func (p *planner) expand(d *draft, c instructions.Command) error {
	if _, isArg := c.(*instructions.ArgCommand); isArg { // its default may not be needed
		return nil
	}
	word := func(lex *shell.Lex) instructions.SingleWordExpander {
		return func(w string) (string, error) {
			out, unmatched, err := lex.ProcessWord(w, d.env)
			for name := range unmatched {
				p.lint.Run(&linter.RuleUndefinedVar, c.Location(), linter.RuleUndefinedVar.Format(name, ""))
			}
			return out, err
		}
	}
	if e, ok := c.(instructions.SupportsSingleWordExpansion); ok {
		if err := e.Expand(word(p.lex)); err != nil {
			return err
		}
	}
	if e, ok := c.(instructions.SupportsSingleWordExpansionRaw); ok {
		raw := shell.NewLex('\\')
		raw.SkipProcessQuotes = true
		return e.ExpandRaw(word(raw))
	}
	return nil
}

func (p *planner) history(d *draft, said string) {
	d.Image.History = append(d.Image.History, image.History{CreatedBy: said, Comment: historyComment, EmptyLayer: true})
}

// step adds a step, whose entry of the history has a layer.
func (p *planner) step(d *draft, s *Step, c instructions.Command, said string) {
	s.Lines, s.History = linesOf(c.Location()), len(d.Image.History)
	if d.onBuild {
		s.Lines = d.Lines
	}
	p.history(d, said)
	d.Image.History[s.History].EmptyLayer = false
	d.Steps = append(d.Steps, s)
}

// title is a step's name with its variables replaced.
func (p *planner) title(d *draft, lex *shell.Lex, said string) string {
	if out, _, err := lex.ProcessWord(said, d.env); err == nil {
		said = out
	}
	name, rest, ok := strings.Cut(said, " ")
	if !ok {
		return p.prefix(d) + strings.ToUpper(name)
	}
	return p.prefix(d) + strings.ToUpper(name) + " " + rest
}

func (p *planner) withShell(d *draft, line instructions.ShellDependantCmdLine, c instructions.Command) []string {
	if !line.PrependShell {
		return line.CmdLine
	}
	sh := d.Image.Config.Shell
	if len(sh) == 0 {
		if c != nil {
			p.lint.Run(&linter.RuleJSONArgsRecommended, c.Location(), linter.RuleJSONArgsRecommended.Format(c.Name()))
		}
		sh = []string{"/bin/sh", "-c"}
	}
	return append(slices.Clone(sh), strings.Join(line.CmdLine, " "))
}

// notEnvironment are arguments that tell a frontend something, and no command.
var notEnvironment = [...]string{"BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"}

func (p *planner) arg(d *draft, c *instructions.ArgCommand) error {
	var said []string
	for _, a := range c.Args {
		key, _, err := p.lex.ProcessWord(a.Key, d.env)
		if err != nil {
			return errdef.As(errdef.Invalid, err)
		}
		a.Key = key
		given, hasValue := p.Args[a.Key]
		switch {
		case hasValue:
			a.Value = &given
		case a.Value != nil:
			v, _, err := p.lex.ProcessWord(*a.Value, d.env)
			if err != nil {
				return errdef.As(errdef.Invalid, err)
			}
			a.Value = &v
		default:
			if v, ok := p.global.Get(a.Key); ok {
				a.Value = &v
			}
		}
		text := a.Key
		if a.Value != nil {
			text += "=" + *a.Value
			if !slices.Contains(notEnvironment[:], a.Key) {
				d.env = d.env.with(a.Key, *a.Value)
			}
		}
		d.args = append(d.args, a)
		said = append(said, text)
	}
	p.history(d, "ARG "+strings.Join(said, " "))
	return nil
}

func (p *planner) expose(d *draft, c *instructions.ExposeCommand) error {
	config := &d.Image.Config
	if config.ExposedPorts == nil {
		config.ExposedPorts = map[string]struct{}{}
	}
	var all []string
	for _, word := range c.Ports {
		expanded, err := p.lex.ProcessWords(word, d.env)
		if err != nil {
			return errdef.As(errdef.Invalid, err)
		}
		for _, w := range expanded {
			ports, err := exposed(w)
			if err != nil {
				return err
			}
			all = append(all, ports...)
		}
	}
	for _, port := range all {
		config.ExposedPorts[port] = struct{}{}
	}
	p.history(d, fmt.Sprintf("EXPOSE %v", all))
	return nil
}

// exposed reads [[address:]host:]ports[/protocol]; only what is the container's counts.
func exposed(word string) ([]string, error) {
	ports, protocol, ok := strings.Cut(word[strings.LastIndex(word, ":")+1:], "/")
	if !ok || protocol == "" {
		protocol = "tcp"
	}
	protocol = strings.ToLower(protocol)
	if protocol != "tcp" && protocol != "udp" && protocol != "sctp" {
		return nil, errdef.New(errdef.Invalid, "invalid port: %q: invalid proto: %s", word, protocol)
	}
	first, last, isRange := strings.Cut(ports, "-")
	if !isRange {
		last = first
	}
	low, err1 := strconv.ParseUint(first, 10, 16)
	high, err2 := strconv.ParseUint(last, 10, 16)
	if err1 != nil || err2 != nil || low > high {
		return nil, errdef.New(errdef.Invalid, "invalid containerPort: %s", ports)
	}
	var out []string
	for n := low; n <= high; n++ {
		out = append(out, strconv.FormatUint(n, 10)+"/"+protocol)
	}
	return out, nil
}

func (p *planner) workdir(d *draft, c *instructions.WorkdirCommand) {
	if !d.workdirSet && !path.IsAbs(c.Path) {
		p.lint.Run(&linter.RuleWorkdirRelativePath, c.Location(), linter.RuleWorkdirRelativePath.Format(c.Path))
	}
	d.workdirSet = true
	config := &d.Image.Config
	dir := Absolute(config.WorkingDir, c.Path)
	config.WorkingDir = dir
	if dir == "/" {
		p.history(d, "WORKDIR "+dir)
		return
	}
	p.step(d, &Step{Title: p.title(d, p.lex, c.String()), Mkdir: &Mkdir{Path: dir, User: config.User}}, c, "WORKDIR "+dir)
}

// Absolute is a path of a stage's tree whose working directory is workdir.
func Absolute(workdir, p string) string {
	if path.IsAbs(p) {
		return path.Clean(p)
	}
	return path.Join("/", workdir, p)
}

// destination is Absolute with the last "/", which says that it is a directory.
func destination(workdir, p string) string {
	out := Absolute(workdir, p)
	if out != "/" && (p == "" || p == "." || strings.HasSuffix(p, "/") || strings.HasSuffix(p, "/.")) {
		out += "/"
	}
	return out
}

func (p *planner) copy(d *draft, c instructions.Command, step Copy, what instructions.SourcesAndDest, from string) error {
	step.Dest = destination(d.Image.Config.WorkingDir, what.DestPath)
	step.Sources = what.SourcePaths
	said := "COPY"
	if step.Add {
		said = "ADD"
	}
	if step.Parents {
		said += " --parents"
	}
	if step.Chown != "" {
		said += " --chown=" + step.Chown
	}
	if step.Chmod != "" {
		said += " --chmod=" + step.Chmod
	}
	for _, s := range what.SourcePaths {
		said += " " + s
	}
	for _, s := range what.SourceContents {
		step.Contents = append(step.Contents, File{Name: s.Path, Data: s.Data, Mode: 0o644})
		said += " <<" + s.Path
	}
	said += " " + what.DestPath
	if from != "" {
		if strings.Contains(from, "$") {
			return errdef.New(errdef.Invalid, "variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a workaround")
		}
		var err error
		if step.From, err = p.sourceOf(d, from); err != nil {
			return err
		}
	}
	text := fmt.Sprint(c)
	p.step(d, &Step{Title: p.title(d, p.lex, text), Copy: &step}, c, said+" # buildkit")
	return nil
}

// proxies are the variables that commands are given without an ARG, and that neither the history nor the cache knows.
var proxies = [...]string{"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "FTP_PROXY", "ftp_proxy", "NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy"}

func (p *planner) run(d *draft, c *instructions.RunCommand) error {
	run := &Run{
		Env: slices.Clone(d.env), User: d.Image.Config.User, Workdir: d.Image.Config.WorkingDir,
		Network: instructions.GetNetwork(c), Insecure: instructions.GetSecurity(c) == "insecure",
	}
	for _, name := range proxies {
		if v, ok := p.Args[name]; ok {
			if _, declared := d.env.Get(name); !declared {
				run.Proxy = append(run.Proxy, name+"="+v)
			}
		}
	}
	for _, device := range instructions.GetDevices(c) {
		run.Devices = append(run.Devices, device.Name)
	}
	said := c.String()
	line := c.ShellDependantCmdLine
	if len(c.Files) > 0 {
		var err error
		if line, said, err = heredocs(c, run); err != nil {
			return err
		}
	}
	run.Args = p.withShell(d, line, nil)
	if len(run.Args) == 0 {
		return errdef.New(errdef.Invalid, "RUN requires at least one argument")
	}
	if err := p.mounts(d, c, run); err != nil {
		return err
	}
	lex := *p.lex
	lex.RawQuotes, lex.RawEscapes, lex.SkipUnsetEnv = true, true, true
	p.step(d, &Step{Title: p.title(d, &lex, said), Run: run}, c, "RUN "+d.said(run.Args)+" # buildkit")
	return nil
}

// heredocs turns the here-documents of a command into what is executed, and into its name.
func heredocs(c *instructions.RunCommand, run *Run) (line instructions.ShellDependantCmdLine, said string, err error) {
	line, said = c.ShellDependantCmdLine, c.String()
	if len(line.CmdLine) != 1 || !line.PrependShell {
		return line, said, errdef.New(errdef.Invalid, "parsing produced an invalid run command: %v", line.CmdLine)
	}
	if parser.MustParseHeredoc(line.CmdLine[0]) == nil {
		// The shell reads the documents itself.
		var b strings.Builder
		b.WriteString(line.CmdLine[0])
		for _, f := range c.Files {
			b.WriteString("\n" + f.Data + f.Name)
		}
		line.CmdLine = []string{b.String()}
		return line, said, nil
	}
	f := c.Files[0]
	data := f.Data
	if f.Chomp {
		data = parser.ChompHeredocContent(data)
	}
	said += " (" + summary(f.Data) + ")"
	if strings.HasPrefix(data, "#!") {
		run.Script = File{Name: f.Name, Data: data, Mode: 0o755}
		if path.Base(f.Name) != f.Name {
			return line, said, errdef.New(errdef.Invalid, "invalid heredoc name %q", f.Name)
		}
		line.CmdLine = []string{path.Join(ScriptDir, f.Name)}
		return line, said, nil
	}
	line.CmdLine = []string{data}
	return line, said, nil
}

// ScriptDir is where a here-document that is a script of its own is mounted.
const ScriptDir = "/dev/pipes"

// summary is the first line of a here-document.
func summary(doc string) string {
	doc = strings.TrimSpace(doc)
	first, _, more := strings.Cut(doc, "\n")
	if more {
		first += "..."
	}
	return first
}

// said is a command as the history has it: the arguments that were set, and the command line.
func (d *draft) said(args []string) string {
	var set []string
	at := map[string]int{}
	for _, a := range d.args {
		v, ok := d.env.Get(a.Key)
		if !ok {
			v = a.ValueString()
		}
		if i, twice := at[a.Key]; twice {
			set[i] = a.Key + "=" + v
			continue
		}
		at[a.Key] = len(set)
		set = append(set, a.Key+"="+v)
	}
	if len(set) > 0 {
		set = append([]string{"|" + strconv.Itoa(len(set))}, set...)
	}
	return strings.Join(append(set, args...), " ")
}

func (p *planner) mounts(d *draft, c *instructions.RunCommand, run *Run) error {
	for _, m := range instructions.GetMounts(c) {
		out := Mount{
			Type: string(m.Type), Source: m.Source, Target: m.Target, ReadOnly: m.ReadOnly, Bytes: m.SizeLimit,
			ID: m.CacheID, Sharing: string(m.CacheSharing), Required: m.Required, Env: m.Env,
			Mode: short(m.Mode), UID: short(m.UID), GID: short(m.GID),
		}
		usesFiles := m.Type == instructions.MountTypeBind || m.Type == instructions.MountTypeCache
		switch {
		case usesFiles && m.From != "":
			var err error
			if out.From, err = p.sourceOf(d, m.From); err != nil {
				return err
			}
		case m.Type == instructions.MountTypeCache:
			out.Empty = true
		}
		if usesFiles || m.Type == instructions.MountTypeTmpfs {
			out.Target = Absolute(run.Workdir, m.Target)
			if out.Target == "/" || m.Target == "" {
				return errdef.New(errdef.Invalid, "invalid mount target %q", m.Target)
			}
		}
		if m.Type == instructions.MountTypeCache {
			if out.ID == "" {
				out.ID = path.Clean(m.Target)
			}
			if out.Sharing == "" {
				out.Sharing = string(instructions.MountSharingShared)
			}
		}
		run.Mounts = append(run.Mounts, out)
	}
	return nil
}

func short(n *uint64) *uint32 {
	if n == nil {
		return nil
	}
	v := uint32(*n)
	return &v
}
