// Package bolt reads a database of bbolt (go.etcd.io/bbolt), in which docker and podman keep what they know of volumes.
//
// It is given the whole file as it was at one moment, and believes nothing of it: every offset is checked, and no page is looked at twice. It
// locks nothing and cannot write. The words: a *page* is a piece of the file; a *bucket* is a tree of pages, whose leaves hold keys with values
// or with further buckets.
package bolt

import (
	"encoding/binary"
	"hash/fnv"

	"berth/internal/errdef"
)

// The format: bbolt's internal/common/page.go, meta.go, bucket.go. Numbers are those of the machine that wrote them, which is this one.
const (
	magic   = 0xED0CDAED
	version = 2

	pageHeader = 16 // id uint64, flags uint16, count uint16, overflow uint32
	element    = 16 // of a branch: position, size of the key uint32, page uint64; of a leaf: flags, position, sizes of key and value uint32
	metaBytes  = 64
	bucketHead = 16 // page of the root uint64, sequence uint64

	flagBranch = 0x01
	flagLeaf   = 0x02
	leafBucket = 0x01

	maxDepth = 64
)

// DB is a database.
type DB struct {
	data     []byte
	pageSize uint64
	root     uint64
	seen     map[uint64]bool
}

func corrupt(format string, args ...any) error {
	return errdef.New(errdef.Corrupt, "the database is damaged: "+format, args...)
}

// Open finds the newest state of the database in data.
func Open(data []byte) (*DB, error) {
	var newest *DB
	var txid uint64
	// Two pages in turn say where the newest tree is; the second one's place depends on the size of pages.
	for _, at := range []uint64{0, 1 << 9, 1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14, 1 << 15, 1 << 16} {
		if uint64(len(data)) < at+pageHeader+metaBytes {
			break
		}
		m := data[at+pageHeader:][:metaBytes]
		u := binary.NativeEndian
		sum := fnv.New64a()
		_, _ = sum.Write(m[:metaBytes-8])
		if u.Uint32(m) != magic || u.Uint32(m[4:]) != version || u.Uint64(m[metaBytes-8:]) != sum.Sum64() {
			continue
		}
		size := uint64(u.Uint32(m[8:]))
		if size < 512 || size > 1<<16 || at != 0 && at != size {
			continue
		}
		if id := u.Uint64(m[48:]); newest == nil || id > txid {
			newest, txid = &DB{data: data, pageSize: size, root: u.Uint64(m[16:])}, id
		}
	}
	if newest == nil {
		return nil, corrupt("it does not begin as a database of bbolt")
	}
	return newest, nil
}

// Each calls f with every key of the bucket at path and its value; a bucket's value is nil. A bucket that is not there has no keys.
func (db *DB) Each(f func(key, value []byte) error, path ...string) error {
	db.seen = map[uint64]bool{}
	bucket := tree{page: db.root}
	for _, name := range path {
		var found *tree
		err := db.walk(bucket, 0, func(key, value []byte, sub *tree) error {
			if sub != nil && string(key) == name {
				found = sub
			}
			return nil
		})
		if err != nil || found == nil {
			return err
		}
		bucket = *found
	}
	return db.walk(bucket, 0, func(key, value []byte, sub *tree) error {
		if sub != nil {
			value = nil
		}
		return f(key, value)
	})
}

// tree is a bucket: a page, or, for a small one, its only page itself.
type tree struct {
	page   uint64
	inline []byte
}

func (db *DB) walk(t tree, depth int, f func(key, value []byte, sub *tree) error) error {
	page := t.inline
	if page == nil {
		var err error
		if page, err = db.page(t.page); err != nil {
			return err
		}
	}
	if depth > maxDepth {
		return corrupt("a bucket is more than %d pages deep", maxDepth)
	}
	if len(page) < pageHeader {
		return corrupt("a page is cut off")
	}
	u := binary.NativeEndian
	flags, count := u.Uint16(page[8:]), uint64(u.Uint16(page[10:]))
	if uint64(len(page)) < pageHeader+count*element {
		return corrupt("a page is cut off")
	}
	for i := range count {
		at := pageHeader + i*element
		e := page[at:][:element]
		switch {
		case flags&flagBranch != 0 && t.inline == nil:
			if err := db.walk(tree{page: u.Uint64(e[8:])}, depth+1, f); err != nil {
				return err
			}
		case flags&flagLeaf != 0:
			if err := leaf(page, at, e, f); err != nil {
				return err
			}
		default:
			return corrupt("a page is of the unknown kind %#x", flags)
		}
	}
	return nil
}

func leaf(page []byte, at uint64, e []byte, f func(key, value []byte, sub *tree) error) error {
	u := binary.NativeEndian
	key := at + uint64(u.Uint32(e[4:]))
	value := key + uint64(u.Uint32(e[8:]))
	end := value + uint64(u.Uint32(e[12:]))
	if end > uint64(len(page)) {
		return corrupt("a key is cut off")
	}
	k, v := page[key:value], page[value:end]
	if u.Uint32(e)&leafBucket == 0 {
		return f(k, v, nil)
	}
	if len(v) < bucketHead {
		return corrupt("a bucket is cut off")
	}
	sub := &tree{page: u.Uint64(v)}
	if sub.page == 0 {
		sub.inline = v[bucketHead:]
	}
	return f(k, nil, sub)
}

// page is a page with those that it runs over into.
func (db *DB) page(id uint64) ([]byte, error) {
	pages := uint64(len(db.data)) / db.pageSize
	if id >= pages {
		return nil, corrupt("page %d is not there", id)
	}
	at := id * db.pageSize
	end := (id + 1 + uint64(binary.NativeEndian.Uint32(db.data[at+12:]))) * db.pageSize
	if end > uint64(len(db.data)) {
		return nil, corrupt("page %d is cut off", id)
	}
	if db.seen[id] {
		return nil, corrupt("page %d is there twice", id)
	}
	db.seen[id] = true
	return db.data[at:end], nil
}
