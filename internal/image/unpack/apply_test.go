package unpack

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"berth/internal/errdef"
	"berth/internal/image"
)

func apply(t *testing.T, opt Options, entries ...entry) (string, Result, error) {
	t.Helper()
	outside := t.TempDir()
	path := filepath.Join(outside, "tree")
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	result, err := Apply(t.Context(), openDirectory(t, path), bytes.NewReader(makeTar(t, entries...)), opt)
	// Whatever the tar says, nothing but the tree is touched.
	if around, readErr := os.ReadDir(outside); readErr != nil || len(around) != 1 {
		t.Errorf("beside the tree there is now %v, %v", around, readErr)
	}
	return path, result, err
}

func TestApplyMakesOverlaysForm(t *testing.T) {
	needRoot(t)
	const attacked = "/tmp/berth-attack"
	t.Cleanup(func() { os.Remove(attacked) })
	for _, test := range []struct {
		summary string
		entries []entry
		want    map[string]string
	}{
		{"a file with setuid and an owner", []entry{file("a", "x").with(func(h *tar.Header) { h.Mode, h.Uid, h.Gid = 0o4755, 1000, 50 })}, map[string]string{"a": `file 4755 "x"`}},
		{"an absolute path is beneath the root", []entry{file("/etc/a", "x")}, map[string]string{"etc/a": `file 644 "x"`}},
		{"a directory keeps a mode that forbids filling it", []entry{dir("d").with(func(h *tar.Header) { h.Mode = 0o2500 }), file("d/a", "x")}, map[string]string{"d": "dir 2500", "d/a": `file 644 "x"`}},
		{"a directory without an entry", []entry{file("d/e/a", "x")}, map[string]string{"d": "dir 755", "d/e": "dir 755"}},
		{"a later entry wins", []entry{file("a", "1"), file("a", "2")}, map[string]string{"a": `file 644 "2"`}},
		{"a file takes the place of a directory", []entry{file("a/b/c", "1"), file("a", "2")}, map[string]string{"a": `file 644 "2"`}},
		{"a directory takes the place of a file", []entry{file("a", "1"), dir("a"), file("a/b", "2")}, map[string]string{"a": "dir 755", "a/b": `file 644 "2"`}},
		{"a directory takes the place of a symlink", []entry{dir("x"), symlink("a", "x"), dir("a"), file("a/b", "2")}, map[string]string{"a": "dir 755", "a/b": `file 644 "2"`, "x/b": "no such file or directory"}},
		{"a symlink on the way is followed inside", []entry{dir("usr/lib"), symlink("lib", "usr/lib"), file("lib/a", "x")}, map[string]string{"lib": "link usr/lib", "usr/lib/a": `file 644 "x"`}},
		{"the same file by two names, in order", []entry{dir("d"), symlink("l", "d"), file("d/a", "1"), file("l/a", "2")}, map[string]string{"d/a": `file 644 "2"`}},
		{"a hard link", []entry{file("a", "x"), link("b", "/a")}, map[string]string{"b": `file 644 "x"`}},
		{"a hard link to a symlink is one", []entry{symlink("a", "/etc/passwd"), link("b", "a")}, map[string]string{"b": "link /etc/passwd"}},
		{"a hard link takes the place of a file", []entry{file("a", "x"), file("b", "y"), link("b", "a")}, map[string]string{"b": `file 644 "x"`}},
		{"a device and a FIFO", []entry{device("null", 1, 3), {tar.Header{Name: "f", Typeflag: tar.TypeFifo}, ""}}, map[string]string{"null": "char 1:3", "f": "fifo"}},
		{"a whiteout", []entry{file("d/.wh.a", "")}, map[string]string{"d/a": "whiteout", "d/.wh.a": "no such file or directory"}},
		{"an opaque directory", []entry{file("d/.wh..wh..opq", ""), file("d/a", "x")}, map[string]string{"d": "dir 755 opaque", "d/a": `file 644 "x"`}},
		{"an opaque directory, said last", []entry{dir("d"), file("d/a", "x"), file("d/.wh..wh..opq", "")}, map[string]string{"d": "dir 755 opaque", "d/a": `file 644 "x"`}},
		{"a whiteout before a directory makes it opaque", []entry{file(".wh.d", ""), dir("d")}, map[string]string{"d": "dir 755 opaque"}},
		{"a whiteout before a directory without an entry", []entry{file(".wh.d", ""), file("d/a", "x")}, map[string]string{"d": "dir 755 opaque", "d/a": `file 644 "x"`}},
		{"a whiteout behind a directory makes it opaque", []entry{dir("d"), file("d/a", "x"), file(".wh.d", "")}, map[string]string{"d": "dir 755 opaque", "d/a": `file 644 "x"`}},
		{"a whiteout hides nothing of its own layer", []entry{file("a", "x"), file(".wh.a", "")}, map[string]string{"a": `file 644 "x"`}},
		{"a file takes the place of a whiteout", []entry{file(".wh.a", ""), file("a", "x")}, map[string]string{"a": `file 644 "x"`}},
		{"aufs's notes are left out", []entry{file(".wh..wh.plnk/1.2", "x"), file(".wh..wh.aufs", "")}, map[string]string{".wh..wh.plnk": "no such file or directory", ".wh..wh.aufs": "no such file or directory"}},
		{"a long name", []entry{file(strings.Repeat("n", 255), "x")}, map[string]string{strings.Repeat("n", 255): `file 644 "x"`}},
		// The lines that make these pass: tree.Carried, called in metaOf.
		{"overlayfs's attributes are not an image's (class 36)", []entry{dir("d").with(func(h *tar.Header) {
			h.PAXRecords = map[string]string{"SCHILY.xattr.trusted.overlay.opaque": "y", "SCHILY.xattr.user.overlay.opaque": "y"}
		})}, map[string]string{"d": "dir 755"}},
		// RESOLVE_IN_ROOT in openDir: with flags alone the file is made in the host's directory.
		{"a symlink that leads out leads to the root (class 25)", []entry{symlink("d", "../../../../../../.."), dir("tmp"), file("d/tmp/berth-attack", "x")}, map[string]string{"tmp/berth-attack": `file 644 "x"`}},
		{"an absolute symlink leads to the root (class 25)", []entry{symlink("d", "/"), dir("tmp"), file("d/tmp/berth-attack", "x")}, map[string]string{"tmp/berth-attack": `file 644 "x"`}},
	} {
		t.Run(test.summary, func(t *testing.T) {
			path, _, err := apply(t, Options{}, test.entries...)
			if err != nil {
				t.Fatal(err)
			}
			for name, want := range test.want {
				if got := describe(t, filepath.Join(path, name)); got != want {
					t.Errorf("%.60s is %s, want %s", name, got, want)
				}
			}
		})
	}
	if _, err := os.Lstat(attacked); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file was made on the host: %v", err)
	}
}

