package build

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"berth/internal/build/files"
	"berth/internal/disk"
	"berth/internal/image"

	"golang.org/x/sys/unix"
)

// fileDigest is the digest of a file, and what the file looked like.
type fileDigest struct {
	dev, ino, size uint64
	mtime, ctime   int64 // nanoseconds
	sum            files.Sum
}

func identity(st *unix.Stat_t) fileDigest {
	return fileDigest{dev: st.Dev, ino: st.Ino, size: uint64(st.Size), mtime: st.Mtim.Nano(), ctime: st.Ctim.Nano()}
}

// digestMemory is what builds have learnt of the files of a context. It is kept for the next build, in one file for each context:
//
//	digestsMagic, then for each directory: the length of its path in two bytes, that of what follows it in four, the path;
//	and of each of its files, in the order of their names, the length of the name in two bytes, the name, and a fileDigest, all big endian.
//
// So a build that looks at all files reads the file at once, and compares it with directories side by side. What cannot be read, or is cut
// off, is as if it were not there. Of a directory that is there twice, the last counts: one of which a build learns something is added at
// the end, until that is so much that all is written anew.
type digestMemory struct {
	file  string
	whole bool // the file was understood to its end
	bytes int  // of the file

	mu     sync.Mutex
	kept   map[string][]byte                // the files of a directory, as they are in the file
	learnt map[string]map[string]fileDigest // by directory and name
	parsed map[string]map[string]fileDigest // of kept, for who does not ask in order
}

const digestsMagic = "berth digests 2\n"

const digestBytes = 5*8 + sha256.Size

// settledAfter is how long ago a file must have changed for its digest to be believed the next time: a later change within the
// resolution of the file system's times would not be seen.
const settledAfter = 2 * time.Second

// openDigests reads what earlier builds have learnt of a context. Without a directory nothing is kept.
func openDigests(dataRoot, dir string) *digestMemory {
	m := &digestMemory{kept: map[string][]byte{}, learnt: map[string]map[string]fileDigest{}, parsed: map[string]map[string]fileDigest{}}
	if dir == "" {
		return m
	}
	m.file = filepath.Join(dataRoot, "build", "contexts", image.DigestOf([]byte(dir)).Hex())
	data, err := os.ReadFile(m.file)
	if err != nil {
		return m
	}
	rest, ok := bytes.CutPrefix(data, []byte(digestsMagic))
	if !ok {
		return m
	}
	m.bytes = len(data)
	for len(rest) >= 6 {
		name, body := int(binary.BigEndian.Uint16(rest)), int(binary.BigEndian.Uint32(rest[2:]))
		if rest = rest[6:]; len(rest) < name+body {
			return m
		}
		m.kept[string(rest[:name])] = rest[name:][:body]
		rest = rest[name+body:]
	}
	m.whole = len(rest) == 0
	return m
}

// next takes the first file off those of a directory; ok is false if there is none, or nothing that can be understood.
func next(body []byte) (name []byte, d fileDigest, rest []byte, ok bool) {
	if len(body) < 2 {
		return nil, d, nil, false
	}
	n := int(binary.BigEndian.Uint16(body))
	if body = body[2:]; len(body) < n+digestBytes {
		return nil, d, nil, false
	}
	at := body[n:]
	d.dev, d.ino, d.size = binary.BigEndian.Uint64(at), binary.BigEndian.Uint64(at[8:]), binary.BigEndian.Uint64(at[16:])
	d.mtime, d.ctime = int64(binary.BigEndian.Uint64(at[24:])), int64(binary.BigEndian.Uint64(at[32:]))
	copy(d.sum[:], at[40:])
	return body[:n], d, at[digestBytes:], true
}

