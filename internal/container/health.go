package container

import (
	"slices"
	"strings"
	"time"

	"berth/internal/errdef"
	"berth/internal/image"
)

// Health is what is known of a container's health, docker's State.Health.
type Health struct {
	Status        HealthStatus
	FailingStreak int
	Log           []HealthResult // the last ones, the oldest first
}

// HealthStatus is docker's word for how a container is.
type HealthStatus string

const (
	HealthNone      HealthStatus = "none" // nobody looks
	HealthStarting  HealthStatus = "starting"
	HealthHealthy   HealthStatus = "healthy"
	HealthUnhealthy HealthStatus = "unhealthy"
)

// HealthResult is what came of one look.
type HealthResult struct {
	Start    time.Time
	End      time.Time
	ExitCode int // -1: it could not be started, or took too long
	Output   string
}

// What is done when a container is found to be unhealthy; podman's words.
const (
	OnFailureNone    = "none"
	OnFailureKill    = "kill"
	OnFailureRestart = "restart"
	OnFailureStop    = "stop"
)

// Docker's defaults and limits of a health check.
const (
	healthInterval      = 30 * time.Second
	healthTimeout       = 30 * time.Second
	healthStartInterval = 5 * time.Second
	healthRetries       = 3
	healthLog           = 5
	// HealthOutputBytes is how much of the output of a health check is kept.
	HealthOutputBytes = 4096
)

// mergeHealth fills what is left open of a health check from the image's.
func mergeHealth(h image.Healthcheck, im *image.Healthcheck) image.Healthcheck {
	if im == nil {
		return h
	}
	if len(h.Test) == 0 {
		h.Test = im.Test
	}
	for _, d := range []struct{ to, from *time.Duration }{
		{&h.Interval, &im.Interval},
		{&h.Timeout, &im.Timeout},
		{&h.StartPeriod, &im.StartPeriod},
		{&h.StartInterval, &im.StartInterval},
	} {
		if *d.to == 0 {
			*d.to = *d.from
		}
	}
	if h.Retries == 0 {
		h.Retries = im.Retries
	}
	return h
}

// HealthCommand is the command line of the container's health check, or nil if it has none.
func (c Config) HealthCommand() []string {
	if len(c.Health.Test) < 2 {
		return nil
	}
	switch rest := c.Health.Test[1:]; c.Health.Test[0] {
	case "CMD":
		return rest
	case "CMD-SHELL":
		shell := c.Shell
		if len(shell) == 0 {
			shell = []string{"/bin/sh", "-c"}
		}
		return append(slices.Clone(shell), strings.Join(rest, " "))
	}
	return nil
}

// CheckHealth refuses a health check that cannot be carried out.
func (c Config) CheckHealth() error {
	h := c.Health
	if len(h.Test) > 0 && !slices.Contains([]string{"NONE", "CMD", "CMD-SHELL"}, h.Test[0]) {
		return errdef.New(errdef.Invalid, "Unknown healthcheck type: '%s'", h.Test[0])
	}
	for _, d := range []struct {
		name string
		d    time.Duration
	}{{"Interval", h.Interval}, {"Timeout", h.Timeout}, {"StartPeriod", h.StartPeriod}, {"StartInterval", h.StartInterval}} {
		if d.d != 0 && d.d < time.Millisecond {
			return errdef.New(errdef.Invalid, "%s in Healthcheck cannot be less than 1ms", d.name)
		}
	}
	if h.Retries < 0 {
		return errdef.New(errdef.Invalid, "Retries in Healthcheck cannot be negative")
	}
	if on := c.HealthOnFailure; on != "" && on != OnFailureNone && c.HealthCommand() == nil {
		return errdef.Hint(errdef.New(errdef.Invalid, "cannot set the on-failure action to %s without a health check", on), "the image has none; give one with --health-cmd")
	}
	return nil
}

// HealthTimeout is how long a health check may take.
func HealthTimeout(check image.Healthcheck) time.Duration {
	return orDefault(check.Timeout, healthTimeout)
}

// Interval is how long a container that has run for so long is left alone after a look, or after its start.
func (h Health) Interval(check image.Healthcheck, ran time.Duration) time.Duration {
	if h.Status == HealthStarting && ran < check.StartPeriod {
		return orDefault(check.StartInterval, healthStartInterval)
	}
	return orDefault(check.Interval, healthInterval)
}

// After is the health of a container after a look, at which it had run for so long: within the start period nothing is held against one that
// was never healthy.
func (h Health) After(check image.Healthcheck, ran time.Duration, r HealthResult) Health {
	h.Log = append(slices.Clone(h.Log), r)
	h.Log = h.Log[max(0, len(h.Log)-healthLog):]
	switch {
	case r.ExitCode == 0:
		h.Status, h.FailingStreak = HealthHealthy, 0
	case h.Status == HealthStarting && ran < check.StartPeriod:
	default:
		h.FailingStreak++
		if h.FailingStreak >= orDefault(check.Retries, healthRetries) {
			h.Status = HealthUnhealthy
		}
	}
	return h
}

func orDefault[T ~int | ~int64](v, otherwise T) T {
	if v == 0 {
		return otherwise
	}
	return v
}
