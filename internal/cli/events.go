package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"berth/internal/errdef"
	"berth/internal/event"
)

// eventRow is an event as docker's JSON has it.
type eventRow struct {
	Status string `json:"status,omitempty"`
	ID     string `json:"id,omitempty"`
	From   string `json:"from,omitempty"`
	Type   event.Type
	Action string
	Actor  struct {
		ID         string
		Attributes map[string]string
	}
	Scope    string `json:"scope"`
	Time     int64  `json:"time"`
	TimeNano int64  `json:"timeNano"`
}

// cmdEvents prints what has happened since --since and goes on until --until, or until it is told to end.
func (c *call) cmdEvents() error {
	o := &c.options
	if o.format != "" && o.format != "json" && o.format != "{{json .}}" && c.programs.Template == nil {
		return c.become()
	}
	since, err := parseTime(o.since)
	if err != nil {
		return err
	}
	until, err := parseTime(o.until)
	if err != nil {
		return err
	}
	match, err := eventFilter(o.filters)
	if err != nil {
		return err
	}
	e, err := c.engine()
	if err != nil {
		return err
	}
	if since.IsZero() && until.IsZero() {
		since = time.Now() // only what is to come
	}
	ctx := c.context()
	if !until.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, until)
		defer cancel()
	}
	journal := event.In(e.Containers.Run)
	watch, err := journal.Watch()
	if err != nil {
		return err
	}
	defer watch.Close()
	err = journal.Read(func() bool {
		watch.Wait(ctx, time.Minute)
		return ctx.Err() == nil
	}, func(v event.Event) error {
		if v.Time.Before(since) || !until.IsZero() && v.Time.After(until) || !match(v) {
			return nil
		}
		return c.printEvent(v)
	})
	if errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return err
}

func (c *call) printEvent(v event.Event) error {
	if c.options.format != "" {
		_, err := c.format([]any{eventRowOf(v)})
		return err
	}
	text := v.Time.Local().Format("2006-01-02T15:04:05.000000000Z07:00") + " " + string(v.Type) + " " + v.Action + " " + v.ID
	if len(v.Attributes) > 0 {
		var all []string
		for _, k := range slices.Sorted(maps.Keys(v.Attributes)) {
			all = append(all, k+"="+v.Attributes[k])
		}
		text += " (" + strings.Join(all, ", ") + ")"
	}
	_, err := fmt.Fprintln(c.out, visible(text))
	return err
}

func eventRowOf(v event.Event) eventRow {
	r := eventRow{Type: v.Type, Action: v.Action, Scope: "local", Time: v.Time.Unix(), TimeNano: v.Time.UnixNano()}
	r.Actor.ID, r.Actor.Attributes = v.ID, v.Attributes
	switch v.Type {
	case event.Container:
		r.Status, r.ID, r.From = v.Action, v.ID, v.Attributes["image"]
	case event.Image:
		r.Status, r.ID = v.Action, v.ID
	}
	return r
}

// eventFilter reads --filter: of one key one must match, but of labels all.
func eventFilter(filters []string) (func(event.Event) bool, error) {
	match, err := filter(filters, func(key, value string) (func(event.Event) (bool, error), error) {
		var t func(event.Event) bool
		switch key {
		case "type":
			t = func(v event.Event) bool { return string(v.Type) == value }
		case "event":
			t = func(v event.Event) bool { return isAction(v.Action, value) }
		case "scope":
			t = func(event.Event) bool { return value == "local" }
		case "container", "network", "volume":
			t = func(v event.Event) bool {
				return string(v.Type) == key && (strings.HasPrefix(v.ID, value) || strings.HasPrefix(v.Attributes["name"], value))
			}
		case "image":
			t = func(v event.Event) bool { return ofImage(v, value) }
		case "label":
			t = func(v event.Event) bool { return hasLabel(v.Attributes, value) }
		case "config", "daemon", "node", "plugin", "secret", "service":
			t = func(event.Event) bool { return false } // nothing happens to what there is none of
		default:
			return nil, errdef.New(errdef.Invalid, "invalid filter '%s'", key)
		}
		return simple(t), nil
	})
	if err != nil {
		return nil, err
	}
	return func(v event.Event) bool {
		yes, err := match(v)
		return yes && err == nil
	}, nil
}

// isAction reports whether an action is the one that is asked for; some go on with a colon and more, which may be left out.
func isAction(action, asked string) bool {
	return action == asked || strings.HasPrefix(action, asked+":")
}

// ofImage reports whether an event is about an image, or about a container of it, with its tag or without.
func ofImage(v event.Event, asked string) bool {
	name := v.Attributes["image"]
	if v.Type == event.Image {
		name = v.Attributes["name"]
	}
	for _, n := range []string{v.ID, name} {
		tag := strings.LastIndexByte(n, ':')
		if n == asked || tag > strings.LastIndexByte(n, '/') && n[:tag] == asked {
			return n != "" && (v.Type == event.Image || v.Type == event.Container)
		}
	}
	return false
}
