package cli

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"

	"berth/internal/engine"
	"berth/internal/errdef"
	"berth/internal/runtime/monitor"
	"berth/internal/state"

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
	if c.options.force || c.options.dry {
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

func resizeConsole(f *os.File, rows, columns uint16) {
	if raw, err := f.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			_ = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns})
		})
	}
}
