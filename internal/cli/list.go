package cli

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"berth/internal/container"
	"berth/internal/engine"
	"berth/internal/errdef"
	"berth/internal/ident"
	"berth/internal/state"

	"github.com/docker/go-units"
)

// psRow is a container as ps shows it; the names of its fields are docker's.
type psRow struct {
	labelled
	Command      string
	CreatedAt    string
	ID           string
	Image        string
	Labels       string
	LocalVolumes string
	Mounts       string
	Names        string
	Networks     string
	Ports        string
	RunningFor   string
	Size         string
	State        string
	Status       string
}

func (c *call) cmdPs() error {
	e, err := c.engine()
	if err != nil {
		return err
	}
	all, err := e.ListOwn()
	if err != nil {
		return err
	}
	o := &c.options
	if o.latest {
		o.last = 1
	}
	match, err := filter(o.filters, func(key, value string) (func(engine.Listed) (bool, error), error) { return c.psFilter(e, key, value) })
	if err != nil {
		return err
	}
	showAll := o.all || o.last > 0
	for _, f := range o.filters {
		showAll = showAll || strings.HasPrefix(f, "status=")
	}
	sizes := o.size || strings.Contains(o.format, ".Size")
	var rows []any
	var cells [][]string
	for _, l := range all {
		running := l.Record.Status == state.Running || l.Record.Status == state.Paused || l.Record.Status == state.Restarting
		if !showAll && !running {
			continue
		}
		if yes, err := match(l); err != nil {
			return err
		} else if !yes {
			continue
		}
		if o.last > 0 && len(rows) == o.last {
			break
		}
		r, err := psRowOf(e, l, o.noTrunc)
		if err != nil {
			return err
		}
		cell := []string{r.ID, r.Image, r.Command, r.RunningFor, r.Status, r.Ports, r.Names}
		if sizes {
			written, all, err := e.Sizes(l.Container)
			if err != nil {
				return err
			}
			r.Size = fmt.Sprintf("%s (virtual %s)", humanSize(written), humanSize(all))
			cell = append(cell, r.Size)
		}
		rows, cells = append(rows, r), append(cells, cell)
	}
	if o.quiet {
		return c.onlyFirst(cells)
	}
	if done, err := c.format(rows); done {
		return err
	}
	head := []string{"CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"}
	if sizes {
		head = append(head, "SIZE")
	}
	return table(c.out, head, cells)
}

func psRowOf(e *engine.Engine, l engine.Listed, noTrunc bool) (psRow, error) {
	id, command := l.ID, strings.Join(l.Config.Args(), " ")
	if !noTrunc {
		id = ident.Short(id)
		if r := []rune(command); len(r) > 20 {
			command = string(r[:19]) + "…"
		}
	}
	var mounts []string
	for _, m := range mountedFrom(l.Container) {
		if r := []rune(m.Name); !noTrunc && len(r) > 15 {
			m.Name = string(r[:14]) + "…"
		}
		mounts = append(mounts, m.Name)
	}
	ports, err := portsOf(e, l)
	return psRow{
		labelled: labelled{l.Config.Labels}, Command: strconv.Quote(command), CreatedAt: l.Created.Format("2006-01-02 15:04:05 -0700 MST"), ID: id, Image: l.Image.Name,
		Labels: labelText(l.Config.Labels), LocalVolumes: strconv.Itoa(len(l.Volumes)), Mounts: strings.Join(mounts, ","), Names: l.Name,
		Networks: strings.Join(networksOf(l.Config), ","), Ports: portsText(ports), RunningFor: ago(l.Created), Size: "0B", State: string(l.Record.Status), Status: statusText(l),
	}, err
}

// mountedFrom is what a container has of volumes and of the host: the names of volumes, the paths of the host.
func mountedFrom(of *state.Container) (all []state.Volume) {
	for _, m := range of.Config.Mounts {
		i := slices.IndexFunc(of.Volumes, func(v state.Volume) bool { return v.Target == m.Target })
		switch {
		case i >= 0:
			all = append(all, of.Volumes[i])
		case m.Type == container.MountBind:
			all = append(all, state.Volume{Name: m.Source, Target: m.Target})
		}
	}
	return all
}

