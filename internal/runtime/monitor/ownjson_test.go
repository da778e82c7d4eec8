package monitor

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"berth/internal/container"
	"berth/internal/image/store"
	"berth/internal/network"
	"berth/internal/ownjson"
	"berth/internal/state"
)

// fill gives everything in v a value.
func fill(v reflect.Value, n *int) {
	*n++
	switch v.Interface().(type) {
	case time.Time:
		v.Set(reflect.ValueOf(time.Unix(int64(*n), int64(*n)).UTC()))
		return
	case netip.Addr:
		v.Set(reflect.ValueOf(netip.AddrFrom4([4]byte{10, 0, 0, byte(*n)})))
		return
	case netip.Prefix:
		v.Set(reflect.ValueOf(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(*n)}), 24)))
		return
	}
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(int64(*n % 100))
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(*n % 100))
	case reflect.Float64:
		v.SetFloat(float64(*n) + 0.5)
	case reflect.String:
		v.SetString(fmt.Sprintf("text <%d>\n", *n))
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0), n)
		fill(v.Index(1), n)
	case reflect.Map:
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(key, n)
		fill(value, n)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(key, value)
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Field(i).CanSet() {
				fill(v.Field(i), n)
			}
		}
	}
}

// What berth writes of its own is the same as when encoding/json writes it, whatever fields it gets.
func TestFilesAndMessages(t *testing.T) {
	for _, v := range []any{
		state.Container{},
		state.Record{},
		state.Process{},
		container.Health{},
		store.Record{},
		network.Network{},
		network.Endpoint{},
		AttachRequest{},
		BeginRequest{},
		ExecRequest{},
		Started{},
		Failed{},
		Ended{},
	} {
		for _, full := range []bool{false, true} {
			p := reflect.New(reflect.TypeOf(v))
			if n := 0; full {
				fill(p.Elem(), &n)
			}
			want, err := json.Marshal(p.Interface())
			if err != nil {
				t.Fatal(err)
			}
			got, err := ownjson.Marshal(p.Interface())
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("%T: %v\n got %s\nwant %s", v, err, got, want)
			}
			mine, theirs := reflect.New(p.Elem().Type()), reflect.New(p.Elem().Type())
			if err := json.Unmarshal(want, theirs.Interface()); err != nil {
				t.Fatal(err)
			}
			if err := ownjson.Unmarshal(want, mine.Interface()); err != nil || !reflect.DeepEqual(mine.Interface(), theirs.Interface()) {
				t.Errorf("%T: %v\n got %+v\nwant %+v", v, err, mine, theirs)
			}
		}
	}
}
