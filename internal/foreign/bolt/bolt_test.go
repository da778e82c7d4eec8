package bolt

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"io"
	"maps"
	"os"
	"slices"
	"testing"

	"berth/internal/errdef"
)

// database is one that docker or podman has written.
func database(t testing.TB, name string) []byte {
	t.Helper()
	packed, err := os.ReadFile("../testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	r, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func keys(t *testing.T, data []byte, path ...string) map[string]string {
	t.Helper()
	db, err := Open(data)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	if err := db.Each(func(key, value []byte) error { got[string(key)] = string(value); return nil }, path...); err != nil {
		t.Fatal(err)
	}
	return got
}

func TestReadsWhatDockerAndPodmanHaveWritten(t *testing.T) {
	docker := keys(t, database(t, "metadata.db.gz"), "volumes")
	if want := `{"Name":"labelled","Driver":"local","Labels":{"a":"b"},"Options":null}`; docker["labelled"] != want || len(docker) != 3 {
		t.Errorf("docker's volumes are %v", docker)
	}
	podman := database(t, "bolt_state.db.gz")
	if got := slices.Sorted(maps.Keys(keys(t, podman, "vol"))); !slices.Equal(got, []string{"labelled", "memory", "plain"}) {
		t.Errorf("podman's volumes are %v", got)
	}
	if config := keys(t, podman, "vol", "memory")["config"]; !bytes.Contains([]byte(config), []byte(`"type":"tmpfs"`)) {
		t.Errorf("podman's volume is %q", config)
	}
	if got := keys(t, podman, "vol", "nosuch"); len(got) != 0 {
		t.Errorf("a bucket that is not there has %v", got)
	}
}

// The first page with the newest tree's place may be half written: the other one counts.
func TestATornMetaPageIsNotBelieved(t *testing.T) {
	data := database(t, "metadata.db.gz")
	for _, page := range []int{0, 4096} {
		torn := slices.Clone(data)
		torn[page+pageHeader+20]++
		if _, err := Open(torn); err != nil {
			t.Errorf("with the page at %d torn: %v", page, err)
		}
	}
	data[pageHeader+20]++
	data[4096+pageHeader+20]++
	if _, err := Open(data); !errdef.Is(err, errdef.Corrupt) {
		t.Errorf("with both torn: %v", err)
	}
}

// A page that leads to itself ends.
func TestPagesInACircle(t *testing.T) {
	data := database(t, "metadata.db.gz")
	db, err := Open(data)
	if err != nil {
		t.Fatal(err)
	}
	root := data[db.root*db.pageSize:]
	binary.NativeEndian.PutUint16(root[8:], flagBranch)
	binary.NativeEndian.PutUint16(root[10:], 200)
	for i := range 200 {
		binary.NativeEndian.PutUint64(root[pageHeader+i*element+8:], db.root)
	}
	if err := db.Each(func(_, _ []byte) error { return nil }); !errdef.Is(err, errdef.Corrupt) {
		t.Errorf("%v", err)
	}
}

func FuzzEach(f *testing.F) {
	for _, name := range []string{"metadata.db.gz", "bolt_state.db.gz"} {
		data := database(f, name)
		for i := 0; i+16 < len(data); i += 4096 {
			f.Add(data, uint32(i+8), uint64(0xff))
			f.Add(data, uint32(i+20), uint64(1<<40))
		}
	}
	f.Fuzz(func(_ *testing.T, data []byte, at uint32, with uint64) {
		data = slices.Clone(data)
		if int(at)+8 <= len(data) {
			binary.NativeEndian.PutUint64(data[at:], with)
		}
		db, err := Open(data)
		if err != nil {
			return
		}
		for _, path := range [][]string{nil, {"volumes"}, {"vol"}, {"vol", "memory"}} {
			_ = db.Each(func(_, _ []byte) error { return nil }, path...)
		}
	})
}
