package cli

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"berth/internal/engine"
	"berth/internal/errdef"
	"berth/internal/logs"
	"berth/internal/runtime/monitor"
	"berth/internal/state"
	"berth/internal/tail"

	"golang.org/x/sys/unix"
)

// each does something for every argument; one that fails does not keep the others from being done.
func (c *call) each(do func(ref string) error) error {
	var errs []error
	for _, ref := range c.args {
		if err := do(ref); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) <= 1 {
		return errors.Join(errs...)
	}
	for _, err := range errs[:len(errs)-1] {
		c.report(err)
	}
	return errs[len(errs)-1]
}

// eachContainer does something for every container named, and prints the name that was given.
func (c *call) eachContainer(do func(e *engine.Engine, of *state.Container) error) error {
	e, err := c.engine()
	if err != nil {
		return err
	}
	return c.each(func(ref string) error {
		of, err := e.Containers.Resolve(ref)
		if err != nil {
			return err
		}
		if err := do(e, of); err != nil {
			return err
		}
		_, err = fmt.Fprintln(c.out, ref)
		return err
	})
}

// atOnce is how many containers something is done to at the same time; docker's.
const atOnce = 50

// eachContainerAtOnce is eachContainer for what takes its time: the containers have theirs at the same time. What came of it is
// said in their order.
func (c *call) eachContainerAtOnce(do func(e *engine.Engine, of *state.Container) error) error {
	e, err := c.engine()
	if err != nil {
		return err
	}
	slots := make(chan struct{}, atOnce)
	ends := make([]chan error, len(c.args))
	for i, ref := range c.args {
		ends[i] = make(chan error, 1)
		of, err := e.Containers.Resolve(ref)
		if err != nil {
			ends[i] <- err
			continue
		}
		go func() {
			slots <- struct{}{}
			ends[i] <- do(e, of)
			<-slots
		}()
	}
	next := 0
	return c.each(func(ref string) error {
		err := <-ends[next]
		next++
		if err == nil {
			_, err = fmt.Fprintln(c.out, ref)
		}
		return err
	})
}

func (c *call) stopOptions() (engine.StopOptions, error) {
	o := engine.StopOptions{Timeout: c.options.timeout}
	if c.options.signal != "" {
		var err error
		if o.Signal, err = parseSignal(c.options.signal); err != nil {
			return o, err
		}
	}
	return o, nil
}

func (c *call) cmdStop() error {
	o, err := c.stopOptions()
	if err != nil {
		return err
	}
	ctx := c.context()
	return c.eachContainerAtOnce(func(e *engine.Engine, of *state.Container) error { return e.Stop(ctx, of, o) })
}

func (c *call) cmdRestart() error {
	o, err := c.stopOptions()
	if err != nil {
		return err
	}
	return c.eachContainer(func(e *engine.Engine, of *state.Container) error {
		if err := e.Stop(c.context(), of, o); err != nil {
			return err
		}
		s, err := e.Start(of, monitor.AttachRequest{})
		if err != nil {
			return err
		}
		e.Containers.Note(of, "restart")
		return s.Close()
	})
}

func (c *call) cmdKill() error {
	signal := unix.SIGKILL
	if c.options.signal != "" {
		var err error
		if signal, err = parseSignal(c.options.signal); err != nil {
			return err
		}
	}
	return c.eachContainer(func(e *engine.Engine, of *state.Container) error { return e.Kill(of, signal) })
}

func (c *call) cmdPause() error {
	return c.eachContainer(func(e *engine.Engine, of *state.Container) error { return e.Pause(of, true) })
}

func (c *call) cmdUnpause() error {
	return c.eachContainer(func(e *engine.Engine, of *state.Container) error { return e.Pause(of, false) })
}

func (c *call) cmdWait() error {
	e, err := c.engine()
	if err != nil {
		return err
	}
	return c.each(func(ref string) error {
		of, err := e.Containers.Resolve(ref)
		if err != nil {
			return err
		}
		status, err := e.Wait(of)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(c.out, status)
		return err
	})
}

func (c *call) cmdRm() error {
	if c.options.link {
		return errdef.Hint(errdef.New(errdef.Unsupported, "cannot remove a link: containers here have none, but names on their networks"),
			"berth network disconnect NETWORK CONTAINER takes a container, and its names, from a network")
	}
	e, err := c.engine()
	if err != nil {
		return err
	}
	return c.each(func(ref string) error {
		of, err := e.Containers.Resolve(ref)
		if errdef.Is(err, errdef.NotFound) && c.options.force {
			c.report(err)
			return nil
		}
		if err != nil {
			return err
		}
		if err := e.Remove(of, c.options.force, c.options.volumes); err != nil {
			return err
		}
		_, err = fmt.Fprintln(c.out, ref)
		return err
	})
}

