package layer

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/image"
)

var (
	one = image.DigestOf([]byte("one"))
	two = image.DigestOf([]byte("two"))
)

func begin(t *testing.T, s *Store, parent, diffID image.Digest) *Staging {
	t.Helper()
	st, err := s.Begin(t.Context(), parent, diffID)
	if err != nil || st == nil {
		t.Fatalf("Begin: %v, %v", st, err)
	}
	return st
}

// files lists what is in the store's directory.
func files(t *testing.T, s *Store) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestPublish(t *testing.T) {
	s := Open(filepath.Join(t.TempDir(), "layers"))
	low, high := begin(t, s, "", one), begin(t, s, one, two)
	if s.Has(low.Chain) {
		t.Error("a layer in the making is there")
	}
	if err := os.WriteFile(filepath.Join(high.Tree().Name(), "f"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Publish(Finished{low, Info{Size: 1}}, Finished{high, Info{Size: 2, OpaqueRoot: true}}); err != nil {
		t.Fatal(err)
	}
	chain := []image.Digest{one, image.ChainID(one, two)}
	info, err := s.Info(chain[1])
	if err != nil || info.Parent != one || info.DiffID != two || info.Size != 2 || info.ChainID != chain[1] {
		t.Errorf("%+v, %v", info, err)
	}
	if data, err := os.ReadFile(s.Path(chain[1]) + "/f"); err != nil || string(data) != "x" {
		t.Errorf("%q, %v", data, err)
	}
	// The upper layer hides everything below it.
	if trees, err := s.Stack(chain); err != nil || len(trees) != 1 {
		t.Errorf("%v, %v", trees, err)
	}
	if trees, err := s.Stack(chain[:1]); err != nil || len(trees) != 1 || trees[0] != s.Path(one) {
		t.Errorf("%v, %v", trees, err)
	}
	if list, err := s.List(); err != nil || len(list) != 2 || len(files(t, s)) != 2 {
		t.Errorf("%v, %v, %v", list, files(t, s), err)
	}
	if st, err := s.Begin(t.Context(), "", one); st != nil || err != nil {
		t.Errorf("a layer that is there is made again: %v, %v", st, err)
	}
	if err := s.Remove(t.Context(), chain[1]); err != nil || s.Has(chain[1]) || len(files(t, s)) != 1 {
		t.Errorf("Remove: %v, %v", err, files(t, s))
	}
	if _, err := s.Stack(chain); !errdef.Is(err, errdef.NotFound) {
		t.Errorf("a stack with a gap: %v", err)
	}
}

func TestAbortLeavesNothing(t *testing.T) {
	s := Open(t.TempDir())
	if err := begin(t, s, "", one).Abort(); err != nil || len(files(t, s)) != 0 {
		t.Errorf("%v, %v", err, files(t, s))
	}
}

func TestTwoMakeOneLayer(t *testing.T) {
	s := Open(t.TempDir())
	first := begin(t, s, "", one)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := s.Begin(ctx, "", one); !errdef.Is(err, errdef.Cancelled) {
		t.Errorf("waiting did not end with the context: %v", err)
	}
	done := make(chan error)
	go func() {
		st, err := s.Begin(t.Context(), "", one)
		if st != nil {
			err = errors.Join(err, errors.New("made twice"), st.Abort())
		}
		done <- err
	}()
	if err := s.Publish(Finished{Staging: first}); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestSweepRemovesWhatTheDeadLeft(t *testing.T) {
	s := Open(t.TempDir())
	busy := begin(t, s, "", one)
	dead := filepath.Join(s.dir, disk.TemporaryPrefix+two.Hex(), "tree", "closed")
	if err := os.MkdirAll(dead, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.lockPath(two), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Sweep(); err != nil {
		t.Fatal(err)
	}
	if left := files(t, s); len(left) != 2 {
		t.Errorf("left: %v", left)
	}
	if err := s.Publish(Finished{Staging: busy}); err != nil {
		t.Errorf("the sweep disturbed a layer in the making: %v", err)
	}
	// Making the layer anew starts from nothing, too.
	if err := os.MkdirAll(dead, 0o700); err != nil {
		t.Fatal(err)
	}
	st := begin(t, s, "", two)
	if names, err := st.Tree().Readdirnames(-1); len(names) != 0 {
		t.Errorf("in the fresh tree: %v, %v", names, err)
	}
	st.Abort()
}

func TestChainFromOutsideIsNoPath(t *testing.T) {
	s := Open(t.TempDir())
	for _, d := range []image.Digest{"sha256:../..", "", "x:..", image.Digest("sha256:" + strings.Repeat("/", 64))} {
		if s.Has(d) {
			t.Errorf("Has(%q)", d)
		}
		if err := s.Remove(t.Context(), d); err == nil {
			t.Errorf("Remove(%q) worked", d)
		}
		if _, err := s.Begin(t.Context(), "", d); err == nil {
			t.Errorf("Begin(%q) worked", d)
		}
	}
}
