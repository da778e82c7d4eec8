package fullcli

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"berth/internal/cli"
	"berth/internal/dockerconfig"
	"berth/internal/errdef"
)

// maxContextBytes is how large the archive of a context may be, as with docker.
const maxContextBytes = 10 << 20

// tlsPrefix is where the archive of a context has its TLS material.
const tlsPrefix = "tls/docker/"

// exportContext writes a context as docker does: meta.json, then the files below tls.
func exportContext(c cli.Call) error {
	d, name := dockerconfig.Default(), c.Args[0]
	if name == dockerconfig.DefaultContext {
		return errdef.New(errdef.Invalid, "context %q cannot be exported: it is this machine, or what DOCKER_HOST says", name)
	}
	of, err := d.Get(dockerconfig.Choice{}, name)
	if err != nil {
		return err
	}
	material, err := d.Material(name)
	if err != nil {
		return err
	}
	archive, err := contextArchive(of, material)
	if err != nil {
		return err
	}
	path := name + ".dockercontext"
	if len(c.Args) > 1 {
		path = c.Args[1]
	}
	if path == "-" {
		_, err := c.Out.Write(archive)
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) // it may hold a key
	if err != nil {
		return errdef.New(errdef.Conflict, "cannot write the context: %w", err)
	}
	_, err = f.Write(archive)
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(fmt.Errorf("cannot write the context: %w", err), os.Remove(path))
	}
	fmt.Fprintf(c.Err, "Written file %q\n", path)
	return nil
}

func contextArchive(of dockerconfig.Context, material map[string][]byte) ([]byte, error) {
	meta, err := json.Marshal(of)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	add := func(name string, mode int64, data []byte) {
		h := &tar.Header{Name: name, Mode: mode, Size: int64(len(data)), Typeflag: tar.TypeReg}
		if strings.HasSuffix(name, "/") {
			h.Typeflag = tar.TypeDir
		}
		if err == nil {
			err = w.WriteHeader(h)
		}
		if err == nil {
			_, err = w.Write(data)
		}
	}
	add("meta.json", 0o644, meta)
	add("tls/", 0o700, nil)
	if len(material) > 0 {
		add(tlsPrefix, 0o700, nil)
	}
	for _, file := range dockerconfig.TLSFiles {
		if data, has := material[file]; has {
			add(tlsPrefix+file, 0o600, data)
		}
	}
	err = errors.Join(err, w.Close())
	return b.Bytes(), err
}

func importContext(c cli.Call) error {
	d, name := dockerconfig.Default(), c.Args[0]
	if err := cli.CheckNewContext(d, name); err != nil {
		return err
	}
	in := io.Reader(c.In)
	if c.Args[1] != "-" {
		f, err := os.Open(c.Args[1])
		if err != nil {
			return errdef.New(errdef.NotFound, "cannot read the context: %w", err)
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, maxContextBytes+1))
	if err != nil {
		return fmt.Errorf("cannot read the context: %w", err)
	}
	if len(data) > maxContextBytes {
		return errdef.New(errdef.Invalid, "cannot read the context: it has more than %d bytes", maxContextBytes)
	}
	files, err := contextFiles(data)
	if err != nil {
		return errdef.New(errdef.Invalid, "cannot read the context: %w", err)
	}
	of, err := dockerconfig.ParseMeta(files["meta.json"])
	if err != nil {
		return errdef.New(errdef.Invalid, "cannot read the context: meta.json: %w", err)
	}
	of.Name = name
	material := map[string][]byte{}
	for _, file := range dockerconfig.TLSFiles {
		if data, has := files[tlsPrefix+file]; has {
			material[file] = data
		}
	}
	if err := d.Put(of, material); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(c.Out, name); err != nil {
		return err
	}
	fmt.Fprintf(c.Err, "Successfully imported context %q\n", name)
	return nil
}

// contextFiles reads the archive of a context, a tar or a zip, and refuses what no such archive has.
func contextFiles(archive []byte) (map[string][]byte, error) {
	files := map[string][]byte{}
	left := int64(maxContextBytes) // of what is unpacked, too
	add := func(name string, directory bool, from io.Reader) error {
		known := name == "meta.json" || slices.ContainsFunc(dockerconfig.TLSFiles, func(file string) bool { return name == tlsPrefix+file })
		switch {
		case directory:
			return nil
		case !known:
			return fmt.Errorf("%q: unexpected context file", name)
		}
		data, err := io.ReadAll(io.LimitReader(from, left+1))
		if left -= int64(len(data)); left < 0 {
			return fmt.Errorf("it has more than %d bytes", maxContextBytes)
		}
		files[name] = data
		return err
	}
	var err error
	if bytes.HasPrefix(archive, []byte("PK\x03\x04")) {
		err = readZip(archive, add)
	} else {
		err = readTar(archive, add)
	}
	if err != nil {
		return nil, err
	}
	if files["meta.json"] == nil {
		return nil, errors.New("invalid context: no metadata found")
	}
	return files, nil
}

func readTar(archive []byte, add func(name string, directory bool, from io.Reader) error) error {
	r := tar.NewReader(bytes.NewReader(archive))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg && h.Typeflag != tar.TypeDir {
			return fmt.Errorf("%q: unexpected context file", h.Name)
		}
		if err := add(h.Name, h.Typeflag == tar.TypeDir, r); err != nil {
			return err
		}
	}
}

func readZip(archive []byte, add func(name string, directory bool, from io.Reader) error) error {
	r, err := zip.NewReader(bytes.NewReader(archive), int64(len(archive)))
	if err != nil {
		return err
	}
	for _, f := range r.File {
		from, err := f.Open()
		if err != nil {
			return err
		}
		err = add(f.Name, f.FileInfo().IsDir(), from)
		if err = errors.Join(err, from.Close()); err != nil {
			return err
		}
	}
	return nil
}
