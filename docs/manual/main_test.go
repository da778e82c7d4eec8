package main

import (
	"slices"
	"strings"
	"testing"

	"berth/internal/build/dockerfile"
	"berth/internal/image"

	"github.com/moby/buildkit/frontend/dockerfile/command"
)

// Each instruction has an example in Dockerfile(5), of which a plan can be made.
func TestExamplesOfDockerfile(t *testing.T) {
	var shown []string
	section := ""
	for i, part := range strings.Split(string(page), "\n.EX\n") {
		if i == 0 {
			section = part
			continue
		}
		example, rest, ok := strings.Cut(part, "\n.EE\n")
		if !ok {
			t.Fatalf("an example does not end: %.40s", part)
		}
		example = strings.ReplaceAll(example, `\-`, "-")
		name := "DIRECTIVES"
		if at := strings.LastIndex(section, "\n.TP\n.B "); at >= 0 {
			name = strings.Fields(section[at+len("\n.TP\n.B "):])[0]
			if !strings.Contains(example, name+" ") {
				t.Errorf("the example of %s does not show it", name)
			}
			shown = append(shown, strings.ToLower(name))
		}
		_, err := dockerfile.Make([]byte(example), dockerfile.Options{
			Platform: image.HostPlatform(), Build: image.HostPlatform(),
			Image: func(string, image.Platform) (image.Image, error) {
				return image.Image{Platform: image.HostPlatform(), RootFS: image.RootFS{Type: "layers"}}, nil
			},
		})
		if err != nil {
			t.Errorf("the example of %s: %v", name, err)
		}
		section = "\n" + rest
	}
	for name := range command.Commands {
		if !slices.Contains(shown, name) {
			t.Errorf("there is no example of %s", name)
		}
	}
}
