// Package foreign reads what docker and podman keep in their directories: images and volumes. It writes nothing there, takes none of their locks,
// and does not ask their programs.
//
// Neither keeps the tars of an image's layers; they keep the files, and a record of all else, from which the tar is put together again
// (foreign/tarsplit). Whether that is what the image's configuration says, its digest tells whoever stores it.
//
// All of it is hostile: paths are resolved beneath the directory that was given, and an image or a volume that cannot be read says why, and keeps
// no other from being read. The package stores nothing; internal/engine does not know it.
package foreign

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/foreign/tarsplit"
	"berth/internal/image"

	"golang.org/x/sys/unix"
)

// The engines whose directories can be read.
const (
	Docker = "docker"
	Podman = "podman"
)

// Store is the directories of an engine, which stay open.
type Store struct {
	Engine string
	root   *os.File
}

// Image is an image of theirs.
type Image struct {
	ID     image.Digest
	Names  []string // as that engine has them
	Config []byte   // whose digest is ID
	Parsed image.Image
	// Manifest is theirs, where its blobs are the tars of Layers; nil means that none is here.
	Manifest []byte
	Layers   []Layer
	// Hidden is an image without a name that is only a step on the way to another; Pinned is one that is known by its manifest's digest alone.
	Hidden, Pinned bool
	Err            error // why it cannot be had
}

// Layer is a layer of an image.
type Layer struct {
	DiffID image.Digest
	// Tar writes its tar. Nothing has been verified.
	Tar func(w io.Writer) error
}

// Volume is a volume of theirs.
type Volume struct {
	Name      string
	Labels    map[string]string
	Options   map[string]string // docker's of the driver local
	Anonymous bool
	Err       error // why it cannot be had

	dir string
}

// limits of documents that are read whole
const (
	maxDocument = 64 << 20 // layers.json of podman has some 500 bytes for a layer
	maxName     = 256
)

// Open opens the directories of an engine at root.
func Open(engine, root string) (*Store, error) {
	fail := func(err error) (*Store, error) {
		return nil, errdef.Hint(errdef.New(errdef.KindOf(err), "cannot read what %s has in %s: %w", engine, root, err), "name its directory with --root")
	}
	f, err := os.OpenFile(root, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return fail(err)
	}
	s := &Store{Engine: engine, root: f}
	if !s.known() {
		return fail(errors.Join(errdef.New(errdef.NotFound, "it has no images or volumes of %s's", engine), s.Close()))
	}
	return s, nil
}

// Close closes the directories.
func (s *Store) Close() error { return s.root.Close() }

// known reports whether these are the engine's directories at all.
func (s *Store) known() bool {
	if s.Engine == Docker {
		return s.has("image") || s.has("volumes/metadata.db")
	}
	return len(s.podmanDrivers()) > 0 || s.has("libpod")
}

// Owner is the user whose directories these are.
func (s *Store) Owner() (uid uint32, err error) {
	var st unix.Stat_t
	err = unix.Fstat(int(s.root.Fd()), &st)
	return st.Uid, os.NewSyscallError("fstat", err)
}

// within resolves paths of theirs: they have no links there, but for what is in a layer.
const within = disk.Beneath | unix.RESOLVE_NO_SYMLINKS

func (s *Store) has(name string) bool {
	fd, err := disk.OpenIn(int(s.root.Fd()), name, unix.O_PATH, 0, within)
	if err != nil {
		return false
	}
	return unix.Close(fd) == nil
}

func (s *Store) open(name string, flags int) (*os.File, error) {
	fd, err := disk.OpenIn(int(s.root.Fd()), name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|flags, 0, within)
	if err != nil {
		return nil, plain(name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// plain says of a path beneath the root what is wrong with it.
func plain(name string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errdef.New(errdef.NotFound, "there is no %s", name)
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.EXDEV):
		return errdef.New(errdef.Corrupt, "%s is or has a link, which is not followed", name)
	}
	var p *os.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	return fmt.Errorf("cannot open %s: %w", name, err)
}

func (s *Store) read(name string) ([]byte, error) {
	data, err := disk.ReadBounded(int(s.root.Fd()), name, maxDocument)
	var p *os.PathError
	if errors.As(err, &p) {
		return nil, plain(name, err)
	}
	return data, err
}

// names lists a directory; one that is not there is empty.
func (s *Store) names(dir string) ([]string, error) {
	f, err := s.open(dir, unix.O_DIRECTORY)
	if errdef.Is(err, errdef.NotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", dir, err)
	}
	return names, nil
}

// trees is where a storage driver has the files of a layer, by the layer's name.
func trees(driver, name string) (string, bool) {
	switch driver {
	case "overlay2", "overlay", "fuse-overlayfs":
		return path.Join(driver, name, "diff"), true
	case "vfs":
		return path.Join(driver, "dir", name), true
	case "btrfs":
		return path.Join(driver, "subvolumes", name), true
	}
	return "", false
}

// tar is a function that writes the tar of a layer whose record is the compressed file record and whose files are in the directory files.
func (s *Store) tar(record, files string) func(io.Writer) error {
	return func(w io.Writer) error {
		f, err := s.open(record, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		lines, err := gzip.NewReader(f)
		if err != nil {
			return errdef.New(errdef.Corrupt, "cannot decompress %s: %w", record, err)
		}
		dir, err := s.open(files, unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		defer dir.Close()
		return tarsplit.Write(w, lines, func(name string) (io.ReadCloser, error) {
			// A layer's own links lead to where the file was unpacked, which was done with the layer as root.
			fd, err := disk.OpenIn(int(dir.Fd()), path.Clean("/" + name)[1:], unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0, disk.InRoot)
			if err != nil {
				return nil, plain(name, err)
			}
			f := os.NewFile(uintptr(fd), name)
			if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
				return nil, errors.Join(errdef.New(errdef.Corrupt, "it is no regular file"), err, f.Close())
			}
			return f, nil
		})
	}
}

// ordinary reports whether a name from a document can be that of a file, and of no other place.
func ordinary(name string) bool {
	return name != "" && len(name) <= maxName && name != "." && name != ".." && !strings.ContainsAny(name, "/\x00")
}

// parse fills what follows from an image's configuration.
func (im *Image) parse(config []byte) error {
	if err := im.ID.Verify(config); err != nil {
		return errdef.As(errdef.Corrupt, err)
	}
	var err error
	im.Config = config
	im.Parsed, err = image.ParseConfig(config)
	return err
}
