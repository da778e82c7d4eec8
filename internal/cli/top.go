package cli

import (
	"errors"
	"fmt"
	"os/exec"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"time"

	"berth/internal/engine"
	"berth/internal/errdef"
	"berth/internal/state"
)

// cmdTop shows the processes of a container as the host's ps does.
func (c *call) cmdTop() error {
	e, of, err := c.container()
	if err != nil {
		return err
	}
	status, _, err := e.Status(of)
	if err != nil {
		return err
	}
	if status == state.Restarting {
		return errdef.New(errdef.Conflict, "container %s is restarting, wait until the container is running", of.ID)
	}
	pids, err := e.Members(of)
	if err != nil {
		return err
	}
	head, rows, err := processTable(pids, c.args[1:])
	if err != nil {
		return err
	}
	e.Containers.Note(of, "top")
	return wideTable(c, head, rows)
}

// processTable is what ps, with its options, says of processes; without a ps on the host, what it says without options.
func processTable(pids []int, options []string) (head []string, rows [][]string, _ error) {
	text := ""
	ps, err := exec.LookPath("ps")
	switch {
	case err == nil:
		if text, err = runPs(ps, options, pids); err != nil {
			return nil, nil, err
		}
	case len(options) > 0:
		return nil, nil, errdef.New(errdef.Unsupported, "cannot show processes with ps options: this host has no ps")
	default:
		text = ownPs(pids)
	}
	return psOf(text, pids)
}

// runPs runs ps; one that knows no -q, or not with these options, shows all processes.
func runPs(ps string, options []string, pids []int) (string, error) {
	if len(options) == 0 {
		options = []string{"-ef"}
	}
	var list []string
	for _, pid := range pids {
		list = append(list, strconv.Itoa(pid))
	}
	// -e and -q exclude each other for ps of procps: what it shows is chosen below in any case.
	out, err := exec.Command(ps, append(slices.Clone(options), "-q", strings.Join(list, ","))...).Output()
	if err != nil {
		out, err = exec.Command(ps, options...).Output()
	}
	var said *exec.ExitError
	if errors.As(err, &said) {
		line, _, _ := strings.Cut(strings.TrimSpace(string(said.Stderr)), "\n")
		return "", errdef.New(errdef.Invalid, "Error running ps: %s: %v", line, err)
	}
	return string(out), err
}

// psOf takes the head of ps and the lines of the processes that are asked for apart. The last column may have spaces.
func psOf(text string, pids []int) (head []string, rows [][]string, _ error) {
	first, rest, _ := strings.Cut(text, "\n")
	head = strings.Fields(first)
	at := slices.Index(head, "PID")
	if at < 0 {
		return nil, nil, errdef.New(errdef.Invalid, "Couldn't find PID field in ps output")
	}
	shown := false // the line before is shown: those without a PID, of threads, belong to it
	for line := range strings.Lines(rest) {
		f := strings.Fields(line)
		if len(f) < len(head) {
			continue
		}
		switch pid, err := strconv.Atoi(f[at]); {
		case err == nil:
			shown = slices.Contains(pids, pid)
		case f[at] != "-":
			return nil, nil, errdef.New(errdef.Invalid, "Unexpected pid '%s': %v", f[at], err)
		}
		if shown {
			n := len(head) - 1
			rows = append(rows, append(slices.Clone(f[:n]), strings.Join(f[n:], " ")))
		}
	}
	return head, rows, nil
}

// wideTable prints columns as docker's top does: of 20 characters at least.
func wideTable(c *call, head []string, rows [][]string) error {
	pad := func(row []string) {
		for i := range row[:len(row)-1] {
			row[i] = fmt.Sprintf("%-17s", row[i]) // and the three that table puts between them
		}
	}
	pad(head)
	for _, r := range rows {
		pad(r)
	}
	return table(c.out, head, rows)
}

// ownPs is what `ps -ef` says of processes, where there is no ps.
func ownPs(pids []int) string {
	b := strings.Builder{}
	b.WriteString("UID PID PPID C STIME TTY TIME CMD\n")
	now := time.Now()
	for _, pid := range pids {
		p, err := engine.ReadProcess(pid)
		if err != nil {
			continue // it has ended meanwhile
		}
		owner := strconv.Itoa(p.UID)
		if u, err := user.LookupId(owner); err == nil {
			owner = u.Username
		}
		start := p.Started.Format("15:04")
		if now.Sub(p.Started) > 24*time.Hour {
			start = p.Started.Format("Jan02")
		}
		share := 0
		if lived := now.Sub(p.Started); lived > 0 {
			share = int(100 * p.CPU / lived)
		}
		s := int(p.CPU.Seconds())
		fmt.Fprintf(&b, "%s %d %d %d %s %s %02d:%02d:%02d %s\n", owner, pid, p.Parent, share, start, p.Terminal, s/3600, s/60%60, s%60, p.Command)
	}
	return b.String()
}
