package store

import (
	"os"
	"testing"

	"berth/internal/errdef"
	"berth/internal/image"
)

func TestTogetherRemembersNothingThatOthersMayChange(t *testing.T) {
	s := open(t)
	add(t, s, "a", "1", "shared", "of a")
	b := add(t, s, "b", "2", "shared", "of b")
	add(t, s, "c", "3", "of c")
	// An image of which a document is not here: somebody is fetching it.
	raw, err := s.Content.ReadAll(b.Target.Digest, image.MaxManifest)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Content.Delete(b.Target.Digest); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(s.Content.Dir() + "/index.json")
	if err != nil {
		t.Fatal(err)
	}
	other, err := Open(s.dir[:len(s.dir)-len("/images")])
	if err != nil {
		t.Fatal(err)
	}
	err = s.Together(func() error {
		if _, err := s.Remove(t.Context(), "c", false, nil, Roots{}); err != nil {
			return err
		}
		if now, err := os.ReadFile(s.Content.Dir() + "/index.json"); err != nil || string(now) != string(before) {
			t.Errorf("index.json is written before the end: %v", err)
		}
		// Now it is there, and what it shares with a is not removed with a.
		if err := s.Content.Put(b.Target, raw); err != nil {
			return err
		}
		if _, err := other.Tag("a", "a:2"); err != nil {
			return err
		}
		if _, err := s.Remove(t.Context(), "a", false, nil, Roots{}); err != nil {
			return err
		}
		if _, err := s.Resolve("a:2"); err != nil {
			t.Errorf("a name that another process has given is not seen: %v", err)
		}
		_, err := s.Remove(t.Context(), "a:2", false, nil, Roots{})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	im, err := s.Resolve("b")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range im.Manifest.Layers {
		if !s.Content.Has(l.Digest) {
			t.Errorf("layer %s is gone", l.Digest)
		}
	}
	if _, err := s.Find("a:2"); !errdef.Is(err, errdef.NotFound) {
		t.Errorf("a:2: %v", err)
	}
	if now, err := os.ReadFile(s.Content.Dir() + "/index.json"); err != nil || string(now) == string(before) {
		t.Errorf("index.json is not written at the end: %v", err)
	}
}
