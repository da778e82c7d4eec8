// Package tarsplit puts the tar of a layer together again, byte by byte, from the files that were unpacked from it and the record that docker
// and podman keep of all else: headers, padding, order (github.com/vbatts/tar-split, tar/storage).
//
// A record is lines of JSON. One of type 2 (a segment) carries bytes of the tar as they were; one of type 1 (a file) stands for as many bytes of
// a file's content as it says. The package checks no sum: whoever asks for a layer knows its digest. It opens nothing itself.
package tarsplit

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"berth/internal/errdef"
)

// maxLine bounds a line: a segment is a header with its extensions, which have at most some megabytes of attributes.
const maxLine = 32 << 20

// entry is a line of a record.
type entry struct {
	Type    int    `json:"type"`
	Name    string `json:"name"`
	NameRaw []byte `json:"name_raw"` // for names that are no UTF-8
	Size    int64  `json:"size"`
	Payload []byte `json:"payload"`
}

const (
	typeFile    = 1
	typeSegment = 2
)

// Write writes the tar of which record is the record. open opens a file by its name in the tar.
func Write(w io.Writer, record io.Reader, open func(name string) (io.ReadCloser, error)) error {
	lines := bufio.NewScanner(record)
	lines.Buffer(make([]byte, 0, 64<<10), maxLine)
	for n := 1; lines.Scan(); n++ {
		var e entry
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return errdef.New(errdef.Corrupt, "line %d of the record of its tar cannot be read: %w", n, err)
		}
		switch e.Type {
		case typeSegment:
			if _, err := w.Write(e.Payload); err != nil {
				return err
			}
		case typeFile:
			if err := content(w, e, open); err != nil {
				return err
			}
		default:
			return errdef.New(errdef.Corrupt, "line %d of the record of its tar is of the unknown type %d", n, e.Type)
		}
	}
	if errors.Is(lines.Err(), bufio.ErrTooLong) {
		return errdef.New(errdef.Corrupt, "a line of the record of its tar has more than %d bytes", maxLine)
	}
	if lines.Err() != nil {
		return errdef.New(errdef.Corrupt, "the record of its tar cannot be read: %w", lines.Err())
	}
	return nil
}

func content(w io.Writer, e entry, open func(name string) (io.ReadCloser, error)) error {
	if e.Size < 0 {
		return errdef.New(errdef.Corrupt, "the record of its tar says that %q has %d bytes", e.Name, e.Size)
	}
	if e.Size == 0 {
		return nil // a directory, a link, an empty file
	}
	name := e.Name
	if len(e.NameRaw) > 0 {
		name = string(e.NameRaw)
	}
	f, err := open(name)
	if err != nil {
		return fmt.Errorf("cannot open %q of it: %w", name, err)
	}
	defer f.Close()
	n, err := io.CopyN(w, f, e.Size)
	if errors.Is(err, io.EOF) {
		return errdef.New(errdef.Corrupt, "%q has %d bytes, not %d", name, n, e.Size)
	}
	return err
}
