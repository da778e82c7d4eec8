package main

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/u-root/u-root/pkg/tarutil"
)

// compress is gzip, gunzip and zcat: files are replaced, unless -c or zcat send them to standard output.
func compress(args []string, unpack, toStdout bool) error {
	o, names, err := getopt(args, "cdfk123456789")
	if err != nil {
		return err
	}
	unpack = unpack || o.has('d')
	toStdout = toStdout || o.has('c') || len(names) == 0
	level := gzip.DefaultCompression
	for letter := range o {
		if letter >= '1' && letter <= '9' {
			level = int(letter - '0')
		}
	}
	convert := func(w io.Writer, r io.Reader) error {
		if unpack {
			plain, err := gzip.NewReader(r)
			if err == nil {
				_, err = io.Copy(w, plain)
			}
			return err
		}
		packed, err := gzip.NewWriterLevel(w, level)
		if err == nil {
			_, err = io.Copy(packed, r)
			err = errors.Join(err, packed.Close())
		}
		return err
	}
	if toStdout {
		return eachFile("gzip", names, func(_ string, r io.Reader) error { return convert(stdout, r) })
	}
	return eachFile("gzip", names, func(name string, r io.Reader) error {
		target := name + ".gz"
		if unpack {
			var ok bool
			if target, ok = strings.CutSuffix(name, ".gz"); !ok {
				return fmt.Errorf("%s: the name does not end in .gz", name)
			}
		}
		flags := os.O_WRONLY | os.O_CREATE | os.O_EXCL
		if o.has('f') {
			flags = os.O_WRONLY | os.O_CREATE | os.O_TRUNC
		}
		file, err := os.OpenFile(target, flags, 0o666)
		if err != nil {
			return err
		}
		if err := errors.Join(convert(file, r), file.Close()); err != nil {
			return errors.Join(fmt.Errorf("%s: %w", name, err), os.Remove(target))
		}
		if o.has('k') {
			return nil
		}
		return os.Remove(name)
	})
}

func sha256sum(args []string) error {
	return eachFile("sha256sum", args, func(name string, r io.Reader) error {
		sum := sha256.New()
		if _, err := io.Copy(sum, r); err != nil {
			return err
		}
		_, err := fmt.Fprintf(stdout, "%x  %s\n", sum.Sum(nil), name)
		return err
	})
}

// tarball is tar -c, -x or -t, with -f FILE (without, or "-": standard streams), -C DIRECTORY, -v and -z.
func tarball(args []string) error {
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		args = append([]string{"-" + args[0]}, args[1:]...) // "tar xzf FILE"
	}
	o, names, err := getopt(args, "cxtvzf:C:")
	if err != nil {
		return err
	}
	dir := "."
	if o.has('C') {
		dir = o['C']
	}
	opts := &tarutil.Opts{ChangeDirectory: o['C']}
	if o.has('v') {
		opts.Filters = []tarutil.Filter{func(h *tar.Header) bool { fmt.Fprintln(os.Stderr, h.Name); return true }}
	}
	file := os.Stdin
	switch {
	case o.has('c') && !o.has('x') && !o.has('t') && len(names) > 0:
		file = os.Stdout
		if name := o['f']; name != "" && name != "-" {
			if file, err = os.Create(name); err != nil {
				return err
			}
			defer file.Close()
		}
		if !o.has('z') {
			return tarutil.CreateTar(file, names, opts)
		}
		packed := gzip.NewWriter(file)
		return errors.Join(tarutil.CreateTar(packed, names, opts), packed.Close())
	case o.has('x') != o.has('t') && !o.has('c') && len(names) == 0:
		var r io.Reader = file
		if name := o['f']; name != "" && name != "-" {
			if file, err = os.Open(name); err != nil {
				return err
			}
			defer file.Close()
			r = file
		}
		if o.has('z') {
			if r, err = gzip.NewReader(file); err != nil {
				return err
			}
		}
		if o.has('x') {
			opts.ChangeDirectory = ""
			return tarutil.ExtractDir(r, dir, opts)
		}
		for t := tar.NewReader(r); ; {
			h, err := t.Next()
			if err != nil {
				return ignoreEOF(err)
			}
			fmt.Fprintln(stdout, h.Name)
		}
	}
	return usageError("usage: tar -c [-vz] [-f FILE] [-C DIRECTORY] PATH... | tar -x|-t [-vz] [-f FILE] [-C DIRECTORY]")
}
