package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"berth/internal/build/dockerfile"
	"berth/internal/image"

	"golang.org/x/tools/txtar"
)

func TestTheTableIsTheCorpus(t *testing.T) {
	want, err := sentences("corpus")
	if err != nil {
		t.Fatal(err)
	}
	have, err := os.ReadFile("../../docs/dockerfile.md")
	if err != nil || string(have) != string(want) {
		t.Fatalf("docs/dockerfile.md is not what the corpus says (%v): make corpus-table", err)
	}
	seen := map[string]bool{}
	for line := range strings.Lines(string(have)) {
		sentence, _, _ := strings.Cut(strings.TrimPrefix(line, "| "), " | ")
		if strings.HasPrefix(line, "| ") && seen[sentence] {
			t.Errorf("twice: %s", sentence)
		}
		seen[sentence] = true
	}
	if n := strings.Count(string(have), "\n| "); n < 150 {
		t.Errorf("%d sentences", n)
	}
}

// A plan can be made of every Dockerfile that is not to fail, with the arguments that are given to it.
func TestPlansOfTheCorpus(t *testing.T) {
	files, err := filepath.Glob("corpus/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal(err)
	}
	for _, path := range files {
		a, err := txtar.ParseFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(a.Comment), "\nfails ") {
			continue
		}
		opt := dockerfile.Options{
			Args: map[string]string{}, Platform: image.HostPlatform(), Build: image.HostPlatform(),
			Image: func(string, image.Platform) (image.Image, error) {
				return image.Image{Platform: image.HostPlatform(), RootFS: image.RootFS{Type: "layers"}}, nil
			},
		}
		for line := range strings.Lines(string(a.Comment)) {
			words := strings.Fields(line)
			for i := 1; i+1 < len(words) && words[0] == "args"; i += 2 {
				switch words[i] {
				case "--build-arg":
					key, value, _ := strings.Cut(words[i+1], "=")
					opt.Args[key] = value
				case "--target":
					opt.Target = words[i+1]
				}
			}
		}
		for _, f := range a.Files {
			if f.Name != "Dockerfile" {
				continue
			}
			if _, err := dockerfile.Make(f.Data, opt); err != nil {
				t.Errorf("%s: %v", path, err)
			}
		}
	}
}
