package content

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"berth/internal/errdef"
	"berth/internal/image"
)

func open(t *testing.T) *Store {
	t.Helper()
	s, err := Open(filepath.Join(t.TempDir(), "content"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func descriptor(data string) image.Descriptor {
	return image.Descriptor{MediaType: image.MediaTypeLayer, Digest: image.DigestOf([]byte(data)), Size: int64(len(data))}
}

func ingest(t *testing.T, s *Store, d image.Descriptor) *Ingest {
	t.Helper()
	in, err := s.Ingest(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	return in
}

// ingests lists what is on its way.
func ingests(t *testing.T, s *Store) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(s.dir, "ingest"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestPutAndReadBack(t *testing.T) {
	s := open(t)
	d := descriptor("hello")
	for range 2 { // storing twice is no error
		if err := s.Put(d, []byte("hello")); err != nil {
			t.Fatal(err)
		}
	}
	data, err := s.ReadAll(d.Digest, 5)
	if err != nil || string(data) != "hello" {
		t.Errorf("ReadAll = %q, %v", data, err)
	}
	if _, err := s.ReadAll(d.Digest, 4); !errdef.Is(err, errdef.Invalid) {
		t.Errorf("a blob over the limit: %v", err)
	}
	got, err := s.PutReader(strings.NewReader("world"), image.MediaTypeLayer)
	if err != nil || got.Digest != image.DigestOf([]byte("world")) || got.Size != 5 || !s.Has(got.Digest) {
		t.Errorf("PutReader = %+v, %v", got, err)
	}
	var seen []image.Digest
	if err := s.Walk(func(d image.Digest, _ fs.FileInfo) error { seen = append(seen, d); return nil }); err != nil || len(seen) != 2 {
		t.Errorf("Walk saw %v, %v", seen, err)
	}
	if left := ingests(t, s); left != nil {
		t.Errorf("left in ingest: %v", left)
	}
	if err := s.Delete(d.Digest); err != nil || s.Has(d.Digest) {
		t.Errorf("Delete: %v", err)
	}
	if _, err := s.Open(d.Digest); !errdef.Is(err, errdef.NotFound) {
		t.Errorf("a deleted blob: %v", err)
	}
}

func TestSHA512(t *testing.T) {
	s := open(t)
	h := image.NewDigester(image.SHA512)
	io.WriteString(h, "hello")
	if err := s.Put(image.Descriptor{Digest: h.Digest(), Size: 5}, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	if data, err := s.ReadAll(h.Digest(), 10); err != nil || string(data) != "hello" {
		t.Errorf("%q, %v", data, err)
	}
}

func TestOpenForReadingWritesNothing(t *testing.T) {
	s := open(t)
	past := time.Now().Add(-time.Hour)
	if err := os.Chtimes(s.dir, past, past); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(s.dir); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(s.dir)
	if err != nil || !st.ModTime().Equal(past) {
		t.Errorf("the directory changed: %v, %v", st.ModTime(), err)
	}
}

func TestDigestFromOutsideIsNoPath(t *testing.T) {
	s := open(t)
	for _, d := range []image.Digest{"sha256:../../../oci-layout", "../x:y", "", "sha256:" + image.Digest(strings.Repeat("A", 64))} {
		if s.Has(d) {
			t.Errorf("Has(%q)", d)
		}
		if _, err := s.Open(d); err == nil {
			t.Errorf("Open(%q) worked", d)
		}
		if _, err := s.Ingest(t.Context(), image.Descriptor{Digest: d}); err == nil {
			t.Errorf("Ingest(%q) worked", d)
		}
		if err := s.Delete(d); err == nil {
			t.Errorf("Delete(%q) worked", d)
		}
	}
}

func TestBytesThatChangedOnDiskAreNoticed(t *testing.T) {
	s := open(t)
	d := descriptor("hello")
	if err := s.Put(d, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	path, _ := s.path(d.Digest)
	if err := errors.Join(os.Chmod(path, 0o600), os.WriteFile(path, []byte("hellO"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.ReadAll(d.Digest, 10); !errdef.Is(err, errdef.Corrupt) {
		t.Errorf("changed bytes: %v", err)
	}
}

func TestInterruptedIngestContinues(t *testing.T) {
	s := open(t)
	d := descriptor("hello world")
	in := ingest(t, s, d)
	io.WriteString(in, "hello ")
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	if s.Has(d.Digest) || in.Done() {
		t.Fatal("half a blob has its name")
	}
	if _, err := in.Write([]byte("x")); !errors.Is(err, os.ErrClosed) {
		t.Errorf("writing after the end: %v", err)
	}

	in = ingest(t, s, d)
	if in.Offset() != 6 {
		t.Fatalf("Offset = %d", in.Offset())
	}
	if again, err := io.ReadAll(in.Partial()); err != nil || string(again) != "hello " {
		t.Errorf("Partial = %q, %v", again, err)
	}
	io.WriteString(in, "world")
	if err := in.Commit(); err != nil {
		t.Fatal(err)
	}
	if data, err := s.ReadAll(d.Digest, 100); err != nil || string(data) != "hello world" || !in.Done() {
		t.Errorf("%q, %v", data, err)
	}
	if in = ingest(t, s, d); !in.Done() {
		t.Error("a blob that is here is not Done")
	}
}

func TestPartialThatNobodyReadIsVerifiedToo(t *testing.T) {
	s := open(t)
	d := descriptor("hello world")
	in := ingest(t, s, d)
	io.WriteString(in, "HELLO ")
	in.Close()
	in = ingest(t, s, d)
	io.WriteString(in, "world")
	if err := in.Commit(); !errdef.Is(err, errdef.Corrupt) {
		t.Fatalf("wrong bytes of an earlier try: %v", err)
	}
	if left := ingests(t, s); left != nil {
		t.Errorf("wrong bytes are kept: %v", left)
	}
	// The next try starts from nothing and succeeds.
	in = ingest(t, s, d)
	if in.Offset() != 0 {
		t.Fatalf("Offset = %d", in.Offset())
	}
	io.WriteString(in, "hello world")
	if err := in.Commit(); err != nil {
		t.Error(err)
	}
}

func TestIngestRefuses(t *testing.T) {
	t.Run("more bytes than announced, before they are on disk", func(t *testing.T) {
		s := open(t)
		in := ingest(t, s, descriptor("hello"))
		if _, err := in.Write([]byte("hello!")); !errdef.Is(err, errdef.Corrupt) {
			t.Error(err)
		}
		if st, err := in.lock.File().Stat(); err != nil || st.Size() != 0 {
			t.Errorf("%d bytes are on disk", st.Size())
		}
		in.Discard()
	})
	t.Run("fewer bytes than announced, and keeps them", func(t *testing.T) {
		s := open(t)
		in := ingest(t, s, descriptor("hello"))
		io.WriteString(in, "hell")
		if err := in.Commit(); !errdef.Is(err, errdef.Corrupt) || in.Done() {
			t.Error(err)
		}
		if in = ingest(t, s, descriptor("hello")); in.Offset() != 4 {
			t.Errorf("Offset = %d", in.Offset())
		}
		in.Close()
	})
	t.Run("other bytes", func(t *testing.T) {
		s := open(t)
		d := descriptor("hello")
		if err := s.Put(d, []byte("HELLO")); !errdef.Is(err, errdef.Corrupt) || s.Has(d.Digest) {
			t.Error(err)
		}
	})
}

func TestTwoWantOneBlob(t *testing.T) {
	s := open(t)
	d := descriptor("hello")
	first := ingest(t, s, d)

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := s.Ingest(ctx, d); !errdef.Is(err, errdef.Cancelled) {
		t.Errorf("waiting did not end with the context: %v", err)
	}

	var wait sync.WaitGroup
	for range 4 {
		wait.Go(func() {
			in, err := s.Ingest(t.Context(), d)
			if err != nil || !in.Done() {
				t.Errorf("the second does not find the first's blob: %v", err)
			}
		})
	}
	io.WriteString(first, "hello")
	if err := first.Commit(); err != nil {
		t.Error(err)
	}
	wait.Wait()
	if left := ingests(t, s); left != nil {
		t.Errorf("left in ingest: %v", left)
	}
}

func TestSweepIngest(t *testing.T) {
	s := open(t)
	old, busy := ingest(t, s, descriptor("old")), ingest(t, s, descriptor("busy"))
	io.WriteString(old, "o")
	old.Close()
	io.WriteString(busy, "b")
	if freed, err := s.SweepIngest(time.Hour); err != nil || freed != 0 {
		t.Errorf("young leftovers were removed: %d, %v", freed, err)
	}
	if freed, err := s.SweepIngest(0); err != nil || freed != 1 {
		t.Errorf("freed %d, %v", freed, err)
	}
	io.WriteString(busy, "usy")
	if err := busy.Commit(); err != nil {
		t.Errorf("the sweep disturbed a writer: %v", err)
	}
}

func TestSweepWaitsForAdditions(t *testing.T) {
	s := open(t)
	one, err := s.HoldAdditions(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	two, err := s.HoldAdditions(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	two()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := s.HoldSweep(ctx); !errdef.Is(err, errdef.Cancelled) {
		t.Errorf("a sweep beside an addition: %v", err)
	}
	one()
	sweep, err := s.HoldSweep(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	sweep()
}

func TestPutReaderThatFailsLeavesNothing(t *testing.T) {
	s := open(t)
	r := io.MultiReader(bytes.NewReader([]byte("x")), errReader{})
	if _, err := s.PutReader(r, ""); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
	if left := ingests(t, s); left != nil {
		t.Errorf("left in ingest: %v", left)
	}
}

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestWrittenBlobHasNoNameBeforeItIsPublished(t *testing.T) {
	s, err := Open(filepath.Join(t.TempDir(), "c"))
	if err != nil {
		t.Fatal(err)
	}
	for _, publish := range []bool{false, true} {
		w, err := s.write(strings.NewReader("content"), "type/of.it")
		if err != nil {
			t.Fatal(err)
		}
		if s.Has(w.Desc.Digest) {
			t.Error("a blob has its name before it is durable")
		}
		if publish {
			err = w.publish()
		}
		if err := errors.Join(err, w.Abort()); err != nil || s.Has(w.Desc.Digest) != publish {
			t.Errorf("published: %v, there: %v, %v", publish, s.Has(w.Desc.Digest), err)
		}
	}
	before, err := os.Stat(s.dir + "/blobs/sha256/" + image.DigestOf([]byte("content")).Hex())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.PutReader(strings.NewReader("content"), "type/of.it"); err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(s.dir + "/blobs/sha256/" + image.DigestOf([]byte("content")).Hex())
	if err != nil || !os.SameFile(before, after) {
		t.Errorf("a blob that is there was written again: %v", err)
	}
	left, err := os.ReadDir(s.dir + "/ingest")
	if err != nil || len(left) != 0 {
		t.Errorf("left in ingest: %v, %v", left, err)
	}
}
