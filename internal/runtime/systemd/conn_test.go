package systemd

import (
	"bytes"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"berth/internal/host"
)

// answering is a connection to somebody who answers with that, in pieces, once a whole call has come.
func answering(t *testing.T, answer []byte) *Conn {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		said := make([]byte, 1<<16)
		n := 0
		for !bytes.Contains(said[:n], []byte("StartTransientUnit")) {
			got, err := c.Read(said[n:])
			if err != nil {
				return
			}
			n += got
		}
		for part := range bytes.SplitAfterSeq(answer, []byte("o")) { // anywhere
			if _, err := c.Write(part); err != nil {
				return
			}
		}
	}()
	c, err := Dial([]host.Socket{{Path: path + "-not-there"}, {Path: path}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestScopeIsThereWhenItsJobHasEnded(t *testing.T) {
	const welcome = "DATA\r\nOK 0123\r\n"
	reply := sampleFor(1, methodReturn, "", "", "o", func(w *writer) { w.string("/job/5") })
	removed := func(job, result string) []byte {
		return sample(signal, "JobRemoved", "", "uoss", func(w *writer) {
			w.uint32(5)
			w.string(job)
			w.string("a.scope")
			w.string(result)
		})
	}
	other := sample(signal, "UnitNew", "", "so", func(w *writer) { w.string("b.scope"); w.string("/unit/b") })
	join := func(parts ...[]byte) []byte { return append([]byte(welcome), bytes.Join(parts, nil)...) }
	for name, c := range map[string]struct {
		answer []byte
		want   string // of the error
	}{
		"made":                    {join(other, reply, other, removed("/job/4", "failed"), removed("/job/5", "done")), ""},
		"not made":                {join(reply, removed("/job/5", "failed")), `the job for a.scope has ended with "failed"`},
		"there already":           {join(sampleFor(1, failure, "", unitExists, "s", func(w *writer) { w.string("it is there") })), "it is there"},
		"an error without words":  {join(sampleFor(1, failure, "", "org.x.Y", "", func(*writer) {})), "org.x.Y"},
		"a stranger":              {[]byte("REJECTED EXTERNAL\r\n"), "does not accept this user"},
		"gone":                    {join(reply), "has ended the connection"},
		"gone, says the bus":      {join(sampleFor(1, failure, "", noReply, "s", func(w *writer) { w.string("no reply") })), "no reply"},
		"gone in a message":       {join(reply[:40]), "has ended the connection"},
		"no line":                 {bytes.Repeat([]byte("x"), 5000), "malformed"},
		"a message of nonsense":   {join(bytes.Repeat([]byte("x"), 64)), "malformed"},
		"a reply of another type": {join(sampleFor(1, methodReturn, "", "", "t", func(w *writer) { w.uint64(1) })), "malformed"},
	} {
		err := answering(t, c.answer).StartScope(Scope{Name: "a.scope", PIDs: []uint32{Self}})
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v", name, err)
		}
		if Lost(err) != strings.HasPrefix(name, "gone") {
			t.Errorf("%s: Lost is %v", name, Lost(err))
		}
		if Exists(err) != (name == "there already") {
			t.Errorf("%s: Exists is %v", name, Exists(err))
		}
	}
}
