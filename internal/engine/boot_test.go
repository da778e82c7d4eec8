package engine

import (
	"testing"

	"berth/internal/container"
	"berth/internal/state"
)

func TestBootStarts(t *testing.T) {
	ended := func(status int, stopped bool, restarts int) state.Record {
		return state.Record{Status: state.Exited, ExitCode: status, Stopped: stopped, RestartCount: restarts}
	}
	policy := func(name string, retries int) container.Config {
		return container.Config{Restart: container.RestartPolicy{Name: name, Retries: retries}}
	}
	for _, c := range []struct {
		summary string
		config  container.Config
		record  state.Record
		want    bool
	}{
		{"No policy, no start", container.Config{}, ended(255, false, 0), false},
		{"Always", policy(container.RestartAlways, 0), ended(255, false, 0), true},
		{"Always, even what was stopped", policy(container.RestartAlways, 0), ended(0, true, 0), true},
		{"Always, but not what never ran", policy(container.RestartAlways, 0), state.Record{Status: state.Created}, false},
		{"Always, but not what runs already", policy(container.RestartAlways, 0), state.Record{Status: state.Running}, false},
		{"Unless stopped, and it was not", policy(container.RestartUnlessStopped, 0), ended(255, false, 0), true},
		{"Unless stopped, and it was", policy(container.RestartUnlessStopped, 0), ended(0, true, 0), false},
		{"The host's end is a failure", policy(container.RestartOnFailure, 0), ended(255, false, 0), true},
		{"No failure", policy(container.RestartOnFailure, 0), ended(0, false, 0), false},
		{"Too many failures", policy(container.RestartOnFailure, 3), ended(255, false, 3), false},
	} {
		if got := bootStarts(c.config, c.record); got != c.want {
			t.Errorf("%s: %v", c.summary, got)
		}
	}
}
