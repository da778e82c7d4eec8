package ownjson

import (
	"encoding/json"
	"reflect"
	"slices"
	"strconv"
	"unicode/utf8"
)

// Marshal is what json.Marshal returns of v.
func Marshal(v any) ([]byte, error) {
	if v == nil {
		return []byte("null"), nil
	}
	return write(make([]byte, 0, 512), reflect.ValueOf(v))
}

// write appends the JSON of a value.
func write(to []byte, v reflect.Value) ([]byte, error) {
	if !plain(v.Type()) {
		return writeLeft(to, v)
	}
	switch v.Kind() {
	case reflect.Bool:
		return strconv.AppendBool(to, v.Bool()), nil
	case reflect.String:
		return quote(to, v.String()), nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return strconv.AppendInt(to, v.Int(), 10), nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return strconv.AppendUint(to, v.Uint(), 10), nil
	case reflect.Pointer:
		if v.IsNil() {
			return append(to, "null"...), nil
		}
		return write(to, v.Elem())
	case reflect.Slice:
		return writeSlice(to, v)
	case reflect.Map:
		return writeMap(to, v)
	}
	return writeStruct(to, v)
}

func writeLeft(to []byte, v reflect.Value) ([]byte, error) {
	if v.CanAddr() {
		v = v.Addr() // its methods may be the pointer's
	}
	data, err := json.Marshal(v.Interface())
	return append(to, data...), err
}

func writeStruct(to []byte, v reflect.Value) (_ []byte, err error) {
	to = append(to, '{')
	first := true
	for _, f := range fieldsOf(v.Type()) {
		value := v.FieldByIndex(f.index)
		if f.omitEmpty && empty(value) || f.omitZero && zero(value) {
			continue
		}
		if !first {
			to = append(to, ',')
		}
		first = false
		to = append(quote(to, f.name), ':')
		if f.left {
			return nil, &json.UnsupportedTypeError{Type: f.t}
		}
		if to, err = write(to, value); err != nil {
			return nil, err
		}
	}
	return append(to, '}'), nil
}

// empty is what omitempty leaves out.
func empty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Array, reflect.Map, reflect.Slice, reflect.String:
		return v.Len() == 0
	case reflect.Struct:
		return false
	}
	return v.IsZero()
}

// zero is what omitzero leaves out.
func zero(v reflect.Value) bool {
	if z, ok := v.Interface().(interface{ IsZero() bool }); ok {
		return v.Kind() == reflect.Pointer && v.IsNil() || z.IsZero()
	}
	return v.IsZero()
}

func writeSlice(to []byte, v reflect.Value) (_ []byte, err error) {
	if v.IsNil() {
		return append(to, "null"...), nil
	}
	to = append(to, '[')
	for i := range v.Len() {
		if i > 0 {
			to = append(to, ',')
		}
		if to, err = write(to, v.Index(i)); err != nil {
			return nil, err
		}
	}
	return append(to, ']'), nil
}

func writeMap(to []byte, v reflect.Value) (_ []byte, err error) {
	if v.IsNil() {
		return append(to, "null"...), nil
	}
	keys := make([]string, 0, v.Len())
	for _, k := range v.MapKeys() {
		keys = append(keys, k.String())
	}
	slices.Sort(keys)
	to = append(to, '{')
	for i, k := range keys {
		if i > 0 {
			to = append(to, ',')
		}
		to = append(quote(to, k), ':')
		if to, err = write(to, v.MapIndex(reflect.ValueOf(k).Convert(v.Type().Key()))); err != nil {
			return nil, err
		}
	}
	return append(to, '}'), nil
}

const hex = "0123456789abcdef"

// quote appends a string as encoding/json writes it: safe in HTML and in JavaScript, what is not UTF-8 replaced.
func quote(to []byte, s string) []byte {
	to = append(to, '"')
	start := 0
	for i := 0; i < len(s); {
		if c := s[i]; c < utf8.RuneSelf {
			if c >= ' ' && c != '"' && c != '\\' && c != '<' && c != '>' && c != '&' {
				i++
				continue
			}
			to = append(to, s[start:i]...)
			switch c {
			case '"', '\\':
				to = append(to, '\\', c)
			case '\b':
				to = append(to, `\b`...)
			case '\f':
				to = append(to, `\f`...)
			case '\n':
				to = append(to, `\n`...)
			case '\r':
				to = append(to, `\r`...)
			case '\t':
				to = append(to, `\t`...)
			default:
				to = append(to, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
			}
			i++
			start = i
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			to = append(append(to, s[start:i]...), `\ufffd`...)
			start = i + n
		case r == '\u2028' || r == '\u2029':
			to = append(append(to, s[start:i]...), `\u202`...)
			to = append(to, hex[r&15])
			start = i + n
		}
		i += n
	}
	return append(append(to, s[start:]...), '"')
}
