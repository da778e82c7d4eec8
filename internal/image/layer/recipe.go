package layer

import (
	"bufio"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/image"
)

// A recipe says how the tar that a layer was made into is made again of its tree, byte for byte, by whatever version of berth: so a blob need not be
// kept that nobody may ever ask for.
//
//	recipe  = recipeMagic, { literal | file }, end
//	literal = 1, length, { number of bytes, these bytes, number of zeros }     until there are length bytes
//	file    = 2, length of its path, path in the tree, size                    the content of that file
//	end     = 0
//
// Numbers are uvarints. A literal, which is mostly headers, is XORed with the one before it, the ends of both together: what is the same in both
// is zeros, of which only the number is written.
const recipeMagic = "berth recipe 1\n"

const (
	recipeEnd = iota
	recipeLiteral
	recipeFile
)

// maxLiteral is how many bytes a literal has at most.
const maxLiteral = 1 << 20

// Recipe writes a recipe: it is given the bytes of a tar, and told before those that are a file's content.
type Recipe struct {
	w        *bufio.Writer
	literal  []byte
	previous []byte
	content  int64 // bytes of a file that come next
	err      error
}

// NewRecipe begins a recipe.
func NewRecipe(w io.Writer) *Recipe {
	r := &Recipe{w: bufio.NewWriterSize(w, 64<<10)}
	_, r.err = r.w.WriteString(recipeMagic)
	return r
}

// File says that the next size bytes are the content of a file of the tree.
func (r *Recipe) File(path string, size int64) {
	if size == 0 {
		return
	}
	r.flush()
	r.number(recipeFile, uint64(len(path)))
	_, _ = r.w.WriteString(path) // a bufio.Writer keeps its error
	r.number(uint64(size))
	r.content = size
}

// Write takes bytes of the tar. It fails only in the end.
func (r *Recipe) Write(p []byte) (int, error) {
	n := len(p)
	inFile := min(r.content, int64(n))
	r.content -= inFile
	for p = p[inFile:]; len(p) > 0; {
		part := p[:min(len(p), maxLiteral-len(r.literal))]
		r.literal = append(r.literal, part...)
		if p = p[len(part):]; len(r.literal) == maxLiteral {
			r.flush()
		}
	}
	return n, nil
}

// Close ends the recipe. Without an end it is none.
func (r *Recipe) Close() error {
	r.flush()
	r.number(recipeEnd)
	return errors.Join(r.err, r.w.Flush())
}

func (r *Recipe) number(all ...uint64) {
	for _, n := range all {
		_, _ = r.w.Write(binary.AppendUvarint(r.w.AvailableBuffer(), n))
	}
}

func (r *Recipe) flush() {
	if len(r.literal) == 0 {
		return
	}
	r.number(recipeLiteral, uint64(len(r.literal)))
	// The literal itself is what the next one is compared with; what is written is made of the one before.
	same := r.previous
	mask(same, r.literal)
	different := r.literal
	if len(same) >= len(different) {
		different = same[len(same)-len(different):]
	} else {
		r.runs(r.literal[:len(r.literal)-len(same)])
		different = same
	}
	r.runs(different)
	r.literal, r.previous = r.previous[:0], r.literal
}

// mask XORs the end of b with that of a.
func mask(b, a []byte) {
	n := min(len(a), len(b))
	end := b[len(b)-n:]
	subtle.XORBytes(end, end, a[len(a)-n:])
}

// minZeros is how many zeros are worth a number.
const minZeros = 8

// runs writes bytes as runs.
func (r *Recipe) runs(b []byte) {
	for len(b) > 0 {
		some := 0 // bytes before the next run of zeros
		zeros := 0
		for some+zeros < len(b) {
			if at := some + zeros; b[at] == 0 {
				zeros++
				for at++; at+8 <= len(b) && binary.NativeEndian.Uint64(b[at:]) == 0; at += 8 {
					zeros += 8
				}
				continue
			}
			if zeros >= minZeros {
				break
			}
			some, zeros = some+zeros+1, 0
		}
		if some+zeros == len(b) && zeros < minZeros {
			some, zeros = len(b), 0
		}
		r.number(uint64(some))
		_, _ = r.w.Write(b[:some])
		r.number(uint64(zeros))
		b = b[some+zeros:]
	}
}

// Makes reports whether the blob of a layer can be made of its tree.
func (s *Store) Makes(chain image.Digest) bool {
	return chain.Validate() == nil && unix.Access(s.recipe(chain), unix.F_OK) == nil
}

func (s *Store) recipe(chain image.Digest) string { return s.path(chain) + "/" + recipeName }

// Maker finds a layer of which the blob with a diff ID can be made; "" if there is none.
func (s *Store) Maker(diffID image.Digest) (image.Digest, error) {
	chains, err := s.List()
	if err != nil {
		return "", err
	}
	for _, chain := range chains {
		if !s.Makes(chain) {
			continue
		}
		info, err := s.Info(chain)
		if errdef.Is(err, errdef.NotFound) { // removed meanwhile
			continue
		}
		if err != nil {
			return "", err
		}
		if info.DiffID == diffID {
			return chain, nil
		}
	}
	return "", nil
}

// Blob makes the blob with a diff ID of a layer's tree, to be read once. nil is that there is no recipe. The bytes are not verified.
func (s *Store) Blob(diffID image.Digest) (io.ReadCloser, error) {
	chain, err := s.Maker(diffID)
	if err != nil || chain == "" {
		return nil, err
	}
	recipe, err := os.Open(s.recipe(chain))
	if err != nil {
		return nil, err
	}
	tree, err := os.Open(s.Path(chain))
	if err != nil {
		return nil, errors.Join(err, recipe.Close())
	}
	return newCook(recipe, tree)
}

