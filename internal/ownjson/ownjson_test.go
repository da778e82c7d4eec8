package ownjson

import (
	"bytes"
	"encoding/json"
	"math/rand"
	"net/netip"
	"reflect"
	"testing"
	"testing/quick"
	"time"
)

type inner struct {
	A    int8
	Same string `json:"same,omitempty"`
}

type named string

// shapes has a field of each kind.
type shapes struct {
	inner
	Bool     bool
	Text     string `json:"text"`
	Named    named  `json:",omitempty"`
	Int      int    `json:"int,omitempty"`
	Int64    int64
	Uint16   uint16            `json:",omitzero"`
	Float    float64           `json:",omitempty"`
	Pointer  *int              `json:"pointer,omitempty"`
	Struct   *inner            `json:",omitempty"`
	List     []string          `json:",omitempty"`
	Lists    [][]int           `json:"lists"`
	Bytes    []byte            `json:",omitempty"`
	Array    [3]int            `json:"array"`
	Map      map[string]string `json:",omitempty"`
	Named2   map[named]inner   `json:"named2"`
	Numbers  map[int]string    `json:",omitempty"`
	Same     string            `json:"same"`
	Hidden   string            `json:"-"`
	Raw      json.RawMessage   `json:",omitempty"`
	unshown  int
	Interior struct {
		X, Y int `json:",omitempty"`
	} `json:"interior"`
}

func random(t *testing.T, r *rand.Rand) shapes {
	s := shapes{unshown: 1}
	v := reflect.ValueOf(&s).Elem()
	for i := range v.NumField() {
		if f := v.Type().Field(i); !f.IsExported() || f.Type == reflect.TypeFor[json.RawMessage]() || r.Intn(4) == 0 {
			continue
		}
		value, ok := quick.Value(v.Field(i).Type(), r)
		if !ok {
			t.Fatalf("no random %s", v.Type().Field(i).Type)
		}
		v.Field(i).Set(value)
	}
	s.A, s.inner.Same, s.unshown, s.Hidden = int8(r.Intn(256)), "inner", 0, ""
	return s
}

// What is written is what encoding/json writes, and what is read is what it reads.
func TestAsEncodingJSON(t *testing.T) {
	r := rand.New(rand.NewSource(1))
	for range 50 {
		s := random(t, r)
		want, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Marshal(s)
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("Marshal: %v\n got %.300s\nwant %.300s", err, got, want)
		}
		var wide bytes.Buffer
		if err := json.Indent(&wide, got, " ", "\t"); err != nil {
			t.Fatal(err)
		}
		for _, data := range [][]byte{got, wide.Bytes()} {
			var mine, theirs shapes
			if err := json.Unmarshal(data, &theirs); err != nil {
				t.Fatal(err)
			}
			if err := Unmarshal(data, &mine); err != nil || !reflect.DeepEqual(mine, theirs) {
				t.Fatalf("Unmarshal of %.300s: %v\n got %.300v\nwant %.300v", data, err, mine, theirs)
			}
		}
	}
}

// Types that have methods for their JSON are written by them.
func TestMethods(t *testing.T) {
	type times struct {
		At   time.Time
		None time.Time `json:",omitzero"`
		IP   netip.Addr
		Nets []netip.Prefix         `json:",omitempty"`
		By   map[netip.Addr]string  `json:",omitempty"`
		Any  any                    `json:",omitempty"`
		More map[string]any         `json:",omitempty"`
		P    *time.Time             `json:",omitempty"`
		Deep map[string][]time.Time `json:",omitempty"`
	}
	at := time.Date(2026, 11, 26, 1, 2, 3, 4, time.FixedZone("x", 3600))
	for _, v := range []times{
		{},
		{
			At: at, None: at, IP: netip.MustParseAddr("fe80::1"), Nets: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, By: map[netip.Addr]string{netip.MustParseAddr("1.2.3.4"): "x"},
			Any: []any{"a", 1.5, nil, true}, More: map[string]any{"k": "v"}, P: &at, Deep: map[string][]time.Time{"d": {at, at}},
		},
	} {
		want, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Marshal(&v)
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("Marshal: %v\n got %.300s\nwant %.300s", err, got, want)
		}
		var mine, theirs times
		if err := json.Unmarshal(want, &theirs); err != nil {
			t.Fatal(err)
		}
		if err := Unmarshal(want, &mine); err != nil || !reflect.DeepEqual(mine, theirs) {
			t.Fatalf("Unmarshal: %v\n got %+v\nwant %+v", err, mine, theirs)
		}
	}
}

func TestNumbersAsTextAreRefused(t *testing.T) {
	type text struct {
		N int `json:",string"`
	}
	if _, err := Marshal(text{1}); err == nil {
		t.Error("written")
	}
	if err := Unmarshal([]byte(`{"N":"1"}`), &text{}); err == nil {
		t.Error("read")
	}
}

// Whatever is read here, encoding/json reads too, and as the same; and what it reads of its own is read here.
func FuzzUnmarshal(f *testing.F) {
	for _, s := range []string{
		`{}`, `null`, `{"text":"a\u00e9\ud83d\ude00\ud800x\n","int":-1}`, `{"pointer":7,"Struct":{"A":1}}`, `{"lists":[[1],null,[]]}`, `{"Map":{"a":"b"},"named2":{"x":{"A":-3}}}`,
		`{"Bytes":"AAEC","array":[1,2,3],"Float":1e3}`, `{"later":{"x":[1,"]}",{}]},"text":"t"} `, `{"Uint16":65536}`, `{"int":01}`, `{"int":-}`, `{"Bool":tru}`, `{"text":"` + "\xff" + `"}`, `{"Raw":[ 1 , 2 ]}`, "{}\x00",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var mine, theirs shapes
		if err := Unmarshal(data, &mine); err != nil {
			return
		}
		if !json.Valid(data) {
			t.Fatalf("%q is not JSON", data)
		}
		written, err := Marshal(mine)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(written, &theirs); err != nil {
			t.Fatalf("%q was read, and written as %q: %v", data, written, err)
		}
		var again shapes
		if err := Unmarshal(written, &again); err != nil || !reflect.DeepEqual(again, theirs) {
			t.Fatalf("%q: %v\n got %+v\nwant %+v", written, err, again, theirs)
		}
	})
}

// A file that was cut off is an error.
func TestCutOff(t *testing.T) {
	n := 7
	whole, err := Marshal(shapes{Text: "t<\u2028\xff", Int: -3, Pointer: &n, Struct: &inner{A: 1}, Map: map[string]string{"a": "b"}, Bytes: []byte{1}, Float: 1.5})
	if err != nil {
		t.Fatal(err)
	}
	for n := range whole {
		if err := Unmarshal(whole[:n], &shapes{}); err == nil {
			t.Fatalf("the first %d bytes were read: %s", n, whole[:n])
		}
	}
}
