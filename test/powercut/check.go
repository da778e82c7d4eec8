package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// describe lists a tree: path, type, mode, size, device number, and the digest of content or the target of a link.
func describe(tree string) (string, error) {
	var b strings.Builder
	err := filepath.WalkDir(tree, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return &os.PathError{Op: "lstat", Path: path, Err: err}
		}
		size, content := st.Size, ""
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			sum := sha256.Sum256(data)
			content = hex.EncodeToString(sum[:])
		case unix.S_IFLNK:
			if content, err = os.Readlink(path); err != nil {
				return err
			}
		case unix.S_IFDIR:
			size = 0 // the file system's affair
		}
		fmt.Fprintf(&b, "%s %o %d:%d %d %d %s\n", strings.TrimPrefix(path, tree), st.Mode, st.Uid, st.Gid, size, st.Rdev, content)
		return nil
	})
	return b.String(), err
}

// layers describes all layers that have their final names.
func layers(root string) (map[string]string, error) {
	entries, err := os.ReadDir(filepath.Join(root, "layers"))
	if err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	found := map[string]string{}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		dir := filepath.Join(root, "layers", e.Name())
		text, err := describe(filepath.Join(dir, "tree"))
		if err != nil {
			return nil, err
		}
		data, err := os.ReadFile(filepath.Join(dir, "layer.json"))
		if err != nil {
			return nil, err
		}
		if !json.Valid(data) {
			text = "its layer.json is broken"
		}
		if _, err := os.Lstat(filepath.Join(dir, "opaque-root")); err == nil {
			text = "opaque\n" + text
		}
		found[e.Name()] = text
	}
	return found, nil
}

// brokenBlobs are the blobs whose digest is not their name.
func brokenBlobs(root string) (broken []string, err error) {
	dir := filepath.Join(root, "content/blobs/sha256")
	entries, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != e.Name() {
			broken = append(broken, e.Name())
		}
	}
	return broken, nil
}

// leftovers are what images, layers, builds and containers have left in a data root that has none of them.
func leftovers(root string) (left []string, err error) {
	for _, dir := range []string{"content/blobs/sha256", "content/ingest", "layers", "images", "containers", "names", "build/steps", "build/cache"} {
		entries, err := os.ReadDir(filepath.Join(root, dir))
		if err != nil && !os.IsNotExist(err) {
			return nil, err
		}
		for _, e := range entries {
			// What an interrupted pull has is kept for a day, for the next one.
			if !strings.HasPrefix(e.Name(), ".lock") && !strings.HasPrefix(e.Name(), "sha256-") {
				left = append(left, filepath.Join(dir, e.Name()))
			}
		}
	}
	return left, nil
}

// syncDir makes all of a file system durable.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return os.NewSyscallError("syncfs", unix.Syncfs(int(f.Fd())))
}
