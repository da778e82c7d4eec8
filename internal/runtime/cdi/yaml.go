package cdi

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"
)

// toJSON turns a specification in YAML into JSON in which each scalar is a string, or null. It reads what generators of specifications write:
// mappings and sequences by indentation, or in brackets on one line, plain and quoted scalars. What else YAML has (anchors, tags, block
// scalars, several documents) is an error. A library for the whole of YAML costs each start of the program 0.3 ms, and 650 KB.
func toJSON(data []byte) ([]byte, error) {
	if !utf8.Valid(data) {
		return nil, fmt.Errorf("it is not UTF-8")
	}
	y := &yaml{}
	for n, text := range strings.Split(strings.TrimPrefix(string(data), "\ufeff"), "\n") {
		text = withoutComment(strings.TrimSuffix(text, "\r"))
		content := strings.TrimLeft(text, " ")
		switch {
		case content == "":
			continue
		case len(y.lines) == 0 && content == "---":
			continue
		case strings.HasPrefix(content, "\t"):
			return nil, fmt.Errorf("line %d is indented by a tab", n+1)
		case text == "---" || strings.HasPrefix(text, "%"):
			return nil, fmt.Errorf("line %d: directives, and a second document, are not supported", n+1)
		case text == "...":
			return nil, fmt.Errorf("line %d: the end of a document is not supported", n+1)
		}
		y.lines = append(y.lines, line{n + 1, len(text) - len(content), content})
	}
	value, err := y.block(0, 0)
	if err != nil {
		return nil, err
	}
	if y.at < len(y.lines) {
		return nil, y.fail("it does not belong to what is above it")
	}
	return json.Marshal(value)
}

// line is a line that says something.
type line struct {
	number, indent int
	text           string
}

type yaml struct {
	lines []line
	at    int
}

// deepest bounds how deep values may be in each other.
const deepest = 32

func (y *yaml) fail(why string) error {
	number := 0
	if y.at < len(y.lines) {
		number = y.lines[y.at].number
	} else if len(y.lines) > 0 {
		number = y.lines[len(y.lines)-1].number
	}
	return fmt.Errorf("line %d: %s", number, why)
}

// withoutComment is a line without a comment, and without the spaces at its end.
func withoutComment(s string) string {
	quote := byte(0)
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case quote == '"' && c == '\\':
			i++
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
		case (c == '"' || c == '\'') && (i == 0 || strings.IndexByte(" \t[{,:-", s[i-1]) >= 0):
			quote = c
		case c == '#' && (i == 0 || s[i-1] == ' ' || s[i-1] == '\t'):
			return strings.TrimRight(s[:i], " \t")
		}
	}
	return strings.TrimRight(s, " \t")
}

// block reads the mapping or sequence that begins at the current line, whose indentation is at least least.
func (y *yaml) block(least, depth int) (any, error) {
	if y.at == len(y.lines) || y.lines[y.at].indent < least {
		return nil, nil
	}
	if depth > deepest {
		return nil, y.fail("it is too deep")
	}
	indent := y.lines[y.at].indent
	if isItem(y.lines[y.at].text) {
		return y.sequence(indent, depth)
	}
	if _, _, ok := key(y.lines[y.at].text); ok {
		return y.mapping(indent, depth)
	}
	text := y.lines[y.at].text
	y.at++
	return y.scalar(text, indent)
}

func isItem(s string) bool { return s == "-" || strings.HasPrefix(s, "- ") }

func (y *yaml) sequence(indent, depth int) (any, error) {
	all := []any{}
	for y.at < len(y.lines) && y.lines[y.at].indent == indent && isItem(y.lines[y.at].text) {
		rest := strings.TrimLeft(strings.TrimPrefix(y.lines[y.at].text, "-"), " ")
		var value any
		var err error
		_, _, isMapping := key(rest)
		switch {
		case rest == "":
			y.at++
			value, err = y.block(indent+1, depth+1)
		case isMapping || isItem(rest):
			// What follows the dash is the first line of the value.
			l := &y.lines[y.at]
			l.indent, l.text = l.indent+len(l.text)-len(rest), rest
			value, err = y.block(indent+1, depth+1)
		default:
			y.at++
			value, err = y.scalar(rest, indent)
		}
		if err != nil {
			return nil, err
		}
		all = append(all, value)
	}
	return all, nil
}

func (y *yaml) mapping(indent, depth int) (any, error) {
	all := map[string]any{}
	for y.at < len(y.lines) && y.lines[y.at].indent == indent {
		name, rest, ok := key(y.lines[y.at].text)
		if !ok {
			return nil, y.fail("it is neither KEY: VALUE nor an item of a list")
		}
		if _, twice := all[name]; twice {
			return nil, y.fail(fmt.Sprintf("the key %q is there twice", name))
		}
		y.at++
		var value any
		var err error
		switch {
		case rest != "":
			value, err = y.scalar(rest, indent)
		case y.at < len(y.lines) && y.lines[y.at].indent == indent && isItem(y.lines[y.at].text):
			value, err = y.sequence(indent, depth+1)
		default:
			value, err = y.block(indent+1, depth+1)
		}
		if err != nil {
			return nil, err
		}
		all[name] = value
	}
	return all, nil
}

