package fullcli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"text/template"
	"text/template/parse"
	"unicode"

	"berth/internal/cli"
	"berth/internal/errdef"
)

// Template prints each row by a Go template with docker's functions, a line each. "table TEMPLATE" prints columns under heads: those
// of heads, or their fields' names.
func Template(w io.Writer, format string, heads map[string]string, rows []any) error {
	format = strings.NewReplacer(`\t`, "\t", `\n`, "\n").Replace(format)
	format, columns := strings.CutPrefix(format, "table ")
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
		return cli.UnreadableTemplate{Err: errdef.New(errdef.Invalid, "template parsing error: %w", err)}
	}
	if !columns {
		return lines(w, t, rows)
	}
	table := tabwriter.NewWriter(w, 10, 1, 3, ' ', 0) // docker's
	if err := printHead(table, format, heads); err != nil {
		return err
	}
	if err := lines(table, t, rows); err != nil {
		return err
	}
	return table.Flush()
}

func lines(w io.Writer, t *template.Template, rows []any) error {
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

// head is a row that has for every field its column's head.
type head map[string]string

// Label is the head of the column of a label.
func (head) Label(name string) string {
	return strings.NewReplacer("-", " ", "_", " ").Replace(name[strings.LastIndexByte(name, '.')+1:])
}

// printHead prints the template for the heads of columns. What it does to values that are no text it does not do to heads.
func printHead(w io.Writer, format string, heads map[string]string) error {
	asIs := func(v any, _ ...any) any { return v }
	last := func(args ...any) any { return args[len(args)-1] }
	t, err := template.New("head").Funcs(template.FuncMap{
		"json": asIs, "join": asIs, "split": asIs, "lower": asIs, "upper": asIs, "title": asIs, "truncate": asIs, "pad": asIs, "println": last,
	}).Parse(format)
	if err != nil {
		return errdef.New(errdef.Invalid, "template parsing error: %w", err)
	}
	row := head{}
	for _, name := range fieldsOf(t.Root) {
		if row[name] = heads[name]; row[name] == "" {
			row[name] = headOf(name)
		}
	}
	if err := t.Execute(w, row); err != nil {
		return errdef.New(errdef.Invalid, "template parsing error: %w", err)
	}
	_, err = io.WriteString(w, "\n")
	return err
}

// headOf is the head of a field: CreatedAt is "CREATED AT".
func headOf(name string) string {
	var b strings.Builder
	for i, r := range name {
		if i > 0 && unicode.IsUpper(r) && unicode.IsLower(rune(name[i-1])) {
			b.WriteByte(' ')
		}
		b.WriteRune(unicode.ToUpper(r))
	}
	return b.String()
}

// fieldsOf are the fields of the row that a template uses.
func fieldsOf(n parse.Node) []string {
	var all []string
	switch n := n.(type) {
	case *parse.ListNode:
		if n == nil {
			return nil
		}
		for _, of := range n.Nodes {
			all = append(all, fieldsOf(of)...)
		}
	case *parse.ActionNode:
		all = fieldsOf(n.Pipe)
	case *parse.PipeNode:
		if n == nil {
			return nil
		}
		for _, of := range n.Cmds {
			all = append(all, fieldsOf(of)...)
		}
	case *parse.CommandNode:
		for _, of := range n.Args {
			all = append(all, fieldsOf(of)...)
		}
	case *parse.FieldNode:
		all = n.Ident[:1]
	case *parse.IfNode:
		all = slices.Concat(fieldsOf(n.Pipe), fieldsOf(n.List), fieldsOf(n.ElseList))
	case *parse.WithNode:
		all = slices.Concat(fieldsOf(n.Pipe), fieldsOf(n.List), fieldsOf(n.ElseList))
	case *parse.RangeNode:
		all = slices.Concat(fieldsOf(n.Pipe), fieldsOf(n.List), fieldsOf(n.ElseList))
	}
	return all
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
