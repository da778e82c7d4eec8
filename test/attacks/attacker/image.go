package main

import (
	"archive/tar"
	"errors"
	"fmt"
	"os"
	"strings"
)

// writeImage writes the tar of an image for `berth import`: this program as /attacker, and what entries say:
// "dir:PATH", "link:PATH=TARGET", "file:PATH=TEXT".
func writeImage(path string, entries []string) (err error) {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	w := tar.NewWriter(f)
	defer func() { err = errors.Join(err, w.Close(), f.Close()) }()
	put := func(h tar.Header, data string) error {
		h.Size, h.Mode = int64(len(data)), 0o755
		if err := w.WriteHeader(&h); err != nil {
			return err
		}
		_, err := w.Write([]byte(data))
		return err
	}
	if err := put(tar.Header{Typeflag: tar.TypeReg, Name: "attacker"}, string(self)); err != nil {
		return err
	}
	for _, e := range entries {
		kind, rest, _ := strings.Cut(e, ":")
		name, value, _ := strings.Cut(rest, "=")
		name = strings.TrimPrefix(name, "/")
		switch kind {
		case "dir":
			err = put(tar.Header{Typeflag: tar.TypeDir, Name: name + "/"}, "")
		case "link":
			err = put(tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: value}, "")
		case "file":
			err = put(tar.Header{Typeflag: tar.TypeReg, Name: name}, value)
		default:
			err = fmt.Errorf("%q is no entry", e)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
