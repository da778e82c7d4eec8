package unpack

import (
	"path"
	"strings"

	"berth/internal/errdef"
)

const (
	whiteoutPrefix = ".wh."
	// Names that begin so are aufs's own notes (image-spec, layer.md, "Whiteouts"); one of them has a meaning.
	metaPrefix = ".wh..wh."
	opaqueName = ".wh..wh..opq"
)

// maxDepth bounds how deep a tree may be: whoever removes it has a descriptor open for each level.
const maxDepth = 255

// action is what an entry's name asks for.
type action uint8

const (
	actMake   action = iota // make what the entry is
	actRoot                 // the root itself
	actHide                 // a whiteout
	actOpaque               // the directory hides what is below
	actIgnore               // aufs's notes
)

// target is where an entry goes: base inside the directory dir, which is "." or a clean relative path.
type target struct {
	act       action
	dir, base string
}

// path is the clean path beneath the root.
func (t target) path() string {
	if t.dir == "." {
		return t.base
	}
	return t.dir + "/" + t.base
}

// clean takes a path out of a tar for one beneath the root. A leading "/" means the root. ".." is refused rather
// than resolved: what it means depends on symlinks, and nothing that writes layers uses it.
func clean(name string, limit int) (string, error) {
	if len(name) > limit {
		return "", errdef.New(errdef.Invalid, "its path has %d bytes; at most %d are allowed", len(name), limit)
	}
	if strings.IndexByte(name, 0) >= 0 {
		return "", errdef.New(errdef.Invalid, "its path contains a NUL byte")
	}
	if strings.Contains(name, "..") {
		for part := range strings.SplitSeq(name, "/") {
			if part == ".." {
				return "", errdef.New(errdef.Invalid, "its path contains \"..\"")
			}
		}
	}
	name = path.Clean(strings.TrimLeft(name, "/"))
	if strings.Count(name, "/") >= maxDepth {
		return "", errdef.New(errdef.Invalid, "it lies more than %d directories deep", maxDepth)
	}
	return name, nil
}

// classify says what an entry's name asks for.
func classify(name string, limit int) (target, error) {
	p, err := clean(name, limit)
	if err != nil {
		return target{}, err
	}
	if p == "." {
		return target{act: actRoot}, nil
	}
	dir, base := path.Split(p)
	t := target{dir: path.Clean(dir), base: base}
	if !strings.Contains(p, whiteoutPrefix) {
		return t, nil
	}
	for part := range strings.SplitSeq(t.dir, "/") {
		if strings.HasPrefix(part, metaPrefix) {
			return target{act: actIgnore}, nil
		}
		if strings.HasPrefix(part, whiteoutPrefix) {
			return target{}, errdef.New(errdef.Invalid, "it lies inside a whiteout")
		}
	}
	hidden, isWhiteout := strings.CutPrefix(base, whiteoutPrefix)
	switch {
	case base == opaqueName:
		t.act, t.base = actOpaque, ""
	case strings.HasPrefix(base, metaPrefix):
		t.act = actIgnore
	case !isWhiteout:
	case hidden == "" || hidden == "." || hidden == "..":
		return target{}, errdef.New(errdef.Invalid, "it is a whiteout of no file")
	default:
		t.act, t.base = actHide, hidden
	}
	return t, nil
}