func TestApplyRefuses(t *testing.T) {
	needRoot(t)
	deep := strings.Repeat("d/", 200)
	for _, test := range []struct {
		summary string // and the line that makes it pass
		entries []entry
		opt     Options
	}{
		{"..: clean", []entry{file("../a", "x")}, Options{}},
		{".. in the middle: clean", []entry{file("a/../../b", "x")}, Options{}},
		{"a hard link outwards: clean in link", []entry{link("a", "../../../../../../etc/passwd")}, Options{}},
		{"a hard link to what is not there: linkError", []entry{link("a", "etc/passwd")}, Options{}},
		{"a hard link through a symlink outwards: openDir in link", []entry{symlink("d", "/etc"), link("a", "d/passwd")}, Options{}},
		{"a hard link to a directory: linkat", []entry{dir("d"), link("a", "d")}, Options{}},
		{"a hard link to itself: vacate before linkat, and link for the message", []entry{file("a", "x"), link("a", "a")}, Options{}},
		{"a hard link to the root: linkat", []entry{link("a", "/")}, Options{}},
		{"the root as a symlink (umoci CVE-2021-29136): actRoot in entry", []entry{symlink(".", "/")}, Options{}},
		{"the root as a symlink by another name: actRoot in entry", []entry{symlink("/./", "/")}, Options{}},
		{"the root as a file: actRoot in entry", []entry{file("./", "x").with(func(h *tar.Header) { h.Name = "." })}, Options{}},
		{"a whiteout of nothing: classify", []entry{file("d/.wh.", "")}, Options{}},
		{"a whiteout of the directory: classify", []entry{file("d/.wh..", "")}, Options{}},
		{"a whiteout of its parent: classify", []entry{file("d/.wh...", "")}, Options{}},
		{"an entry inside a whiteout: classify", []entry{file(".wh.d/a", "")}, Options{}},
		{"opaque behind a symlink: parentNoLink", []entry{dir("d"), symlink("l", "d"), file("l/.wh..wh..opq", "")}, Options{}},
		{"a whiteout behind a symlink: parentNoLink", []entry{dir("d"), symlink("l", "d"), file("l/.wh.a", "")}, Options{}},
		{"overlayfs's whiteout as a device: node", []entry{device("a", 0, 0)}, Options{}},
		{"a file used as a directory: keepOthers in mkdir", []entry{file("a", "x"), file("a/b", "x")}, Options{}},
		{"a dangling symlink used as a directory: keepOthers in mkdir", []entry{symlink("a", "b"), file("a/b", "x")}, Options{}},
		{"symlinks in a circle: openat2", []entry{symlink("a", "b"), symlink("b", "a"), file("a/b", "x")}, Options{}},
		{"an owner that is none: metaOf", []entry{file("a", "x").with(func(h *tar.Header) { h.Uid, h.Format = 1<<32-1, tar.FormatPAX })}, Options{}},
		{"an unknown type: entry", []entry{file("a", "").with(func(h *tar.Header) { h.Typeflag = 'Z' })}, Options{}},
		{"too deep: clean, and mkdir for what clean cannot see", []entry{file(strings.Repeat("d/", 300)+"a", "")}, Options{}},
		{"too deep through a symlink: mkdir", []entry{dir(deep), symlink("l", deep), dir("l/" + deep)}, Options{}},
		{"more entries than allowed: entries", []entry{file("a", ""), file("b", ""), file("c", "")}, Options{Limits: Limits{Entries: 2}}},
		{"more bytes in files than allowed: file", []entry{file("a", strings.Repeat("x", 1<<20))}, Options{Limits: Limits{Bytes: 1 << 19}}},
		{"a longer path than allowed: clean", []entry{file("abcdef", "")}, Options{Limits: Limits{PathLength: 5}}},
	} {
		t.Run(test.summary, func(t *testing.T) {
			before := describe(t, "/etc/passwd")
			path, result, err := apply(t, test.opt, test.entries...)
			if !errdef.Is(err, errdef.Invalid) && !errors.Is(err, unix.ELOOP) {
				t.Errorf("got %+v, %v (%v)", result, err, errdef.KindOf(err))
			}
			if after := describe(t, "/etc/passwd"); after != before {
				t.Errorf("the host's /etc/passwd is now %s", after)
			}
			if err := os.RemoveAll(path); err != nil {
				t.Errorf("what was made cannot be removed: %v", err)
			}
		})
	}
}

