package cli

import (
	"fmt"

	"berth/internal/engine"
	"berth/internal/runtimecli"
)

func (c *call) cmdRuntimeRun() error {
	status, err := runtimecli.Run(runtimecli.Options{ID: c.args[0], Dir: c.options.bundle, PidFile: c.options.pidFile})
	if err != nil {
		return engine.Explained(c.settings, fmt.Errorf("cannot run the bundle: %w", err))
	}
	return status2error(status)
}
