package state

import (
	"path/filepath"
	"time"

	"berth/internal/container"
	"berth/internal/disk"
)

// health is containers/ID/health.json.
type health struct {
	Format    int
	StartedAt time.Time // of the run that it is about
	container.Health
}

func (s Store) healthFile(id string) string { return filepath.Join(s.Dir(id), "health.json") }

// Health reads what is known of the health of a container that was started then: it is starting until its monitor has looked. ok is
// false if nothing was written down, for a container that was never started with a health check.
func (s Store) Health(id string, started time.Time) (h container.Health, ok bool) {
	var on health
	if err := readJSON(s.healthFile(id), &on); err != nil {
		return container.Health{Status: container.HealthStarting}, false // what a power cut has left of it is as good as nothing
	}
	if !on.StartedAt.Equal(started) {
		return container.Health{Status: container.HealthStarting}, true
	}
	return on.Health, true
}

// SetHealth writes the health of a container that was started then.
func (s Store) SetHealth(id string, started time.Time, h container.Health) error {
	return writeJSON(s.healthFile(id), health{Format, started, h}, disk.Volatile)
}