// onlyFirst prints the first cell of each row, for --quiet.
func (c *call) onlyFirst(cells [][]string) error {
	if f := c.options.format; f != "" && f != "table" && f != "json" {
		fmt.Fprintln(c.err, "WARNING: Ignoring custom format, because both --format and --quiet are set.")
	}
	for _, row := range cells {
		if _, err := fmt.Fprintln(c.out, row[0]); err != nil {
			return err
		}
	}
	return nil
}

// humanSize is a size as docker prints those of containers.
func humanSize(bytes int64) string { return units.HumanSizeWithPrecision(float64(bytes), 3) }

// networksOf are the names of a container's networks.
func networksOf(c container.Config) []string {
	var names []string
	for _, asked := range c.Networks {
		names = append(names, asked.Network)
	}
	if names == nil && (c.Network == container.NetworkNone || c.Network == container.NetworkHost) {
		names = []string{c.Network}
	}
	return names
}

// portsOf are the open ports of a container, none unless it runs.
func portsOf(e *engine.Engine, l engine.Listed) ([]openPort, error) {
	if l.Record.Status != state.Running && l.Record.Status != state.Paused || !l.Config.OwnNetwork() {
		return nil, nil
	}
	published, err := publishedOf(e, l.Container)
	return openPorts(published, l.Config.Exposed), err
}

func ago(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return units.HumanDuration(time.Since(t)) + " ago"
}

// statusText is docker's: "Up 5 minutes", "Exited (1) 2 hours ago".
func statusText(l engine.Listed) string {
	r := l.Record
	switch r.Status {
	case state.Running:
		return "Up " + units.HumanDuration(time.Since(r.StartedAt)) + healthText(l.Health)
	case state.Paused:
		return "Up " + units.HumanDuration(time.Since(r.StartedAt)) + " (Paused)"
	case state.Restarting:
		return fmt.Sprintf("Restarting (%d) %s", r.ExitCode, ago(r.FinishedAt))
	case state.Exited:
		return fmt.Sprintf("Exited (%d) %s", r.ExitCode, ago(r.FinishedAt))
	}
	return "Created"
}

// healthText is docker's: " (healthy)", " (health: starting)".
func healthText(h container.HealthStatus) string {
	switch h {
	case container.HealthNone:
		return ""
	case container.HealthStarting:
		return " (health: starting)"
	}
	return " (" + string(h) + ")"
}

// filter reads --filter, each of which of reads. Of one key one must match, but of labels all.
func filter[T any](filters []string, of func(key, value string) (func(T) (bool, error), error)) (func(T) (bool, error), error) {
	byKey := map[string][]func(T) (bool, error){}
	for _, f := range filters {
		key, value, _ := strings.Cut(f, "=")
		t, err := of(key, value)
		if err != nil {
			return nil, err
		}
		byKey[key] = append(byKey[key], t)
	}
	return func(v T) (bool, error) {
		for key, tests := range byKey {
			all := key == "label"
			ok := all
			for _, t := range tests {
				yes, err := t(v)
				if err != nil {
					return false, err
				}
				ok = all && ok && yes || !all && (ok || yes)
			}
			if !ok {
				return false, nil
			}
		}
		return true, nil
	}, nil
}

// simple is a filter that needs to read nothing.
func simple[T any](t func(T) bool) func(T) (bool, error) {
	return func(v T) (bool, error) { return t(v), nil }
}

