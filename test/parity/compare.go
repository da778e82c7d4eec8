package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// difference is one that no allowance is for.
type difference struct {
	what, docker, berth string
}

// compare decides how the answers to a step differ beyond what is allowed, and which allowances nothing needed.
func compare(s step, everywhere []allowance, docker, berth answer) (found []difference, unneeded []allowance) {
	needed := make([]bool, len(s.Allowed))
	allow := func(what string, matches func(allowance) bool) bool {
		for i, a := range s.Allowed {
			if under(a.What, what) && matches(a) {
				needed[i] = true
				return true
			}
		}
		return slices.ContainsFunc(everywhere, func(a allowance) bool { return under(a.What, what) && matches(a) })
	}
	if docker.Exit != berth.Exit && !allow("exit", func(a allowance) bool { return a.Exit == berth.Exit }) {
		found = append(found, difference{"exit", fmt.Sprint(docker.Exit), fmt.Sprint(berth.Exit)})
	}
	if d, b, ok := bothJSON(docker.Stdout, berth.Stdout); ok {
		for _, difference := range compareJSON(d, b) {
			if !allow("json "+difference.what, func(allowance) bool { return true }) {
				difference.what = "json " + difference.what
				found = append(found, difference)
			}
		}
	} else if d, b := normal(docker.Stdout), normal(berth.Stdout); !slices.Equal(d, b) &&
		!allow("stdout", func(a allowance) bool { return slices.Equal(a.Berth, b) }) {
		found = append(found, difference{"stdout", strings.Join(d, "\n"), strings.Join(b, "\n")})
	}
	if d, b := said(docker.Stderr), said(berth.Stderr); !saysSo(d, b) &&
		!allow("stderr", func(a allowance) bool { return slices.Equal(a.Berth, b) }) {
		found = append(found, difference{"stderr", strings.Join(d, "\n"), strings.Join(b, "\n")})
	}
	for i, a := range s.Allowed {
		if !needed[i] {
			unneeded = append(unneeded, a)
		}
	}
	return found, unneeded
}

// saysSo reports whether both say something or nothing, and berth says what scripts look for in what docker says.
func saysSo(docker, berth []string) bool {
	if len(docker) == 0 || len(berth) == 0 {
		return len(docker) == len(berth)
	}
	text, ours := strings.Join(docker, "\n"), strings.ToLower(strings.Join(berth, "\n"))
	for _, p := range phrases {
		if phrase := p.FindString(text); phrase != "" && !strings.Contains(ours, strings.ToLower(phrase)) {
			return false
		}
	}
	return true
}

// under reports whether what is covered: the same, or a path of JSON below it, with * for any one part.
func under(covers, what string) bool {
	path, ofJSON := strings.CutPrefix(covers, "json ")
	if inner, is := strings.CutPrefix(what, "json "); is != ofJSON {
		return false
	} else if is {
		what = inner
	}
	c, w := strings.Split(path, "."), strings.Split(what, ".")
	if len(c) > len(w) {
		return false
	}
	for i := range c {
		if c[i] != w[i] && c[i] != "*" {
			return false
		}
	}
	return len(c) == len(w) || ofJSON
}

// bothJSON reads both as JSON, if both are objects, lists, or lines of those.
func bothJSON(docker, berth string) (d, b any, ok bool) {
	d, ok = readJSON(docker)
	if !ok {
		return nil, nil, false
	}
	b, ok = readJSON(berth)
	return d, b, ok
}

func readJSON(text string) (any, bool) {
	text = strings.TrimSpace(text)
	if !strings.HasPrefix(text, "{") && !strings.HasPrefix(text, "[") {
		return nil, false
	}
	var all []any
	for d := json.NewDecoder(bytes.NewReader([]byte(text))); d.More(); {
		var v any
		if d.Decode(&v) != nil {
			return nil, false
		}
		all = append(all, v)
	}
	if len(all) == 1 {
		return all[0], true
	}
	return all, true
}

// compareJSON are the differences of two values: kinds, names, and what they hold, normalised. Names that only berth has are of a newer
// docker; the scenarios' outputs of whole objects show them.
func compareJSON(docker, berth any) []difference {
	var found []difference
	var at func(path string, d, b any)
	at = func(path string, d, b any) {
		switch d := d.(type) {
		case map[string]any:
			b, ok := b.(map[string]any)
			if !ok {
				break
			}
			for _, name := range slices.Sorted(maps.Keys(d)) {
				below := join(path, strings.Join(normal(name), " "))
				of, ok := b[name]
				if !ok {
					if of, ok = likeNamed(b, name); !ok {
						found = append(found, difference{below, brief(d[name]), "nothing of this name"})
						continue
					}
				}
				at(below, d[name], of)
			}
			return
		case []any:
			b, ok := b.([]any)
			if !ok || len(b) != len(d) {
				break
			}
			if strings.HasSuffix(path, "Mounts") { // docker has them in a map, and prints them as they come
				byDestination(d)
				byDestination(b)
			}
			for i := range d {
				at(join(path, fmt.Sprint(i)), d[i], b[i])
			}
			return
		case string:
			if b, ok := b.(string); ok && slices.Equal(normal(d), normal(b)) {
				return
			}
		case float64:
			// Numbers that differ from run to run have names that say so.
			if b, ok := b.(float64); ok && (d == b || slices.Contains([]string{"Pid", "Size", "SizeRw", "SizeRootFs", "time", "timeNano", "VirtualSize"}, path[strings.LastIndexByte(path, '.')+1:])) {
				return
			}
		default:
			if d == b {
				return
			}
		}
		found = append(found, difference{path, brief(d), brief(b)})
	}
	at("", docker, berth)
	return found
}

func byDestination(mounts []any) {
	at := func(m any) string {
		fields, _ := m.(map[string]any)
		return fmt.Sprint(fields["Destination"], fields["Target"])
	}
	slices.SortFunc(mounts, func(a, b any) int { return strings.Compare(at(a), at(b)) })
}

// likeNamed finds what is named so but for ids, as layers and endpoints are.
func likeNamed(of map[string]any, name string) (any, bool) {
	want := normal(name)
	if slices.Equal(want, []string{name}) {
		return nil, false
	}
	for n, v := range of {
		if slices.Equal(normal(n), want) {
			return v, true
		}
	}
	return nil, false
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func brief(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	text := strings.Join(normal(string(data)), " ")
	return text[:min(len(text), 300)]
}
