// Command manual writes berth's manual pages and docs/cli.md from the table of commands.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"berth/internal/cli"
)

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
	for name, text := range cli.ManualPages() {
		if err := os.WriteFile(filepath.Join(man, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}
