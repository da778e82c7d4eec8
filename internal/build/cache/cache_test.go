package cache

import (
	"os"
	"testing"
)

func TestTornRecordsAreListedAndGo(t *testing.T) {
	s := Open(t.TempDir())
	for _, key := range []string{"whole", "torn"} {
		if err := s.Put(key, Record{What: "RUN true"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Truncate(s.path("torn"), 0); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := s.Get("torn"); ok || err != nil {
		t.Errorf("a torn record is one: %v, %v", ok, err)
	}
	all, err := s.List()
	if err != nil || len(all) != 2 {
		t.Fatalf("%d records are listed (%v), want both", len(all), err)
	}
	for _, e := range all {
		if err := s.Remove(e.Key); err != nil {
			t.Fatal(err)
		}
	}
	if left, _ := os.ReadDir(s.cacheDir()); len(left) > 0 {
		t.Errorf("%s is left", left[0].Name())
	}
}
