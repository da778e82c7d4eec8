// Command manual writes berth's manual pages and docs/cli.md from the table of commands.
package main

import (
	_ "embed"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"berth/internal/cli"
)

// page is Dockerfile(5).
//
//go:embed Dockerfile.5
var page []byte

func main() {
	man := flag.String("man", "", "directory to write manual pages to, as man1 in a directory of MANPATH")
	reference := flag.String("reference", "", "file to write the reference to, docs/cli.md")
	flag.Parse()
	if err := write(*man, *reference); err != nil {
		fmt.Fprintln(os.Stderr, "manual:", err)
		os.Exit(1)
	}
}

func write(man, reference string) error {
	if reference != "" {
		if err := os.WriteFile(reference, []byte(cli.Reference()), 0o644); err != nil {
			return err
		}
	}
	if man == "" {
		return nil
	}
	if err := os.MkdirAll(man, 0o755); err != nil {
		return err
	}
	formats := filepath.Join(filepath.Dir(filepath.Clean(man)), "man5")
	if err := os.MkdirAll(formats, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(formats, "Dockerfile.5"), page, 0o644); err != nil {
		return err
	}
	for name, text := range cli.ManualPages() {
		if err := os.WriteFile(filepath.Join(man, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}