// key splits KEY: VALUE.
func key(s string) (name, rest string, ok bool) {
	if s == "" || strings.IndexByte("[{", s[0]) >= 0 {
		return "", "", false
	}
	if s[0] == '"' || s[0] == '\'' {
		value, rest, err := quoted(s)
		if err != nil || rest != ":" && !strings.HasPrefix(rest, ": ") {
			return "", "", false
		}
		return value, strings.TrimLeft(rest[1:], " "), true
	}
	if name, ok := strings.CutSuffix(s, ":"); ok && !strings.Contains(name, ": ") {
		return name, "", true
	}
	name, rest, ok = strings.Cut(s, ": ")
	return name, strings.TrimLeft(rest, " "), ok
}

// scalar reads a value on the line above the current one, and the lines on which a plain one goes on: those that are indented more.
func (y *yaml) scalar(s string, indent int) (any, error) {
	if strings.IndexByte("[{\"'", s[0]) < 0 {
		for y.at < len(y.lines) && y.lines[y.at].indent > indent {
			s += " " + y.lines[y.at].text
			y.at++
		}
	}
	y.at-- // for errors
	defer func() { y.at++ }()
	value, rest, err := inline(s, "", 0)
	if err == nil && rest != "" {
		err = fmt.Errorf("there is something after the value: %q", rest)
	}
	if err != nil {
		return nil, y.fail(err.Error())
	}
	return value, nil
}

// inline reads a value from the beginning of s, which ends before one of the bytes in ends; it returns what is left.
func inline(s, ends string, depth int) (any, string, error) {
	if depth > deepest {
		return nil, "", fmt.Errorf("it is too deep")
	}
	s = strings.TrimLeft(s, " ")
	if s == "" {
		return nil, "", nil
	}
	switch s[0] {
	case '"', '\'':
		value, rest, err := quoted(s)
		return value, strings.TrimLeft(rest, " "), err
	case '[':
		return list(s[1:], depth)
	case '{':
		return object(s[1:], depth)
	case '&', '*', '!', '|', '>', '?', '@', '`', '%':
		return nil, "", fmt.Errorf("%q is not supported", s[:1])
	}
	end := len(s)
	if ends != "" {
		if i := strings.IndexAny(s, ends); i >= 0 {
			end = i
		}
	}
	text, rest := strings.TrimRight(s[:end], " "), s[end:]
	switch text {
	case "", "~", "null", "Null", "NULL":
		return nil, rest, nil
	}
	return text, rest, nil
}

func list(s string, depth int) (any, string, error) {
	all := []any{}
	for {
		if s = strings.TrimLeft(s, " "); strings.HasPrefix(s, "]") {
			return all, strings.TrimLeft(s[1:], " "), nil
		}
		value, rest, err := inline(s, ",]", depth+1)
		if err != nil {
			return nil, "", err
		}
		all = append(all, value)
		if s = rest; strings.HasPrefix(s, ",") {
			s = s[1:]
		} else if !strings.HasPrefix(s, "]") {
			return nil, "", fmt.Errorf("a list in brackets does not end on its line")
		}
	}
}

func object(s string, depth int) (any, string, error) {
	all := map[string]any{}
	for {
		if s = strings.TrimLeft(s, " "); strings.HasPrefix(s, "}") {
			return all, strings.TrimLeft(s[1:], " "), nil
		}
		name, rest, err := inline(s, ":,}", depth+1)
		if err != nil {
			return nil, "", err
		}
		key, ok := name.(string)
		if !ok || !strings.HasPrefix(rest, ":") {
			return nil, "", fmt.Errorf("a mapping in braces does not end on its line")
		}
		value, rest, err := inline(rest[1:], ",}", depth+1)
		if err != nil {
			return nil, "", err
		}
		all[key] = value
		if s = rest; strings.HasPrefix(s, ",") {
			s = s[1:]
		} else if !strings.HasPrefix(s, "}") {
			return nil, "", fmt.Errorf("a mapping in braces does not end on its line")
		}
	}
}

// quoted reads a quoted scalar from the beginning of s.
func quoted(s string) (value, rest string, err error) {
	if s[0] == '\'' {
		var b strings.Builder
		for i := 1; i < len(s); i++ {
			if s[i] != '\'' {
				b.WriteByte(s[i])
				continue
			}
			if i+1 < len(s) && s[i+1] == '\'' {
				b.WriteByte('\'')
				i++
				continue
			}
			return b.String(), s[i+1:], nil
		}
		return "", "", fmt.Errorf("a quoted text does not end on its line")
	}
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			// The escapes that JSON has, too, are those that are written.
			if err := json.Unmarshal([]byte(s[:i+1]), &value); err != nil {
				return "", "", fmt.Errorf("cannot read the text %s: %w", s[:i+1], err)
			}
			return value, s[i+1:], nil
		}
	}
	return "", "", fmt.Errorf("a quoted text does not end on its line")
}
