package cli

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"berth/internal/engine"
	"berth/internal/errdef"
	"berth/internal/ident"
	"berth/internal/state"

	"github.com/docker/go-units"
)

// psRow is a container as ps shows it; the names of its fields are docker's.
type psRow struct {
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
	all, err := e.List()
	if err != nil {
		return err
	}
	o := &c.options
	if o.latest {
		o.last = 1
	}
	match, err := psFilter(o.filters)
	if err != nil {
		return err
	}
	showAll := o.all || o.last > 0
	for _, f := range o.filters {
		if strings.HasPrefix(f, "status=") || strings.HasPrefix(f, "exited=") {
			showAll = true
		}
	}
	var rows []any
	var cells [][]string
	for _, l := range all {
		running := l.Record.Status == state.Running || l.Record.Status == state.Paused || l.Record.Status == state.Restarting
		if !showAll && !running || !match(l) {
			continue
		}
		if o.last > 0 && len(rows) == o.last {
			break
		}
		r := psRowOf(l, o.noTrunc)
		rows = append(rows, r)
		cells = append(cells, []string{r.ID, r.Image, r.Command, r.RunningFor, r.Status, r.Ports, r.Names})
	}
	if o.quiet {
		for _, r := range cells {
			if _, err := fmt.Fprintln(c.out, r[0]); err != nil {
				return err
			}
		}
		return nil
	}
	if done, err := c.format(rows); done {
		return err
	}
	return table(c.out, []string{"CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"}, cells)
}

func psRowOf(l engine.Listed, noTrunc bool) psRow {
	id, command := l.ID, strings.Join(l.Config.Args(), " ")
	if !noTrunc {
		id = ident.Short(id)
		if r := []rune(command); len(r) > 20 {
			command = string(r[:19]) + "…"
		}
	}
	var labels, mounts []string
	for k, v := range l.Config.Labels {
		labels = append(labels, k+"="+v)
	}
	slices.Sort(labels)
	for _, m := range l.Config.Mounts {
		if m.Source != "" {
			mounts = append(mounts, m.Source)
		}
	}
	return psRow{
		Command: strconv.Quote(command), CreatedAt: l.Created.Format("2006-01-02 15:04:05 -0700 MST"), ID: id, Image: l.Image.Name,
		Labels: strings.Join(labels, ","), LocalVolumes: strconv.Itoa(len(l.Volumes)), Mounts: strings.Join(mounts, ","), Names: l.Name,
		Networks: l.Config.Network, RunningFor: ago(l.Created), Size: "0B", State: string(l.Record.Status), Status: statusText(l.Record),
	}
}

func ago(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return units.HumanDuration(time.Since(t)) + " ago"
}

// statusText is docker's: "Up 5 minutes", "Exited (1) 2 hours ago".
func statusText(r state.Record) string {
	switch r.Status {
	case state.Running:
		return "Up " + units.HumanDuration(time.Since(r.StartedAt))
	case state.Paused:
		return "Up " + units.HumanDuration(time.Since(r.StartedAt)) + " (Paused)"
	case state.Restarting:
		return fmt.Sprintf("Restarting (%d) %s", r.ExitCode, ago(r.FinishedAt))
	case state.Exited:
		return fmt.Sprintf("Exited (%d) %s", r.ExitCode, ago(r.FinishedAt))
	}
	return "Created"
}

// psFilter reads docker's filters that a container's own record can answer.
func psFilter(filters []string) (func(engine.Listed) bool, error) {
	type test = func(engine.Listed) bool
	byKey := map[string][]test{}
	for _, f := range filters {
		key, value, has := strings.Cut(f, "=")
		if !has {
			return nil, errdef.New(errdef.Invalid, "invalid argument %q for \"-f, --filter\" flag: bad format of filter (expected name=value)", f)
		}
		var t test
		switch key {
		case "id":
			t = func(l engine.Listed) bool { return strings.HasPrefix(l.ID, value) }
		case "name":
			t = func(l engine.Listed) bool { return strings.Contains(l.Name, strings.TrimPrefix(value, "/")) }
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
		case "label":
			name, want, exact := strings.Cut(value, "=")
			t = func(l engine.Listed) bool {
				have, ok := l.Config.Labels[name]
				return ok && (!exact || have == want)
			}
		case "ancestor":
			t = func(l engine.Listed) bool {
				return l.Image.Name == value || strings.TrimSuffix(l.Image.Name, ":latest") == value || strings.HasPrefix(l.Image.ID.Hex(), value)
			}
		case "volume":
			t = func(l engine.Listed) bool {
				for _, v := range l.Volumes {
					if v.Name == value || v.Target == value {
						return true
					}
				}
				return false
			}
		case "network":
			t = func(l engine.Listed) bool { return l.Config.Network == value }
		default:
			return nil, errdef.New(errdef.Invalid, "invalid filter '%s'", key)
		}
		byKey[key] = append(byKey[key], t)
	}
	return func(l engine.Listed) bool {
		for key, tests := range byKey {
			ok := key == "label" // labels must all match, of other keys one
			for _, t := range tests {
				if key == "label" {
					ok = ok && t(l)
				} else {
					ok = ok || t(l)
				}
			}
			if !ok {
				return false
			}
		}
		return true
	}, nil
}
