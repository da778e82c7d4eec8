package state

import (
	"maps"
	"os"
	"time"

	"berth/internal/event"
)

// Event is what happens to a container: docker's word for it, and names and values of further attributes.
func (c *Container) Event(action string, more ...string) event.Event {
	attributes := make(map[string]string, len(c.Config.Labels)+2+len(more)/2)
	maps.Copy(attributes, c.Config.Labels)
	attributes["image"], attributes["name"] = c.Image.Name, c.Name
	for i := 0; i+1 < len(more); i += 2 {
		attributes[more[i]] = more[i+1]
	}
	return event.Event{Type: event.Container, Action: action, ID: c.ID, Attributes: attributes}
}

// Now is a container by the name that it has now, which may have been given to it since it was started.
func (s Store) Now(c *Container, started time.Time) *Container {
	file, err := os.Stat(s.configFile(c.ID))
	if err != nil || file.ModTime().Before(started) {
		return c
	}
	now, err := s.Load(c.ID)
	if err != nil {
		return c
	}
	renamed := *c
	renamed.Name = now.Name
	return &renamed
}

// Note notes in the journal what has happened to a container.
func (s Store) Note(c *Container, action string, more ...string) { s.NoteAll(c.Event(action, more...)) }

// NoteAll notes events in the journal. One that cannot be written changes nothing of what has happened.
func (s Store) NoteAll(events ...event.Event) { _ = event.In(s.Run).Append(events...) }

// VolumeEvents is what happens to the volumes of a container when it starts ("mount") or ends ("unmount").
func (c *Container) VolumeEvents(action string) []event.Event {
	var all []event.Event
	for _, v := range c.Volumes {
		attributes := map[string]string{"container": c.ID, "driver": "local"}
		if action == "mount" {
			attributes["destination"], attributes["propagation"], attributes["read/write"] = v.Target, "", "true"
			for _, m := range c.Config.Mounts {
				if m.Target == v.Target && m.ReadOnly {
					attributes["read/write"] = "false"
				}
			}
		}
		all = append(all, event.Event{Type: event.Volume, Action: action, ID: v.Name, Attributes: attributes})
	}
	return all
}
