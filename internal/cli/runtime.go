package cli

import (
	"fmt"
	"io"
	"os"

	"berth/internal/engine"
	"berth/internal/runtimecli"
)

func (c *call) cmdRuntimeRun() error {
	o := runtimecli.Options{ID: c.args[0], Dir: c.options.bundle, PidFile: c.options.pidFile, Connect: c.connectConsole}
	o.Rows, o.Columns, _ = (&terminal{in: c.in}).size()
	status, err := runtimecli.Run(o)
	if err != nil {
		return engine.Explained(c.settings, fmt.Errorf("cannot run the bundle: %w", err))
	}
	return status2error(status)
}

// connectConsole connects a process's console with our terminal, or with our plain input and output if we have none. There
// are no keys for leaving: whoever runs a bundle in the foreground stays until its end.
func (c *call) connectConsole(console *os.File) (disconnect func(), err error) {
	t, err := openTerminal(c.in, "")
	if err != nil {
		return nil, err
	}
	t.keys = nil
	stop := t.follow(func(rows, columns uint16) { resizeConsole(console, rows, columns) })
	go func() {
		_ = t.copyInput(func(b []byte) error { _, err := console.Write(b); return err })
	}()
	done := make(chan struct{})
	go func() {
		_, _ = io.Copy(c.out, console) // ends with EIO when the last process has let go of the terminal
		close(done)
	}()
	return func() { <-done; stop(); t.restore() }, nil
}
