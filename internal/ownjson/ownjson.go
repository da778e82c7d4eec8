// Package ownjson reads and writes the JSON of berth's own files and messages, as encoding/json does, for a process that does it once.
//
// encoding/json prepares itself for a type before it meets the first value of it: for the configuration of a container, 0.4 ms, which
// each run, exec, stop and inspect had to pay (docs/decisions/0013). Here a type costs what one look at its fields costs. What
// it writes is byte for byte what encoding/json writes. What it reads is stricter: names in the case in which they are written, nothing
// unknown skipped that is not JSON. Types that have methods for their JSON, interfaces and byte slices are left to encoding/json.
//
// It is not for what others write: manifests, configurations of images and bundles have readers of their own.
package ownjson

import (
	"encoding"
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"sync"
)

// field is a field of a struct: what it is called, and the way to it, through structs that are embedded.
type field struct {
	name      string
	index     []int
	omitEmpty bool
	omitZero  bool
	left      bool // to encoding/json: a number or bool as a string
	t         reflect.Type
}

var known sync.Map // reflect.Type -> []field

// fieldsOf are the fields of a struct, in their order; of two with the same name the outer one.
func fieldsOf(t reflect.Type) []field {
	if f, ok := known.Load(t); ok {
		return f.([]field)
	}
	fields := collect(nil, t, nil)
	known.Store(t, fields)
	return fields
}

func collect(fields []field, t reflect.Type, above []int) []field {
	for i := range t.NumField() {
		f := t.Field(i)
		tag, tagged := f.Tag.Lookup("json")
		if tag == "-" {
			continue
		}
		name, options, _ := strings.Cut(tag, ",")
		index := append(above[:len(above):len(above)], i)
		if f.Anonymous && name == "" && f.Type.Kind() == reflect.Struct {
			fields = collect(fields, f.Type, index)
			continue
		}
		if !f.IsExported() {
			continue
		}
		if name == "" {
			name = f.Name
		}
		n := field{name: name, index: index, t: f.Type}
		for tagged && options != "" {
			var option string
			option, options, _ = strings.Cut(options, ",")
			n.omitEmpty = n.omitEmpty || option == "omitempty"
			n.omitZero = n.omitZero || option == "omitzero"
			n.left = n.left || option == "string"
		}
		fields = add(fields, n)
	}
	return fields
}

// add adds a field, unless one of an outer struct hides it, and hides those of inner structs.
func add(fields []field, n field) []field {
	for i := range fields {
		if fields[i].name != n.name {
			continue
		}
		if len(n.index) >= len(fields[i].index) {
			return fields
		}
		fields = slices.Delete(fields, i, i+1)
		break
	}
	return append(fields, n)
}

var (
	marshaler       = reflect.TypeFor[json.Marshaler]()
	unmarshaler     = reflect.TypeFor[json.Unmarshaler]()
	textMarshaler   = reflect.TypeFor[encoding.TextMarshaler]()
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
)

var ownMethods sync.Map // reflect.Type -> bool

// says reports whether a type says itself what its JSON is, or is one that encoding/json has rules for.
func says(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Bool, reflect.String, reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		if t.PkgPath() == "" {
			return false // the language's own
		}
	}
	if v, ok := ownMethods.Load(t); ok {
		return v.(bool)
	}
	p := reflect.PointerTo(t)
	v := t.Implements(marshaler) || t.Implements(textMarshaler) || p.Implements(marshaler) || p.Implements(textMarshaler) ||
		p.Implements(unmarshaler) || p.Implements(textUnmarshaler)
	ownMethods.Store(t, v)
	return v
}

// plain reports whether this package knows the type's JSON by itself.
func plain(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Bool, reflect.String, reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Struct, reflect.Pointer:
		return !says(t)
	case reflect.Slice:
		return t.Elem().Kind() != reflect.Uint8 && !says(t)
	case reflect.Map:
		return t.Key().Kind() == reflect.String && !says(t.Key()) && !says(t)
	}
	return false
}
