package cli

import "strings"

// pattern reads a regular expression of a filter, which is to be found anywhere in a name or an ID. What has no special characters but ^ and
// $ at its ends is compared here; for the rest the full program is needed. As with docker, one that cannot be read matches itself alone.
func (c *call) pattern(expression string) (func(string) bool, error) {
	switch {
	case !strings.ContainsAny(strings.TrimSuffix(strings.TrimPrefix(expression, "^"), "$"), `\.+*?()|[]{}^$`):
		return func(s string) bool { return anchored(s, expression) }, nil
	case c.programs.Pattern == nil:
		return nil, c.become()
	}
	found, err := c.programs.Pattern(expression)
	if err != nil {
		return func(s string) bool { return s == expression }, nil //nolint:nilerr // docker's way
	}
	return found, nil
}

// anchored reports whether s contains the pattern, which may have ^ and $ at its ends as a regular expression has them.
func anchored(s, pattern string) bool {
	pattern, begins := strings.CutPrefix(pattern, "^")
	pattern, ends := strings.CutSuffix(pattern, "$")
	switch {
	case begins && ends:
		return s == pattern
	case begins:
		return strings.HasPrefix(s, pattern)
	case ends:
		return strings.HasSuffix(s, pattern)
	}
	return strings.Contains(s, pattern)
}
