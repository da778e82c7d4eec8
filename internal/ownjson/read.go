package ownjson

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// maxDepth is how deep values may be in each other.
const maxDepth = 1000

// Unmarshal reads data into what v points to, as json.Unmarshal does.
func Unmarshal(data []byte, v any) error {
	p := reflect.ValueOf(v)
	if p.Kind() != reflect.Pointer || p.IsNil() {
		return &json.InvalidUnmarshalError{Type: reflect.TypeOf(v)}
	}
	r := reader{data: data}
	err := r.value(p.Elem())
	if r.next(); err == nil && r.at < len(r.data) {
		err = r.wrong("something after the value")
	}
	return err
}

type reader struct {
	data  []byte
	at    int
	depth int
}

func (r *reader) wrong(what string) error {
	return fmt.Errorf("not the JSON that was written: %s at byte %d", what, r.at)
}

// next is the next byte that is no space; 0 at the end.
func (r *reader) next() byte {
	for ; r.at < len(r.data); r.at++ {
		switch c := r.data[r.at]; c {
		case ' ', '\t', '\n', '\r':
		default:
			return c
		}
	}
	return 0
}

// take takes the next byte, if it is that one.
func (r *reader) take(c byte) bool {
	if r.next() != c {
		return false
	}
	r.at++
	return true
}

// word takes null, true or false.
func (r *reader) word(w string) bool {
	if r.next() != w[0] || len(r.data)-r.at < len(w) || string(r.data[r.at:r.at+len(w)]) != w {
		return false
	}
	r.at += len(w)
	return true
}

// value reads the next value into v.
func (r *reader) value(v reflect.Value) error {
	if !plain(v.Type()) {
		raw, err := r.raw()
		if err != nil {
			return err
		}
		return json.Unmarshal(raw, v.Addr().Interface())
	}
	if r.word("null") {
		switch v.Kind() {
		case reflect.Pointer, reflect.Slice, reflect.Map:
			v.SetZero()
		}
		return nil
	}
	switch v.Kind() {
	case reflect.Bool:
		return r.boolean(v)
	case reflect.String:
		s, err := r.text()
		v.SetString(s)
		return err
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		n, err := strconv.ParseInt(string(r.number()), 10, v.Type().Bits())
		if err != nil {
			return r.mismatch(v, err)
		}
		v.SetInt(n)
		return nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		n, err := strconv.ParseUint(string(r.number()), 10, v.Type().Bits())
		if err != nil {
			return r.mismatch(v, err)
		}
		v.SetUint(n)
		return nil
	case reflect.Pointer:
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		return r.value(v.Elem())
	}
	if r.depth++; r.depth > maxDepth {
		return r.wrong("too many values in each other")
	}
	defer func() { r.depth-- }()
	switch v.Kind() {
	case reflect.Slice:
		return r.slice(v)
	case reflect.Map:
		return r.table(v)
	}
	return r.object(v)
}

func (r *reader) mismatch(v reflect.Value, err error) error {
	if e, ok := errors.AsType[*strconv.NumError](err); ok {
		err = e.Err
	}
	return r.wrong(fmt.Sprintf("no %s: %v", v.Type(), err))
}

func (r *reader) boolean(v reflect.Value) error {
	switch {
	case r.word("true"):
		v.SetBool(true)
	case r.word("false"):
		v.SetBool(false)
	default:
		return r.wrong("neither true nor false")
	}
	return nil
}

// number takes what may be an integer of JSON, which has no zeros before it.
func (r *reader) number() []byte {
	r.next()
	begin := r.at
	if r.at < len(r.data) && r.data[r.at] == '-' {
		r.at++
	}
	digits := r.at
	for r.at < len(r.data) && r.data[r.at] >= '0' && r.data[r.at] <= '9' {
		r.at++
	}
	if r.at-digits > 1 && r.data[digits] == '0' {
		return nil
	}
	return r.data[begin:r.at]
}

// elements calls element for each element of a list or an object, up to the byte that ends it.
func (r *reader) elements(begin, end byte, element func() error) error {
	if !r.take(begin) {
		return r.wrong("no " + string(begin))
	}
	if r.take(end) {
		return nil
	}
	for {
		if err := element(); err != nil {
			return err
		}
		if r.take(end) {
			return nil
		}
		if !r.take(',') {
			return r.wrong("neither , nor " + string(end))
		}
	}
}

// key reads a name and the colon after it.
func (r *reader) key() (string, error) {
	key, err := r.text()
	if err == nil && !r.take(':') {
		err = r.wrong("no :")
	}
	return key, err
}

func (r *reader) slice(v reflect.Value) error {
	v.Set(reflect.MakeSlice(v.Type(), 0, 0))
	return r.elements('[', ']', func() error {
		n := v.Len()
		v.Grow(1)
		v.SetLen(n + 1)
		v.Index(n).SetZero()
		return r.value(v.Index(n))
	})
}