func TestApplyKeepsTimesOwnersAndAttributes(t *testing.T) {
	needRoot(t)
	when := time.Date(2001, 2, 3, 4, 5, 6, 789, time.UTC)
	caps := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" // cap_net_bind_service=ep
	change := func(h *tar.Header) {
		h.ModTime, h.Uid, h.Gid, h.Format = when, 12, 34, tar.FormatPAX
		h.PAXRecords = map[string]string{"SCHILY.xattr.user.note": "hello", "SCHILY.xattr.security.selinux": "host_t"}
		if h.Typeflag == tar.TypeReg {
			h.PAXRecords["SCHILY.xattr.security.capability"] = caps
		}
	}
	path, _, err := apply(t, Options{}, dir("d").with(change), file("d/f", "x").with(change), symlink("d/l", "f").with(change), file("d/big", strings.Repeat("x", 1<<20)).with(change))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"d", "d/f", "d/l", "d/big"} {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(path, name), &st); err != nil {
			t.Fatal(err)
		}
		if st.Uid != 12 || st.Gid != 34 || !time.Unix(st.Mtim.Unix()).Equal(when) {
			t.Errorf("%s: %d:%d, %v", name, st.Uid, st.Gid, time.Unix(st.Mtim.Unix()))
		}
	}
	var b [64]byte
	for _, name := range []string{"d/f", "d/big"} {
		if n, err := unix.Getxattr(filepath.Join(path, name), "security.capability", b[:]); err != nil || string(b[:n]) != caps {
			t.Errorf("%s: capabilities %x, %v", name, b[:max(n, 0)], err)
		}
	}
	if n, err := unix.Getxattr(filepath.Join(path, "d"), "user.note", b[:]); err == nil && string(b[:n]) != "hello" {
		t.Errorf("user.note is %q", b[:n])
	}
}

