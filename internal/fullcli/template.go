package fullcli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/template"

	"berth/internal/errdef"
)

// Template prints each row by a Go template with docker's functions, a line each. "table TEMPLATE" prints a head, too.
func Template(w io.Writer, format string, rows []any) error {
	format = strings.NewReplacer(`\t`, "\t", `\n`, "\n").Replace(format)
	format, head := strings.CutPrefix(format, "table ")
	t, err := template.New("format").Funcs(template.FuncMap{
		"json": func(v any) (string, error) {
			b, err := json.Marshal(v)
			return string(b), err
		},
		"join": strings.Join, "split": strings.Split, "lower": strings.ToLower, "upper": strings.ToUpper,
		"title": func(s string) string { return strings.ToUpper(s[:min(1, len(s))]) + s[min(1, len(s)):] },
		"pad": func(s string, before, after int) string {
			return strings.Repeat(" ", before) + s + strings.Repeat(" ", after)
		},
		"truncate": func(s string, n int) string { return s[:min(n, len(s))] },
		"println":  fmt.Sprintln,
	}).Parse(format)
	if err != nil {
		return errdef.New(errdef.Invalid, "template parsing error: %w", err)
	}
	if head {
		name := strings.NewReplacer("{{", "", "}}", "", ".", "").Replace(format)
		if _, err := fmt.Fprintln(w, strings.ToUpper(name)); err != nil {
			return err
		}
	}
	for _, row := range rows {
		var b strings.Builder
		if err := t.Execute(&b, row); err != nil {
			// Templates may also use the names of the JSON, like {{.Id}}.
			b.Reset()
			if t.Option("missingkey=error").Execute(&b, asJSON(row)) != nil {
				return errdef.New(errdef.Invalid, "template parsing error: %w", err)
			}
		}
		if _, err := fmt.Fprintln(w, b.String()); err != nil {
			return err
		}
	}
	return nil
}

// asJSON is a row as one who reads its JSON sees it.
func asJSON(row any) any {
	data, err := json.Marshal(row)
	if err != nil {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var v any
	if d.Decode(&v) != nil {
		return nil
	}
	return v
}
