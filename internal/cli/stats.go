package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"berth/internal/engine"
	"berth/internal/errdef"
	"berth/internal/ident"
	"berth/internal/state"

	"github.com/docker/go-units"
	"golang.org/x/term"
)

// statsRow is a container as stats shows it; the names of its fields are docker's.
type statsRow struct {
	BlockIO   string
	CPUPerc   string
	Container string // as it was asked for
	ID        string
	MemPerc   string
	MemUsage  string
	Name      string
	NetIO     string
	PIDs      string
}

const (
	statsInterval = time.Second
	// statsOnce is how long use of the CPU is looked at for --no-stream.
	statsOnce = 200 * time.Millisecond
)

// sample is what a container used when it was looked at.
type sample struct {
	asked string
	of    *state.Container
	usage engine.Usage
}

func (c *call) cmdStats() error {
	o := &c.options
	if o.format != "" && o.format != "json" && o.format != "{{json .}}" && o.format != "table" && c.programs.Template == nil {
		return c.become()
	}
	e, err := c.engine()
	if err != nil {
		return err
	}
	ctx := c.context()
	before, err := c.samples(e)
	if err != nil {
		return err
	}
	live := !o.noStream && isTerminal(c.out)
	interval := statsOnce
	for pause(ctx, interval) {
		now, err := c.samples(e)
		if err != nil {
			return err
		}
		if live {
			// The screen is drawn over, then what is left below is cleared: it does not flicker.
			if _, err := io.WriteString(c.out, "\x1b[H"); err != nil {
				return err
			}
		}
		if err := c.printStats(before, now); err != nil {
			return err
		}
		if live {
			if _, err := io.WriteString(c.out, "\x1b[J"); err != nil {
				return err
			}
		}
		if o.noStream {
			return nil
		}
		before, interval = now, statsInterval
	}
	return nil
}

// pause waits; false says that the command is told to end.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// Colors of a terminal's, as ECMA-48's SGR numbers them.
const (
	red    = "31"
	green  = "32"
	yellow = "33"
)

// paint is text in a color, if w is a terminal and the user has not asked for none (https://no-color.org).
func paint(w io.Writer, color, text string) string {
	if !isTerminal(w) || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return text
	}
	return "\x1b[" + color + "m" + text + "\x1b[0m"
}

// samples looks at the containers that are asked for: those named, or all that run, with --all the others, too.
func (c *call) samples(e *engine.Engine) ([]sample, error) {
	var all []sample
	for _, ref := range c.args {
		of, err := e.Containers.Resolve(ref)
		if err != nil {
			return nil, err
		}
		all = append(all, sample{asked: ref, of: of})
	}
	if len(c.args) == 0 {
		listed, err := e.ListOwn()
		if err != nil {
			return nil, err
		}
		for _, l := range listed {
			if c.options.all || l.Record.Status == state.Running || l.Record.Status == state.Paused {
				all = append(all, sample{asked: ident.Short(l.ID), of: l.Container})
			}
		}
	}
	kept := all[:0]
	for _, s := range all {
		var err error
		s.usage, err = e.Usage(s.of)
		switch {
		case errdef.Is(err, errdef.NotFound) && len(c.args) == 0: // removed meanwhile
		case err != nil:
			return nil, err
		default:
			kept = append(kept, s)
		}
	}
	return kept, nil
}

func (c *call) printStats(before, now []sample) error {
	earlier := map[string]engine.Usage{}
	for _, s := range before {
		earlier[s.of.ID] = s.usage
	}
	var rows []any
	var cells [][]string
	memory := engine.MemoryBytes()
	for _, s := range now {
		r := statsRowOf(s, earlier[s.of.ID], memory, c.options.noTrunc)
		rows = append(rows, r)
		cells = append(cells, []string{r.ID, r.Name, r.CPUPerc, r.MemUsage, r.MemPerc, r.NetIO, r.BlockIO, r.PIDs})
	}
	if done, err := c.format(rows); done {
		return err
	}
	head := []string{"CONTAINER ID", "NAME", "CPU %", "MEM USAGE / LIMIT", "MEM %", "NET I/O", "BLOCK I/O", "PIDS"}
	if !isTerminal(c.out) {
		return table(c.out, head, cells)
	}
	var b strings.Builder
	if err := table(&b, head, cells); err != nil {
		return err
	}
	_, err := io.WriteString(c.out, strings.ReplaceAll(b.String(), "\n", "\x1b[K\n"))
	return err
}

func statsRowOf(s sample, before engine.Usage, memory uint64, noTrunc bool) statsRow {
	u := s.usage
	limit := memory
	if u.MemoryLimit > 0 {
		limit = min(limit, u.MemoryLimit)
	}
	if u.Taken.IsZero() {
		limit = 0 // it does not run
	}
	id := s.of.ID
	if !noTrunc {
		id = ident.Short(id)
	}
	size := func(n uint64) string { return units.HumanSizeWithPrecision(float64(n), 3) }
	return statsRow{
		Container: s.asked, ID: id, Name: s.of.Name, CPUPerc: percent(cpuShare(before, u)), MemPerc: percent(ratio(u.MemoryBytes, limit)),
		MemUsage: units.BytesSize(float64(u.MemoryBytes)) + " / " + units.BytesSize(float64(limit)),
		NetIO:    size(u.ReceivedBytes) + " / " + size(u.Sent), BlockIO: size(u.ReadBytes) + " / " + size(u.WrittenBytes), PIDs: strconv.FormatUint(u.PIDs, 10),
	}
}

// cpuShare is how much of one CPU was used between two looks.
func cpuShare(before, now engine.Usage) float64 {
	if before.Taken.IsZero() || now.CPU < before.CPU || !now.Taken.After(before.Taken) {
		return 0
	}
	return float64(now.CPU-before.CPU) / float64(now.Taken.Sub(before.Taken))
}

func ratio(part, whole uint64) float64 {
	if whole == 0 {
		return 0
	}
	return float64(part) / float64(whole)
}

func percent(share float64) string { return fmt.Sprintf("%.2f%%", 100*share) }