func (c *call) cmdRename() error {
	e, of, err := c.container()
	if err != nil {
		return err
	}
	return e.Rename(of, c.args[1])
}

func (c *call) cmdDiff() error {
	e, of, err := c.container()
	if err != nil {
		return err
	}
	changes, err := e.Changes(of)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(c.out)
	for _, change := range changes {
		if _, err := fmt.Fprintf(out, "%s %s\n", change.Kind, visible(change.Path)); err != nil {
			return err
		}
	}
	return out.Flush()
}

// confirm asks before something is deleted that has no name on the command line.
func (c *call) confirm(what string) (bool, error) {
	return c.confirmed("WARNING! This will remove " + what + ".")
}

func (c *call) confirmed(warning string) (bool, error) {
	if c.options.force {
		return true, nil
	}
	fmt.Fprintf(c.err, "%s\nAre you sure you want to continue? [y/N] ", warning)
	line, err := bufio.NewReader(c.in).ReadString('\n')
	if err != nil && line == "" {
		fmt.Fprintln(c.err)
		return false, nil //nolint:nilerr // no answer is no
	}
	answer := strings.ToLower(strings.TrimSpace(line))
	return answer == "y" || answer == "yes", nil
}

func (c *call) cmdLogs() error {
	e, of, err := c.container()
	if err != nil {
		return err
	}
	if of.Config.Log.Driver == "none" {
		return errdef.New(errdef.Unsupported, "configured logging driver does not support reading: container %s has --log-driver none", of.Name)
	}
	q := logs.Query{Tail: -1}
	if t := c.options.tail; t != "" && t != "all" {
		if q.Tail, err = strconv.Atoi(t); err != nil {
			return errdef.New(errdef.Invalid, "invalid value %q for --tail: it is a number or all", t)
		}
	}
	if q.Since, err = parseTime(c.options.since); err != nil {
		return err
	}
	if q.Until, err = parseTime(c.options.until); err != nil {
		return err
	}
	if c.options.follow {
		watch, err := tail.NewWatch(e.Containers.Dir(of.ID), e.Containers.RunDir(of.ID))
		if err != nil {
			return err
		}
		defer watch.Close()
		q.Follow = func() bool {
			if c.context().Err() != nil || !q.Until.IsZero() && time.Now().After(q.Until) || !e.Containers.Monitored(of.ID) {
				return false
			}
			watch.Wait(c.context(), 100*time.Millisecond) // the end of a monitor, or of the time, changes nothing there
			return true
		}
		if _, _, err := e.Status(of); err != nil {
			return err
		}
	}
	out, errs := bufio.NewWriterSize(c.out, 64<<10), bufio.NewWriterSize(c.err, 64<<10)
	if c.options.follow {
		out, errs = bufio.NewWriterSize(c.out, 0), bufio.NewWriterSize(c.err, 0)
	}
	err = logs.Read(monitor.LogPath(e.Containers.Dir(of.ID), of.ID), monitor.LogFiles(of.Config.Log), q, func(l logs.Entry) error {
		w := out
		if l.Stream == "stderr" {
			w = errs
		}
		if c.options.timestamps {
			if _, err := w.WriteString(l.Time.Format("2006-01-02T15:04:05.000000000Z07:00") + " "); err != nil {
				return err
			}
		}
		if _, err := w.WriteString(l.Text); err != nil {
			return err
		}
		if c.options.follow {
			return w.Flush()
		}
		return nil
	})
	return errors.Join(err, out.Flush(), errs.Flush())
}

// parseTime reads what --since and --until take: RFC 3339 with parts left out, a Unix time, or how long ago.
func parseTime(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(s); err == nil {
		return time.Now().Add(-d), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02T15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, nil
		}
	}
	if f, err := strconv.ParseFloat(s, 64); err == nil {
		return time.UnixMicro(int64(f * 1e6)), nil
	}
	return time.Time{}, errdef.New(errdef.Invalid, "invalid time %q: it is a duration like 10m, a time like 2006-01-02T15:04:05Z, or seconds since 1970", s)
}

func resizeConsole(f *os.File, rows, columns uint16) {
	if raw, err := f.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			_ = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns})
		})
	}
}