// psFilter reads one of docker's filters of containers.
func (c *call) psFilter(e *engine.Engine, key, value string) (func(engine.Listed) (bool, error), error) {
	switch key {
	case "network":
		return func(l engine.Listed) (bool, error) { return onNetwork(e, l, value) }, nil
	case "publish", "expose":
		has, err := portFilter(key, value)
		return func(l engine.Listed) (bool, error) {
			ports, err := portsOf(e, l)
			return slices.ContainsFunc(ports, func(p openPort) bool {
				if key == "expose" {
					return has(p.inner, p.protocol)
				}
				return p.hostIP.IsValid() && has(p.host, p.protocol)
			}), err
		}, err
	case "id", "name":
		matches, err := c.pattern(value)
		return simple(func(l engine.Listed) bool {
			if key == "id" {
				return matches(l.ID)
			}
			return matches(l.Name) || matches("/"+l.Name)
		}), err
	case "before", "since":
		of, err := e.Containers.Resolve(value)
		return simple(func(l engine.Listed) bool {
			if key == "before" {
				return l.Created.Before(of.Created)
			}
			return l.Created.After(of.Created)
		}), err
	case "ancestor":
		t, err := descends(e, value)
		return simple(t), err
	}
	t, err := recordFilter(key, value)
	return simple(t), err
}

// descends tells the containers of an image from others; those of images that begin with its layers are among them. Of an image that there
// is no more, its name tells them.
func descends(e *engine.Engine, ref string) (func(engine.Listed) bool, error) {
	im, err := e.Images.Resolve(ref)
	if errdef.Is(err, errdef.NotFound) || errdef.Is(err, errdef.Invalid) {
		return func(l engine.Listed) bool {
			return l.Image.Name == ref || strings.TrimSuffix(l.Image.Name, ":latest") == ref
		}, nil
	}
	return func(l engine.Listed) bool {
		n := len(im.Chain)
		return l.Image.ID == im.ID || n > 0 && len(l.Image.ChainIDs) > n && l.Image.ChainIDs[n-1] == im.Chain[n-1]
	}, err
}

// onNetwork reports whether a container is on a network, which is given by its name or ID.
func onNetwork(e *engine.Engine, l engine.Listed, asked string) (bool, error) {
	names := networksOf(l.Config)
	if slices.Contains(names, asked) {
		return true, nil
	}
	if !ident.Is(asked) {
		return false, nil
	}
	n, err := e.Networks().Load(asked)
	if errdef.Is(err, errdef.NotFound) {
		err = nil
	}
	return slices.Contains(names, n.Name), err
}

// recordFilter is one of the filters that a container's own record can answer.
func recordFilter(key, value string) (t func(engine.Listed) bool, err error) {
	switch key {
	case "status":
		if !slices.Contains([]string{"created", "running", "paused", "restarting", "exited", "removing", "dead"}, value) {
			return nil, errdef.New(errdef.Invalid, "invalid filter 'status=%s'", value)
		}
		t = func(l engine.Listed) bool { return string(l.Record.Status) == value }
	case "exited":
		n, err := strconv.Atoi(value)
		if err != nil {
			return nil, errdef.New(errdef.Invalid, "invalid filter 'exited=%s'", value)
		}
		t = func(l engine.Listed) bool { return l.Record.Status == state.Exited && l.Record.ExitCode == n }
	case "health":
		if !slices.Contains([]container.HealthStatus{container.HealthNone, container.HealthStarting, container.HealthHealthy, container.HealthUnhealthy}, container.HealthStatus(value)) {
			return nil, errdef.New(errdef.Invalid, "invalid filter 'health=%s'", value)
		}
		t = func(l engine.Listed) bool { return string(l.Health) == value }
	case "label":
		t = func(l engine.Listed) bool { return hasLabel(l.Config.Labels, value) }
	case "is-task":
		task, err := strconv.ParseBool(value)
		if err != nil {
			return nil, errdef.New(errdef.Invalid, "invalid filter 'is-task=%s'", value)
		}
		t = func(engine.Listed) bool { return !task } // tasks are a swarm's
	case "isolation":
		t = func(engine.Listed) bool { return value == "default" }
	case "volume":
		t = func(l engine.Listed) bool {
			return slices.ContainsFunc(mountedFrom(l.Container), func(m state.Volume) bool { return m.Name == value || m.Target == value })
		}
	default:
		return nil, errdef.New(errdef.Invalid, "invalid filter '%s'", key)
	}
	return t, nil
}
