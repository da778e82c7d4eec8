package runtimecli

import (
	"encoding/json"
	"errors"
	"io"
	"time"

	"berth/internal/errdef"
	"berth/internal/host"
	"berth/internal/runtime/cgroup"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Update changes the limits of a container: those that change, a JSON object as "linux.resources" in config.json, names. The others stay
// as they are.
func (s Store) Update(id string, change io.Reader) error {
	h, err := s.take(id)
	if err != nil {
		return err
	}
	defer h.lock.Unlock()
	if status := s.status(h.record); status == stopped || status == creating {
		return errdef.New(errdef.Conflict, "cannot update a container that is %s: container not running", status)
	}
	old, err := s.resources(h.record)
	if err != nil {
		return err
	}
	wanted, err := s.resources(h.record) // not a copy of the other: they share no pointers
	if err != nil {
		return err
	}
	if err := json.NewDecoder(io.LimitReader(change, maxConfig)).Decode(wanted); err != nil {
		return errdef.New(errdef.Invalid, "cannot read the resources: %w", err)
	}
	if len(wanted.Devices) != len(old.Devices) {
		return errdef.New(errdef.Unsupported, "the rules for devices of a container that is there cannot be changed")
	}
	g := h.group()
	if g == nil {
		return errdef.New(errdef.Unsupported, "cannot limit the container: it has no control group of its own")
	}
	text, err := json.Marshal(wanted)
	if err != nil {
		return err
	}
	if err := g.Replace(old, wanted); err != nil {
		return err
	}
	h.Resources = text
	if err := h.save(); err != nil {
		return errors.Join(err, g.Update(old))
	}
	return nil
}

// resources are the limits that a container has now.
func (s Store) resources(r record) (*specs.LinuxResources, error) {
	if r.Resources != nil {
		var now specs.LinuxResources
		return &now, json.Unmarshal(r.Resources, &now)
	}
	c, err := s.config(r.ID)
	if err != nil {
		return nil, err
	}
	if c.Linux.Resources == nil {
		return &specs.LinuxResources{}, nil
	}
	return c.Linux.Resources, nil
}

// Event is a line of `events`, in runc's form.
type Event struct {
	Type string        `json:"type"` // stats, oom
	ID   string        `json:"id"`
	Data *cgroup.Stats `json:"data,omitempty"`
}

// Events tells what a container uses: once, or with an interval again and again, and when the kernel has killed a process of its because
// its memory ran out; until it ends.
func (s Store) Events(id string, interval time.Duration, tell func(Event) error) error {
	r, err := s.read(id)
	if err != nil {
		return err
	}
	if status := s.status(r); status == stopped || status == creating {
		return errdef.New(errdef.Conflict, "container with id %s is not running", id)
	}
	if r.Cgroup == "" {
		return errdef.New(errdef.Unsupported, "cannot say what the container uses: it has no control group of its own")
	}
	g, err := cgroup.Open(host.Probe(), r.Cgroup)
	if err != nil {
		return err
	}
	for kills := g.OOMKills(); ; time.Sleep(interval) {
		if err := tell(Event{"stats", id, g.Stats()}); err != nil || interval == 0 {
			return err
		}
		if now := g.OOMKills(); now > kills {
			if err := tell(Event{"oom", id, nil}); err != nil {
				return err
			}
			kills = now
		}
		if !r.alive() {
			return nil
		}
	}
}
