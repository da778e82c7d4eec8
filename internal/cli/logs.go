package cli

import (
	"bufio"
	"errors"
	"io"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"berth/internal/errdef"
	"berth/internal/logs"
	"berth/internal/runtime/monitor"
	"berth/internal/tail"
)

func (c *call) cmdLogs() error {
	e, of, err := c.container()
	if err != nil {
		return err
	}
	files, kept := monitor.LogFiles(e.Containers, of)
	if !kept || !of.Config.Log.Readable() {
		return errdef.Hint(errdef.New(errdef.Unsupported, "configured logging driver does not support reading"), "container %s has --log-driver %s", of.Name, of.Config.Log.DriverName())
	}
	q := logs.Query{}
	if q.Tail, err = tailCount(c.options.tail); err != nil {
		return err
	}
	if q.Since, err = parseTime(c.options.since); err != nil {
		return err
	}
	if q.Until, err = parseTime(c.options.until); err != nil {
		return err
	}
	if c.options.follow {
		watch, err := tail.NewWatch(e.Containers.Dir(of.ID), e.Containers.RunDir(of.ID))
		if err != nil {
			return err
		}
		defer watch.Close()
		q.Follow = func() bool {
			if c.context().Err() != nil || !q.Until.IsZero() && time.Now().After(q.Until) || !e.Containers.Monitored(of.ID) {
				return false
			}
			watch.Wait(c.context(), 100*time.Millisecond) // the end of a monitor, or of the time, changes nothing there
			return true
		}
		if _, _, err := e.Status(of); err != nil {
			return err
		}
	}
	size := 64 << 10
	if c.options.follow {
		size = 0
	}
	out, errs := bufio.NewWriterSize(c.out, size), bufio.NewWriterSize(c.err, size)
	err = logs.Read(files, q, func(l logs.Entry) error {
		w := out
		if l.Stream == logs.Stderr.String() {
			w = errs
		}
		if err := c.printEntry(w, l); err != nil || !c.options.follow {
			return err
		}
		return w.Flush()
	})
	return errors.Join(err, out.Flush(), errs.Flush())
}

// tailCount reads --tail; all, like a number below 0, is -1.
func tailCount(s string) (int, error) {
	if s == "" || s == "all" {
		return -1, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0, errdef.New(errdef.Invalid, "invalid value %q for --tail: it is a number or all", s)
	}
	return max(n, -1), nil
}

// printEntry prints an entry of a log: time, details and text.
func (c *call) printEntry(w *bufio.Writer, l logs.Entry) error {
	if c.options.timestamps {
		if _, err := w.WriteString(l.Time.Format("2006-01-02T15:04:05.000000000Z07:00") + " "); err != nil {
			return err
		}
	}
	if c.options.details {
		if _, err := io.WriteString(w, details(l.Attributes)+" "); err != nil {
			return err
		}
	}
	_, err := w.WriteString(l.Text)
	return err
}

// details is how docker prints attributes: as in the query of a URL, with commas.
func details(attributes map[string]string) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(attributes)) {
		parts = append(parts, url.QueryEscape(name)+"="+url.QueryEscape(attributes[name]))
	}
	return strings.Join(parts, ",")
}

// parseTime reads what --since and --until take: RFC 3339 with parts left out, a Unix time, or how long ago.
func parseTime(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(s); err == nil {
		return time.Now().Add(-d), nil
	}
	for _, layout := range []string{"2006-01-02T15:04:05.999999999", "2006-01-02T15:04", "2006-01-02T15", "2006-01-02"} {
		for _, zone := range []string{"Z07:00", ""} {
			if t, err := time.ParseInLocation(layout+zone, s, time.Local); err == nil {
				return t, nil
			}
		}
	}
	whole, part, _ := strings.Cut(s, ".")
	seconds, err := strconv.ParseInt(whole, 10, 64)
	nanos, partErr := strconv.ParseUint((part + "000000000")[:max(9, len(part))], 10, 64)
	if err == nil && partErr == nil && len(part) <= 9 {
		return time.Unix(seconds, int64(nanos)), nil
	}
	return time.Time{}, errdef.New(errdef.Invalid, "invalid time %q: it is a duration like 10m, a time like 2006-01-02T15:04:05Z, or seconds since 1970", s)
}
