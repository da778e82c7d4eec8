package fullcli

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"berth/internal/cli"
	"berth/internal/errdef"
	"berth/internal/image/reference"
	"berth/internal/image/registry"
)

// searchRow is a repository as search shows it; the names of its fields are docker's.
type searchRow struct {
	Description string
	IsAutomated string
	IsOfficial  string
	Name        string
	StarCount   string
}

const (
	searchLimit    = 25
	mostFound      = 100
	descriptionMax = 45
)

func search(c cli.Call) error {
	limit := searchLimit
	if text := option(c, "limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > mostFound {
			return errdef.New(errdef.Invalid, "limit %s is outside the range of [1, %d]", text, mostFound)
		}
		limit = n
	}
	keep, err := searchFilters(c.Options["filter"])
	if err != nil {
		return err
	}
	domain, term := reference.DefaultDomain, c.Args[0]
	if first, rest, ok := strings.Cut(term, "/"); ok && (strings.ContainsAny(first, ".:") || first == "localhost") {
		if domain, err = registry.Domain(first); err != nil {
			return err
		}
		term = rest
	}
	client := newClient(c)
	defer client.Close()
	found, err := client.Search(c.Context, domain, term, limit)
	if err != nil {
		return fmt.Errorf("cannot search %s for %q: %w", domain, term, err)
	}
	var rows []any
	var cells [][]string
	mark := func(b bool) string {
		if b {
			return "[OK]"
		}
		return ""
	}
	for _, f := range found {
		if !keep(f) {
			continue
		}
		description := strings.Join(strings.Fields(f.Description), " ")
		if text := []rune(description); option(c, "no-trunc") != "true" && len(text) > descriptionMax {
			description = string(text[:descriptionMax-1]) + "…"
		}
		row := searchRow{description, mark(f.IsAutomated), mark(f.IsOfficial), f.Name, strconv.Itoa(f.StarCount)}
		rows = append(rows, row)
		cells = append(cells, []string{row.Name, row.Description, row.StarCount, row.IsOfficial})
	}
	switch format := option(c, "format"); format {
	case "", "table":
		return cli.Table(c.Out, []string{"NAME", "DESCRIPTION", "STARS", "OFFICIAL"}, cells)
	case "json":
		enc := json.NewEncoder(c.Out)
		for _, row := range rows {
			if err := enc.Encode(row); err != nil {
				return err
			}
		}
		return nil
	default:
		return Template(c.Out, format, map[string]string{"StarCount": "STARS", "IsOfficial": "OFFICIAL", "IsAutomated": "AUTOMATED"}, rows)
	}
}

// searchFilters reads docker's filters of search: all must be met.
func searchFilters(filters []string) (func(registry.Found) bool, error) {
	var all []func(registry.Found) bool
	for _, f := range filters {
		key, value, _ := strings.Cut(f, "=")
		yes, err := strconv.ParseBool(value)
		switch key {
		case "stars":
			n, e := strconv.Atoi(value)
			err = e
			all = append(all, func(f registry.Found) bool { return f.StarCount >= n })
		case "is-official":
			all = append(all, func(f registry.Found) bool { return f.IsOfficial == yes })
		case "is-automated":
			all = append(all, func(f registry.Found) bool { return f.IsAutomated == yes })
		default:
			return nil, errdef.New(errdef.Invalid, "invalid filter '%s'", key)
		}
		if err != nil {
			return nil, errdef.New(errdef.Invalid, "invalid filter '%s=%s'", key, value)
		}
	}
	return func(f registry.Found) bool {
		return !slices.ContainsFunc(all, func(met func(registry.Found) bool) bool { return !met(f) })
	}, nil
}
