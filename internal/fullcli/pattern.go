package fullcli

import "regexp"

// Pattern is a regular expression that is to be found anywhere in a text.
func Pattern(expression string) (func(string) bool, error) {
	r, err := regexp.Compile(expression)
	if err != nil {
		return nil, err
	}
	return r.MatchString, nil
}