// directory is what is known of the files of one directory.
func (m *digestMemory) directory(dir string) files.Memory {
	m.mu.Lock()
	all := m.kept[dir]
	learnt := maps.Clone(m.learnt[dir]) // by another step of this build
	m.mu.Unlock()
	rest, before := all, ""
	return files.Memory{
		Known: func(name string, st *unix.Stat_t) (sum files.Sum, ok bool) {
			if d, ok := learnt[name]; ok {
				return d.sum, d.is(st)
			}
			if name < before {
				rest = all
			}
			before = name
			for {
				has, d, behind, ok := next(rest)
				switch {
				case !ok || string(has) > name:
					return sum, false
				case string(has) == name:
					return d.sum, d.is(st)
				}
				rest = behind
			}
		},
		Learn: func(name string, st *unix.Stat_t, sum files.Sum) {
			d := identity(st)
			d.sum = sum
			m.mu.Lock()
			defer m.mu.Unlock()
			if m.learnt[dir] == nil {
				m.learnt[dir] = map[string]fileDigest{}
			}
			m.learnt[dir][name] = d
		},
	}
}

// is reports whether a file is still what its digest was taken of.
func (d fileDigest) is(st *unix.Stat_t) bool {
	now := identity(st)
	now.sum = d.sum
	return now == d
}

// unchanged reports whether a file is what the last digest of it was taken of. of is what the names of directories begin with (memoryOf).
func (m *digestMemory) unchanged(of, p string, st *unix.Stat_t) bool {
	dir, name := of+path.Dir(p), path.Base(p)
	m.mu.Lock()
	defer m.mu.Unlock()
	d, ok := m.learnt[dir][name]
	if !ok {
		d, ok = m.all(dir)[name]
	}
	return ok && d.is(st)
}

// all are the files of a directory that earlier builds knew. It is called with the lock.
func (m *digestMemory) all(dir string) map[string]fileDigest {
	if have, ok := m.parsed[dir]; ok {
		return have
	}
	have := map[string]fileDigest{}
	for body := m.kept[dir]; ; {
		name, d, rest, ok := next(body)
		if !ok {
			m.parsed[dir] = have
			return have
		}
		have[string(name)] = d
		body = rest
	}
}

// save keeps what this build has learnt. It is only there to save time, so a failure is none of the build's.
func (m *digestMemory) save() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.learnt) == 0 || m.file == "" {
		return
	}
	before := time.Now().Add(-settledAfter).UnixNano()
	var added []byte
	for dir, learnt := range m.learnt {
		m.kept[dir] = merge(m.all(dir), learnt, before)
		added = appendDirectory(added, dir, m.kept[dir])
	}
	live := len(digestsMagic)
	for dir, body := range m.kept {
		live += 6 + len(dir) + len(body)
	}
	if m.whole && m.bytes+len(added) < live*5/4 {
		if f, err := os.OpenFile(m.file, os.O_WRONLY|os.O_APPEND, 0); err == nil {
			_, _ = f.Write(added) // what a crash cuts off is not believed
			_ = f.Close()
		}
		return
	}
	out := []byte(digestsMagic)
	for dir, body := range m.kept {
		out = appendDirectory(out, dir, body)
	}
	if os.MkdirAll(filepath.Dir(m.file), 0o700) == nil {
		_ = disk.Replace(m.file, out, 0o600, disk.Volatile)
	}
}

func appendDirectory(out []byte, dir string, body []byte) []byte {
	if len(dir) > 1<<16-1 || uint64(len(body)) > 1<<32-1 {
		return out
	}
	out = binary.BigEndian.AppendUint16(out, uint16(len(dir)))
	out = binary.BigEndian.AppendUint32(out, uint32(len(body)))
	return append(append(out, dir...), body...)
}

// merge writes what is known of the files of a directory; of those that were learnt, what has not changed since before.
func merge(kept, learnt map[string]fileDigest, before int64) (body []byte) {
	all := maps.Clone(kept)
	for name, d := range learnt {
		if delete(all, name); max(d.mtime, d.ctime) <= before {
			all[name] = d
		}
	}
	for _, name := range slices.SortedFunc(maps.Keys(all), strings.Compare) {
		d := all[name]
		body = binary.BigEndian.AppendUint16(body, uint16(len(name)))
		body = append(body, name...)
		for _, n := range [...]uint64{d.dev, d.ino, d.size, uint64(d.mtime), uint64(d.ctime)} {
			body = binary.BigEndian.AppendUint64(body, n)
		}
		body = append(body, d.sum[:]...)
	}
	return body
}
