package systemd

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"
)

// sample is a message whose fields are of every type that there is.
func sample(kind byte, member, errorName, signature string, body func(w *writer)) []byte {
	return sampleFor(77, kind, member, errorName, signature, body)
}

// sampleFor is a sample that answers the call of that number.
func sampleFor(serial uint32, kind byte, member, errorName, signature string, body func(w *writer)) []byte {
	w := &writer{data: []byte{'l', kind, 0, 1}}
	b := &writer{}
	body(b)
	w.uint32(uint32(len(b.data)))
	w.uint32(9)
	w.array(8, func() {
		text := func(code byte, kind, value string) {
			w.align(8)
			w.data = append(w.data, code)
			w.signature(kind)
			if kind == "g" {
				w.signature(value)
			} else {
				w.string(value)
			}
		}
		text(fieldPath, "o", "/org/freedesktop/systemd1")
		text(fieldMember, "s", member)
		text(fieldErrorName, "s", errorName)
		text(fieldSignature, "g", signature)
		w.align(8)
		w.data = append(w.data, fieldReplySerial)
		w.signature("u")
		w.uint32(serial)
	})
	w.align(8)
	return append(w.data, b.data...)
}

func samples() map[string][]byte {
	return map[string][]byte{
		"signal": sample(signal, "JobRemoved", "", "uoss", func(w *writer) {
			w.uint32(5)
			w.string("/job/5")
			w.string("a.scope")
			w.string("done")
		}),
		"error":   sample(failure, "", unitExists, "s", func(w *writer) { w.string("it is there") }),
		"nothing": sample(methodReturn, "", "", "", func(*writer) {}),
	}
}

func TestMessageIsRead(t *testing.T) {
	m, err := parse(samples()["signal"])
	if err != nil || m.kind != signal || m.serial != 9 || m.replySerial != 77 || m.member != "JobRemoved" || m.signature != "uoss" {
		t.Errorf("%+v, %v", m, err)
	}
	if values, err := m.strings(); err != nil || len(values) != 3 || values[0] != "/job/5" || values[2] != "done" {
		t.Errorf("%q, %v", values, err)
	}
	if m, err = parse(samples()["error"]); err != nil || m.errorName != unitExists {
		t.Errorf("%+v, %v", m, err)
	}
}

// Every value is at its alignment, counted from the beginning of the message or of the body, which begins at a multiple of 8.
func TestCallIsEncodedAsTheSpecificationSays(t *testing.T) {
	c := call{destination: "d", path: "/p", iface: "i", member: "M", signature: "sa(sv)"}
	c.body.string("x")
	c.body.array(8, func() {
		c.body.align(8)
		c.body.string("PIDs")
		c.body.variant([]uint32{7})
	})
	want := "6c010001" + "28000000" + "02000000" + "4c000000" + // a body of 40 bytes, serial 2, fields of 76
		"01016f00" + "02000000" + "2f7000" + "0000000000" +
		"06017300" + "01000000" + "6400" + "000000000000" +
		"02017300" + "01000000" + "6900" + "000000000000" +
		"03017300" + "01000000" + "4d00" + "000000000000" +
		"08016700" + "06" + "736128737629" + "00" + "00000000"
	body := "01000000" + "7800" + "0000" + // "x"
		"18000000" + "00000000" + // 24 bytes of elements, from a multiple of 8 on
		"04000000" + "5049447300" + "026175" + "00" + "000000" + "04000000" + "07000000"
	if got := hex.EncodeToString(encode(2, c)); got != want+body {
		t.Errorf("got  %s\nwant %s", got, want+body)
	}
}

func TestOverlongAndCutOffMessagesAreRefused(t *testing.T) {
	for name, whole := range samples() {
		for n := range whole {
			if _, err := parse(whole[:n]); err == nil {
				t.Errorf("%s: %d of %d bytes are accepted", name, n, len(whole))
			}
		}
		if _, err := parse(append(bytes.Clone(whole), 0)); !errors.Is(err, errMalformed) {
			t.Errorf("%s: a byte too many: %v", name, err)
		}
	}
	long := bytes.Clone(samples()["nothing"])
	copy(long[4:], []byte{0xff, 0xff, 0xff, 0x7f})
	if _, err := size(long); err == nil {
		t.Error("a body of two gigabytes is accepted")
	}
}

// Whatever the other side sends, reading it ends, and reads nothing that is not there.
func FuzzParse(f *testing.F) {
	for _, m := range samples() {
		f.Add(m)
	}
	big := bytes.Clone(samples()["nothing"])
	big[0] = 'B'
	f.Add(big)
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) >= fixedHeader {
			if n, err := size(data); err == nil && n < fixedHeader {
				t.Errorf("a message of %d bytes", n)
			}
		}
		m, err := parse(data)
		if err != nil {
			return
		}
		if _, err := m.strings(); err == nil && len(m.signature) > len(m.body) {
			t.Errorf("%d values from %d bytes", len(m.signature), len(m.body))
		}
	})
}
