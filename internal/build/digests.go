package build

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"os"
	"path/filepath"
	"time"

	"berth/internal/disk"
	"berth/internal/image"

	"golang.org/x/sys/unix"
)

// fileDigest is the digest of a file, and what the file looked like.
type fileDigest struct {
	dev, ino, size uint64
	mtime, ctime   int64 // nanoseconds
	sum            [sha256.Size]byte
}

func identity(st *unix.Stat_t) fileDigest {
	return fileDigest{dev: st.Dev, ino: st.Ino, size: uint64(st.Size), mtime: st.Mtim.Nano(), ctime: st.Ctim.Nano()}
}

// The digests of a context's files are kept for the next build, in one file for each context:
//
//	digestsMagic, then for each file the length of its path in two bytes, the path, and a fileDigest, all big endian.
//
// What cannot be read, or is cut off, is as if it were not there. Of a path that is there twice, the last counts: what a build learns is added at
// the end, until it is so much that all is written anew.
const digestsMagic = "berth digests 1\n"

const digestBytes = 5*8 + sha256.Size

// settledAfter is how long ago a file must have changed for its digest to be believed the next time: a later change within the
// resolution of the file system's times would not be seen.
const settledAfter = 2 * time.Second

// digestsFile is where the digests of a context are.
func (b *session) digestsFile(dir string) string {
	return filepath.Join(b.engine.Settings.DataRoot, "build", "contexts", image.DigestOf([]byte(dir)).Hex())
}

// loadDigests reads what earlier builds have learnt of a context.
func (b *session) loadDigests(dir string) {
	data, err := os.ReadFile(b.digestsFile(dir))
	if err != nil {
		return
	}
	rest, ok := bytes.CutPrefix(data, []byte(digestsMagic))
	if !ok {
		return
	}
	paths := string(rest) // once, and not for each
	b.digests = make(map[string]fileDigest, len(rest)/(digestBytes+32))
	for len(rest) >= 2 {
		n := int(binary.BigEndian.Uint16(rest))
		if rest = rest[2:]; len(rest) < n+digestBytes {
			return
		}
		path := paths[len(paths)-len(rest):][:n]
		var d fileDigest
		at := rest[n:]
		d.dev, d.ino, d.size = binary.BigEndian.Uint64(at), binary.BigEndian.Uint64(at[8:]), binary.BigEndian.Uint64(at[16:])
		d.mtime, d.ctime = int64(binary.BigEndian.Uint64(at[24:])), int64(binary.BigEndian.Uint64(at[32:]))
		copy(d.sum[:], at[40:])
		b.digests[path] = d
		b.kept++
		rest = rest[n+digestBytes:]
	}
	b.whole = len(rest) == 0
}

// saveDigests keeps what this build has learnt. It is only there to save time, so a failure is none of the build's.
func (b *session) saveDigests(dir string) {
	before := time.Now().Add(-settledAfter).UnixNano()
	var added []byte
	for path := range b.learnt {
		added = b.appendDigest(added, path, before)
	}
	file := b.digestsFile(dir)
	switch {
	case len(added) == 0:
		return
	case b.whole && b.kept+len(b.learnt) < len(b.digests)*5/4:
		if f, err := os.OpenFile(file, os.O_WRONLY|os.O_APPEND, 0); err == nil {
			_, _ = f.Write(added) // what a crash cuts off is not believed
			_ = f.Close()
		}
		return
	}
	out := []byte(digestsMagic)
	for path := range b.digests {
		out = b.appendDigest(out, path, before)
	}
	if os.MkdirAll(filepath.Dir(file), 0o700) == nil {
		_ = disk.Replace(file, out, 0o600, disk.Volatile)
	}
}

// appendDigest writes the digest of a file that has not changed since before.
func (b *session) appendDigest(out []byte, path string, before int64) []byte {
	d := b.digests[path]
	if max(d.mtime, d.ctime) > before || len(path) > 1<<16-1 {
		return out
	}
	out = binary.BigEndian.AppendUint16(out, uint16(len(path)))
	out = append(out, path...)
	for _, n := range [...]uint64{d.dev, d.ino, d.size, uint64(d.mtime), uint64(d.ctime)} {
		out = binary.BigEndian.AppendUint64(out, n)
	}
	return append(out, d.sum[:]...)
}
