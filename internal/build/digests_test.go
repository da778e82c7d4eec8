package build

import (
	"fmt"
	"os"
	"testing"
	"time"

	"berth/internal/engine"
	"berth/internal/settings"
)

func TestDigestsOfAContextAreAddedAndWrittenAnew(t *testing.T) {
	root := t.TempDir()
	old := time.Now().Add(-time.Hour).UnixNano()
	begin := func() *session {
		s := &session{engine: &engine.Engine{Settings: settings.Values{DataRoot: root}}, digests: map[string]fileDigest{}, learnt: map[string]bool{}}
		s.loadDigests("/context")
		return s
	}
	learn := func(s *session, path string, size uint64, changed int64) {
		s.digests[path], s.learnt[path] = fileDigest{ino: 7, size: size, mtime: changed, ctime: changed, sum: [32]byte{byte(size)}}, true
	}
	size := func() int64 {
		st, err := os.Stat(begin().digestsFile("/context"))
		if err != nil {
			t.Fatal(err)
		}
		return st.Size()
	}

	s := begin()
	for i := range 100 {
		learn(s, fmt.Sprint("file", i), 1, old)
	}
	learn(s, "new", 1, time.Now().UnixNano())
	s.saveDigests("/context")
	if s = begin(); len(s.digests) != 100 || s.digests["file99"].sum != [32]byte{1} {
		t.Fatalf("%d digests are known; one that is too new, too: %v", len(s.digests), s.digests["new"])
	}
	whole := size()

	// A few are added: the last one counts.
	learn(s, "file5", 2, old)
	s.saveDigests("/context")
	if s = begin(); len(s.digests) != 100 || s.digests["file5"].size != 2 || s.digests["file6"].size != 1 || size() <= whole {
		t.Errorf("after one was added: %d, %+v; %d bytes", len(s.digests), s.digests["file5"], size())
	}
	// With many, the file has each once.
	for range 3 {
		s = begin()
		for i := range 20 {
			learn(s, fmt.Sprint("file", i), 3, old)
		}
		s.saveDigests("/context")
	}
	if s = begin(); len(s.digests) != 100 || s.digests["file19"].size != 3 || size() > whole*3/2 {
		t.Errorf("after many were added: %d, %+v; %d bytes", len(s.digests), s.digests["file19"], size())
	}

	// Nothing is added behind what a crash has cut off.
	if err := os.Truncate(s.digestsFile("/context"), size()-1); err != nil {
		t.Fatal(err)
	}
	s = begin()
	known := len(s.digests)
	learn(s, "more", 4, old)
	s.saveDigests("/context")
	if s = begin(); len(s.digests) != known+1 || s.digests["more"].size != 4 {
		t.Errorf("after a crash: %d of %d, %+v", len(s.digests), known, s.digests["more"])
	}
}