func TestApplyDigestCoversPadding(t *testing.T) {
	layer := makeTar(t, file("a", "x"))
	layer = append(layer, make([]byte, 12345)...)
	want := image.DigestOf(layer)
	var gz, members, zs bytes.Buffer
	g := gzip.NewWriter(&gz)
	g.Write(layer)
	g.Close()
	for _, half := range [][]byte{layer[:700], layer[700:]} {
		g := gzip.NewWriter(&members)
		g.Write(half)
		g.Close()
	}
	z, _ := zstd.NewWriter(&zs)
	z.Write(layer)
	z.Close()
	for name, data := range map[string][]byte{"plain": layer, "gzip": gz.Bytes(), "gzip of two members": members.Bytes(), "zstd": zs.Bytes()} {
		t.Run(name, func(t *testing.T) {
			result, err := Apply(t.Context(), openDirectory(t, t.TempDir()), bytes.NewReader(data), Options{OwnersIgnored: true})
			if err != nil || result.DiffID != want || result.StreamSize != int64(len(layer)) || result.Size != 1 {
				t.Errorf("%+v, %v", result, err)
			}
			if name == "plain" {
				return
			}
			for _, cut := range []int{len(data) - 1, len(data) / 2} {
				if _, err := Apply(t.Context(), openDirectory(t, t.TempDir()), bytes.NewReader(data[:cut]), Options{OwnersIgnored: true}); !errdef.Is(err, errdef.Corrupt) {
					t.Errorf("cut off at %d of %d: %v", cut, len(data), err)
				}
			}
		})
	}
	if _, err := Apply(t.Context(), openDirectory(t, t.TempDir()), bytes.NewReader(layer[:512]), Options{OwnersIgnored: true}); !errdef.Is(err, errdef.Corrupt) {
		t.Errorf("cut off inside a file: %v", err)
	}
}

// The line that makes it pass: the limit in stream.read.
func TestAnEndlessStreamIsRefused(t *testing.T) {
	endless := io.MultiReader(bytes.NewReader(makeTar(t, file("a", "x"))), zeroReader{})
	opt := Options{OwnersIgnored: true, Limits: Limits{Bytes: 4 << 20}}
	if _, err := Apply(t.Context(), openDirectory(t, t.TempDir()), endless, opt); !errdef.Is(err, errdef.Invalid) {
		t.Errorf("padding without end: %v", err)
	}
}

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// The line that makes it pass: WithDecoderMaxWindow.
func TestZstdWindowIsBounded(t *testing.T) {
	// A frame header (RFC 8878, 3.1.1.1) that asks for 256 MiB, and one raw block of one byte.
	frame := []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 18 << 3, 0x09, 0, 0, 'x'}
	_, err := Apply(t.Context(), openDirectory(t, t.TempDir()), bytes.NewReader(frame), Options{})
	if !errdef.Is(err, errdef.Corrupt) || !errors.Is(err, zstd.ErrWindowSizeExceeded) {
		t.Errorf("a window of 256 MiB: %v", err)
	}
}

func TestImpliedDirectoriesAreReported(t *testing.T) {
	_, result, err := apply(t, Options{OwnersIgnored: true}, file("a/b/c", ""), dir("a"), file("x/y", ""))
	if err != nil || fmt.Sprint(result.Implied) != "[. a/b x]" {
		t.Errorf("%v, %v", result.Implied, err)
	}
}

func TestOpaqueRootIsReported(t *testing.T) {
	_, result, err := apply(t, Options{OwnersIgnored: true}, file(".wh..wh..opq", ""))
	if err != nil || !result.OpaqueRoot {
		t.Errorf("%+v, %v", result, err)
	}
}

func TestHolesStayHoles(t *testing.T) {
	content := strings.Repeat("\x00", 8<<20) + "end"
	path, _, err := apply(t, Options{OwnersIgnored: true}, file("a", content))
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(path, "a"), &st); err != nil || st.Size != int64(len(content)) || st.Blocks*512 > 1<<20 {
		t.Errorf("%d bytes take %d, %v", st.Size, st.Blocks*512, err)
	}
}

func FuzzApply(f *testing.F) {
	f.Add(makeTar(f, dir("d"), file("d/a", "x"), symlink("l", "d"), link("b", "l/a"), file("d/.wh.b", ""), file(".wh.d", "")))
	f.Fuzz(func(t *testing.T, data []byte) {
		outside := t.TempDir()
		path := filepath.Join(outside, "tree")
		if err := os.Mkdir(path, 0o755); err != nil {
			t.Fatal(err)
		}
		root, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		result, err := Apply(t.Context(), root, bytes.NewReader(data), Options{OwnersIgnored: true, SkipDevices: true, Limits: Limits{Entries: 1000, Bytes: 16 << 20}})
		if around, readErr := os.ReadDir(outside); readErr != nil || len(around) != 1 {
			t.Fatalf("beside the tree there is now %v", around)
		}
		if plain, _, decErr := Decompress(bytes.NewReader(data)); err == nil && decErr == nil {
			h := image.NewDigester(image.SHA256)
			if _, err := io.Copy(h, plain); err != nil || h.Digest() != result.DiffID {
				t.Fatalf("diff ID %s, the stream has %s, %v", result.DiffID, h.Digest(), err)
			}
		}
	})
}