func (r *reader) table(v reflect.Value) error {
	if v.IsNil() {
		v.Set(reflect.MakeMap(v.Type()))
	}
	return r.elements('{', '}', func() error {
		key, err := r.key()
		if err != nil {
			return err
		}
		element := reflect.New(v.Type().Elem()).Elem()
		if err := r.value(element); err != nil {
			return err
		}
		v.SetMapIndex(reflect.ValueOf(key).Convert(v.Type().Key()), element)
		return nil
	})
}

func (r *reader) object(v reflect.Value) error {
	fields := fieldsOf(v.Type())
	last := -1 // fields come in the order in which they were written
	return r.elements('{', '}', func() error {
		key, err := r.key()
		if err != nil {
			return err
		}
		for range fields {
			if last++; last >= len(fields) {
				last = 0
			}
			if f := &fields[last]; f.name == key {
				if f.left {
					return &json.UnsupportedTypeError{Type: f.t}
				}
				return r.value(v.FieldByIndex(f.index))
			}
		}
		_, err = r.raw() // of a later version
		return err
	})
}

// text reads a string.
func (r *reader) text() (string, error) {
	if !r.take('"') {
		return "", r.wrong("no string")
	}
	begin := r.at
	for ; r.at < len(r.data); r.at++ {
		switch c := r.data[r.at]; {
		case c == '"':
			s := string(r.data[begin:r.at])
			r.at++
			return s, nil
		case c == '\\' || c < ' ' || c >= utf8.RuneSelf:
			return r.escaped(begin)
		}
	}
	return "", r.wrong("a string without an end")
}

// escaped reads a string with what is not the same in JSON, from begin on; r.at is at the first such byte.
func (r *reader) escaped(begin int) (string, error) {
	s := append(make([]byte, 0, 2*(r.at-begin)+32), r.data[begin:r.at]...)
	for r.at < len(r.data) {
		c := r.data[r.at]
		switch {
		case c == '"':
			r.at++
			return string(s), nil
		case c < ' ':
			return "", r.wrong("a control character in a string")
		case c == '\\':
			ch, ok := r.escape()
			if !ok {
				return "", r.wrong("an unknown escape")
			}
			s = utf8.AppendRune(s, ch)
		case c < utf8.RuneSelf:
			s = append(s, c)
			r.at++
		default:
			ch, n := utf8.DecodeRune(r.data[r.at:])
			s = utf8.AppendRune(s, ch) // U+FFFD for what is not UTF-8
			r.at += n
		}
	}
	return "", r.wrong("a string without an end")
}

// escape reads a backslash and what follows it.
func (r *reader) escape() (rune, bool) {
	if r.at+1 >= len(r.data) {
		return 0, false
	}
	c := r.data[r.at+1]
	r.at += 2
	switch c {
	case '"', '\\', '/':
		return rune(c), true
	case 'b':
		return '\b', true
	case 'f':
		return '\f', true
	case 'n':
		return '\n', true
	case 'r':
		return '\r', true
	case 't':
		return '\t', true
	case 'u':
		ch, ok := r.hex(r.at)
		if !ok {
			return 0, false
		}
		r.at += 4
		if !utf16.IsSurrogate(ch) {
			return ch, true
		}
		if r.at+1 < len(r.data) && r.data[r.at] == '\\' && r.data[r.at+1] == 'u' {
			if low, ok := r.hex(r.at + 2); ok {
				if both := utf16.DecodeRune(ch, low); both != utf8.RuneError {
					r.at += 6
					return both, true
				}
			}
		}
		return utf8.RuneError, true
	}
	return 0, false
}

// hex is the number that four hexadecimal digits say.
func (r *reader) hex(at int) (rune, bool) {
	if at+4 > len(r.data) {
		return 0, false
	}
	var n rune
	for _, c := range r.data[at : at+4] {
		switch {
		case c >= '0' && c <= '9':
			n = n<<4 | rune(c-'0')
		case c >= 'a' && c <= 'f':
			n = n<<4 | rune(c-'a'+10)
		case c >= 'A' && c <= 'F':
			n = n<<4 | rune(c-'A'+10)
		default:
			return 0, false
		}
	}
	return n, true
}

// raw takes the next value as it is written. Whether it is right inside is for whoever reads it, or for nobody.
func (r *reader) raw() ([]byte, error) {
	r.next()
	begin := r.at
	depth := 0
	for r.at < len(r.data) {
		switch c := r.data[r.at]; c {
		case '"':
			if _, err := r.text(); err != nil {
				return nil, err
			}
		case '{', '[':
			depth++
			r.at++
		case '}', ']':
			if depth == 0 {
				return r.ended(begin)
			}
			depth--
			r.at++
		case ',':
			if depth == 0 {
				return r.ended(begin)
			}
			r.at++
		default:
			r.at++
		}
		if depth == 0 && r.at < len(r.data) {
			switch r.data[r.at-1] {
			case '"', '}', ']':
				return r.ended(begin)
			}
		}
	}
	return r.ended(begin)
}

func (r *reader) ended(begin int) ([]byte, error) {
	raw := r.data[begin:r.at]
	if !json.Valid(raw) {
		return nil, r.wrong("no value")
	}
	return raw, nil
}
