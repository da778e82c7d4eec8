package image

import (
	"encoding/json"
	"strings"

	"berth/internal/errdef"
)

const (
	maxJSONDepth  = 64
	maxJSONFields = 1000
)

// field is one field of a JSON object.
type field struct {
	name  string // in lower case, because encoding/json takes "Layers" for "layers"
	value []byte // as it stands there, with the white space around it
}

type fieldSet []field

func (f fieldSet) has(name string) bool {
	for i := range f {
		if f[i].name == name {
			return true
		}
	}
	return false
}

// text returns the field name, which must be a string or null; "" if there is none.
func (f fieldSet) text(name string) (s string, err error) {
	for i := range f {
		if f[i].name == name {
			if err := json.Unmarshal(f[i].value, &s); err != nil {
				return "", errdef.As(errdef.Invalid, err)
			}
		}
	}
	return s, nil
}

// scan reads one JSON object and returns its fields. It refuses what encoding/json lets pass and readers
// understand differently: a field twice, also in another case; deep nesting.
func scan(data []byte) (fieldSet, error) {
	// From here on quotes and brackets come in pairs, and nothing stands behind the first value.
	if !json.Valid(data) {
		return nil, errdef.New(errdef.Invalid, "it is not JSON")
	}
	var fields fieldSet
	depth, value := 0, 0 // value: where the value of the last field begins
	var key []byte       // the last string of the outermost object that may be a field's name
	end := func(at int) {
		if n := len(fields); n > 0 && fields[n-1].value == nil {
			fields[n-1].value = data[value:at]
		}
	}
	for i := 0; i < len(data); i++ {
		switch c := data[i]; c {
		case '{', '[':
			if depth == 0 && c == '[' {
				return nil, errdef.New(errdef.Invalid, "it is not a JSON object")
			}
			if depth++; depth > maxJSONDepth {
				return nil, errdef.New(errdef.Invalid, "its JSON is nested more than %d deep", maxJSONDepth)
			}
		case '}', ']':
			if depth--; depth == 0 {
				end(i)
			}
		case ',':
			if depth == 1 {
				end(i)
			}
		case '"':
			if depth == 0 {
				return nil, errdef.New(errdef.Invalid, "it is not a JSON object")
			}
			start := i
			for i++; data[i] != '"'; i++ {
				if data[i] == '\\' {
					i++
				}
			}
			if depth == 1 {
				key = data[start : i+1]
			}
		case ':':
			if depth != 1 {
				continue
			}
			name, err := unquote(key)
			if err != nil {
				return nil, err
			}
			// Both, because encoding/json takes the long s (U+017F) for an s and the Kelvin sign for a k.
			name = strings.ToLower(strings.ToUpper(name))
			if fields.has(name) {
				return nil, errdef.New(errdef.Invalid, "its field %q stands there twice", name)
			}
			if len(fields) == maxJSONFields {
				return nil, errdef.New(errdef.Invalid, "it has more than %d fields", maxJSONFields)
			}
			fields = append(fields, field{name: name})
			value = i + 1
		default:
			if depth == 0 && c != ' ' && c != '\t' && c != '\r' && c != '\n' {
				return nil, errdef.New(errdef.Invalid, "it is not a JSON object")
			}
		}
	}
	return fields, nil
}

func unquote(quoted []byte) (s string, err error) {
	err = json.Unmarshal(quoted, &s)
	return s, errdef.As(errdef.Invalid, err)
}
