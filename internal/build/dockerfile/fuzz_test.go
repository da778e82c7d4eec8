package dockerfile

import (
	"os"
	"path/filepath"
	"testing"

	"berth/internal/image"

	"golang.org/x/tools/txtar"
)

// No plan of the corpus, or of what is like it, has a stage that needs a later one.
func FuzzOrder(f *testing.F) {
	paths, err := filepath.Glob("../../../test/build/corpus/*.txt")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range txtar.Parse(data).Files {
			if file.Name == "Dockerfile" {
				f.Add(file.Data, "")
			}
		}
	}
	f.Fuzz(func(t *testing.T, text []byte, target string) {
		plan, err := Make(text, Options{
			Target: target, Platform: image.HostPlatform(), Build: image.HostPlatform(), Warn: func(Warning) {},
			Image: func(string, image.Platform) (image.Image, error) {
				return image.Image{Platform: image.HostPlatform(), RootFS: image.RootFS{Type: "layers"}, Config: image.Config{OnBuild: []string{"RUN x"}}}, nil
			},
		})
		if err != nil {
			return
		}
		done := map[*Stage]bool{}
		for _, s := range plan.Stages {
			for _, need := range s.Needs() {
				if !done[need] {
					t.Fatalf("%q needs what comes after it", s.Name)
				}
			}
			done[s] = true
		}
		_, _ = Targets(text)
	})
}