// GiveRecipe gives a layer that has none the recipe of another with the same diff ID: its tree has the same files. It is
// durable then.
func (s *Store) GiveRecipe(from, to image.Digest) error {
	err := os.Link(s.recipe(from), s.recipe(to))
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return disk.SyncDir(s.path(to))
}

// TakeRecipe gives a layer the recipe in a file, which is on the same file system, unless it has one. It is durable then.
func (s *Store) TakeRecipe(chain image.Digest, file string) error {
	if s.Makes(chain) {
		return nil
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(file, s.recipe(chain)); err != nil {
		return err
	}
	return disk.SyncDir(s.path(chain))
}

// cook carries a recipe out.
type cook struct {
	mu           sync.Mutex // a transport closes what it sends while it reads it
	closed       bool
	in           *bufio.Reader
	recipe, tree *os.File

	literal, rest []byte // the last literal, and what of it is still to be given
	file          int    // the file that is being read, or -1
	path          string
	left          int64 // bytes of it
	ended         bool
}

// newCook begins to carry out a recipe, for a tree. It closes both.
func newCook(recipe, tree *os.File) (*cook, error) {
	c := &cook{in: bufio.NewReaderSize(recipe, 64<<10), recipe: recipe, tree: tree, file: -1}
	magic := make([]byte, len(recipeMagic))
	if _, err := io.ReadFull(c.in, magic); err != nil || string(magic) != recipeMagic {
		return nil, errors.Join(c.wrong("how it begins"), c.Close())
	}
	return c, nil
}

// Close ends the reading.
func (c *cook) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.closeFile()
	return errors.Join(c.recipe.Close(), c.tree.Close())
}

func (c *cook) closeFile() {
	if c.file >= 0 {
		_ = unix.Close(c.file)
		c.file = -1
	}
}

func (c *cook) wrong(what string) error {
	return errdef.New(errdef.Corrupt, "cannot make the blob of a layer again: %s is not what is written in a recipe, in %s", what, c.recipe.Name())
}

func (c *cook) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case c.closed:
			return 0, os.ErrClosed
		case len(p) == 0:
			return 0, nil
		case len(c.rest) > 0:
			n := copy(p, c.rest)
			c.rest = c.rest[n:]
			return n, nil
		case c.file >= 0:
			return c.content(p)
		case c.ended:
			return 0, io.EOF
		}
		if err := c.next(); err != nil {
			return 0, err
		}
	}
}

// content reads from a file, which is closed with its last byte.
func (c *cook) content(p []byte) (int, error) {
	n, err := unix.Read(c.file, p[:min(int64(len(p)), c.left)])
	if err == unix.EINTR {
		return 0, nil
	}
	if err != nil {
		return 0, &os.PathError{Op: "read", Path: c.path, Err: err}
	}
	if n == 0 {
		return 0, errdef.New(errdef.Corrupt, "cannot make the blob of a layer again: %q of %s is %d bytes shorter than it was", c.path, c.tree.Name(), c.left)
	}
	if c.left -= int64(n); c.left == 0 {
		c.closeFile()
	}
	return n, nil
}

// next reads what the recipe says.
func (c *cook) next() error {
	kind, err := binary.ReadUvarint(c.in)
	if err != nil {
		return c.wrong("its end")
	}
	switch kind {
	case recipeEnd:
		c.ended = true
		return nil
	case recipeLiteral:
		return c.nextLiteral()
	case recipeFile:
		return c.nextFile()
	}
	return c.wrong("a kind")
}

func (c *cook) nextLiteral() error {
	length, err := binary.ReadUvarint(c.in)
	if err != nil || length == 0 || length > maxLiteral {
		return c.wrong("a length")
	}
	b := make([]byte, 0, length)
	for uint64(len(b)) < length {
		some, err := binary.ReadUvarint(c.in)
		if err != nil || some > length-uint64(len(b)) {
			return c.wrong("a number of bytes")
		}
		at := len(b)
		b = b[:at+int(some)]
		if _, err := io.ReadFull(c.in, b[at:]); err != nil {
			return c.wrong("what is written down")
		}
		zeros, err := binary.ReadUvarint(c.in)
		if err != nil || zeros > length-uint64(len(b)) || some+zeros == 0 {
			return c.wrong("a number of zeros")
		}
		b = b[:len(b)+int(zeros)] // of a new slice
	}
	mask(b, c.literal)
	c.literal, c.rest = b, b
	return nil
}

func (c *cook) nextFile() error {
	n, err := binary.ReadUvarint(c.in)
	if err != nil || n == 0 || n >= unix.PathMax {
		return c.wrong("a path")
	}
	path := make([]byte, n)
	if _, err := io.ReadFull(c.in, path); err != nil {
		return c.wrong("a path")
	}
	size, err := binary.ReadUvarint(c.in)
	if err != nil || size == 0 || size > 1<<62 {
		return c.wrong("a size")
	}
	c.path, c.left = string(path), int64(size)
	fd, err := disk.OpenIn(int(c.tree.Fd()), c.path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0, disk.Beneath|unix.RESOLVE_NO_SYMLINKS)
	if err != nil {
		return errdef.New(errdef.Corrupt, "cannot make the blob of a layer again: %v, in %s", err, c.tree.Name())
	}
	c.file = fd
	return nil
}
