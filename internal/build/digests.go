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
// What cannot be read, or is cut off, is as if it were not there.
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
	b.digests = make(map[string]fileDigest, len(rest)/(digestBytes+32))
	for len(rest) >= 2 {
		n := int(binary.BigEndian.Uint16(rest))
		if rest = rest[2:]; len(rest) < n+digestBytes {
			return
		}
		path := string(rest[:n])
		var d fileDigest
		at := rest[n:]
		d.dev, d.ino, d.size = binary.BigEndian.Uint64(at), binary.BigEndian.Uint64(at[8:]), binary.BigEndian.Uint64(at[16:])
		d.mtime, d.ctime = int64(binary.BigEndian.Uint64(at[24:])), int64(binary.BigEndian.Uint64(at[32:]))
		copy(d.sum[:], at[40:])
		b.digests[path] = d
		rest = rest[n+digestBytes:]
	}
}

// saveDigests keeps what this build has learnt. It is only there to save time, so a failure is none of the build's.
func (b *session) saveDigests(dir string) {
	if !b.learnt {
		return
	}
	before := time.Now().Add(-settledAfter).UnixNano()
	out := []byte(digestsMagic)
	for path, d := range b.digests {
		if max(d.mtime, d.ctime) > before || len(path) > 1<<16-1 {
			continue
		}
		out = binary.BigEndian.AppendUint16(out, uint16(len(path)))
		out = append(out, path...)
		for _, n := range [...]uint64{d.dev, d.ino, d.size, uint64(d.mtime), uint64(d.ctime)} {
			out = binary.BigEndian.AppendUint64(out, n)
		}
		out = append(out, d.sum[:]...)
	}
	file := b.digestsFile(dir)
	if os.MkdirAll(filepath.Dir(file), 0o700) == nil {
		_ = disk.Replace(file, out, 0o600, disk.Volatile)
	}
}
