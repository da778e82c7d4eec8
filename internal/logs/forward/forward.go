// Package forward sends what containers print to where their log drivers say: to a syslog, or to the journal of the host.
//
// It is for the process that does nothing else, so that a monitor need not know what it takes (TLS, templates). It keeps no log: it
// reads the one that the monitor writes, and writes down how far it has come (logs.Sent).
package forward

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"text/template"
	"time"

	"berth/internal/container"
	"berth/internal/errdef"
	"berth/internal/logs"
	"berth/internal/tail"
)

// A driver sends entries to one place.
type driver interface {
	// send sends an entry. After an error it may be called again with the same one, and connects anew.
	send(logs.Entry) error
	close() error
}

// Dial connects to where a container's output is to go.
func Dial(l container.LogConfig, f container.TagFacts) (*Connection, error) {
	tag, err := Tag(l, f)
	if err != nil {
		return nil, err
	}
	c := &Connection{}
	switch l.Driver {
	case container.LogSyslog:
		c.driver, err = dialSyslog(l, tag)
	case container.LogJournal:
		c.driver, err = dialJournal(l, f, tag)
	default:
		return nil, errdef.New(errdef.Invalid, "the log driver %s sends nothing", l.DriverName())
	}
	return c, err
}

// Connection is a connection to a place; if it ends, it is made anew.
type Connection struct{ driver driver }

// Close ends the connection.
func (c *Connection) Close() error { return c.driver.close() }

const (
	firstPause = 100 * time.Millisecond
	longPause  = 5 * time.Second
)

// Send sends an entry, and tries until it is sent or ctx ends.
func (c *Connection) Send(ctx context.Context, e logs.Entry) error {
	for pause := firstPause; ; pause = min(2*pause, longPause) {
		err := c.driver.send(e)
		if err == nil {
			return nil
		}
		if pause == firstPause {
			fmt.Fprintln(os.Stderr, "cannot send to the log, and try again:", err)
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}

// Options are what Run is told.
type Options struct {
	Files logs.Files
	Sent  string // the path of what says how far the log has been sent
	// Buffer is how many bytes may wait to be sent before some are left out; 0: none are left out.
	Buffer int64
	Wait   tail.Wait
}

// Run sends a log until Wait says that there will be no more, and all is sent or ctx has ended.
func (c *Connection) Run(ctx context.Context, o Options) error {
	sent, from, err := logs.OpenSent(o.Sent)
	if err != nil {
		return err
	}
	defer sent.Close()
	send := func(e logs.Entry, next tail.Position) error {
		if err := c.Send(ctx, e); err != nil {
			return err
		}
		return sent.Set(next)
	}
	if o.Buffer == 0 {
		return logs.Unsent(o.Files, from, o.Wait, send)
	}
	b := newBuffer(o.Buffer)
	done := make(chan error, 1)
	go func() { done <- b.empty(send) }()
	err = logs.Unsent(o.Files, from, o.Wait, b.put)
	b.end()
	return errors.Join(err, <-done)
}

// Tag is a container's tag, by docker's template.
func Tag(l container.LogConfig, f container.TagFacts) (string, error) {
	text := l.Options["tag"]
	if text == "" {
		text = container.DefaultTag
	}
	t, err := template.New("log-tag").Funcs(template.FuncMap{
		"join": strings.Join, "lower": strings.ToLower, "upper": strings.ToUpper, "split": strings.Split,
		"truncate": func(s string, n int) string { return s[:min(max(n, 0), len(s))] },
	}).Parse(text)
	var b strings.Builder
	if err == nil {
		err = t.Execute(&b, tagData{f, l})
	}
	if err != nil {
		return "", errdef.New(errdef.Invalid, "cannot read the log tag %q: %v", text, err)
	}
	return b.String(), nil
}

// tagData is what docker's templates of tags see: its methods are their fields.
type tagData struct {
	facts container.TagFacts
	log   container.LogConfig
}

func (d tagData) ID() string          { return d.facts.Names()["ID"] }
func (d tagData) FullID() string      { return d.facts.ID }
func (d tagData) Name() string        { return d.facts.Name }
func (d tagData) ImageID() string     { return d.facts.Names()["ImageID"] }
func (d tagData) ImageFullID() string { return d.facts.ImageID }
func (d tagData) ImageName() string   { return d.facts.ImageName }
func (d tagData) DaemonName() string  { return d.facts.Names()["DaemonName"] }
func (d tagData) Command() string     { return strings.Join(d.facts.Config.Args(), " ") }

// ExtraAttributes are the labels and variables asked for; key, unless it is nil, changes their names.
func (d tagData) ExtraAttributes(key func(string) string) map[string]string {
	all := map[string]string{}
	for name, value := range d.log.Attributes(d.facts) {
		if key != nil {
			name = key(name)
		}
		all[name] = value
	}
	return all
}

// Matches are the names that one of the options labels-regex and env-regex matches.
func Matches(expression string, names []string) ([]string, error) {
	if expression == "" {
		return nil, nil
	}
	re, err := regexp.Compile(expression)
	if err != nil {
		return nil, errdef.New(errdef.Invalid, "cannot read the pattern of a log option: %v", err)
	}
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return !re.MatchString(n) }), nil
}
