package dockerfile

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"berth/internal/errdef"
	"berth/internal/image"

	"golang.org/x/tools/txtar"
)

var update = flag.Bool("update", false, "write the golden files anew")

// images are those that the tests know.
func images(ref string, _ image.Platform) (image.Image, error) {
	im := image.Image{Platform: image.Platform{OS: "linux", Architecture: "amd64"}, RootFS: image.RootFS{Type: "layers", DiffIDs: []image.Digest{"sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"}}}
	switch ref {
	case "docker.io/library/box:latest":
		im.Config = image.Config{Env: []string{"PATH=/bin", "FROM_BASE=yes"}, Cmd: []string{"sh"}, WorkingDir: "/base"}
	case "docker.io/library/triggers:latest":
		im.Config = image.Config{OnBuild: []string{"ENV TRIGGERED=yes", "COPY . /src", "RUN make"}}
	default:
		return im, errdef.New(errdef.NotFound, "no such image: %s", ref)
	}
	return im, nil
}

// text is a plan as the golden files have it.
func text(p *Plan) string {
	var b strings.Builder
	for _, s := range p.Stages {
		fmt.Fprintf(&b, "stage %q", s.Name)
		switch {
		case s.Base != nil:
			fmt.Fprintf(&b, " on stage %q", s.Base.Name)
		case s.Ref != "":
			fmt.Fprintf(&b, " on %s", s.Ref)
		}
		b.WriteByte('\n')
		for _, step := range s.Steps {
			fmt.Fprintf(&b, "  %s (line %d)\n", step.Title, step.Lines.First)
			switch {
			case step.Run != nil:
				fmt.Fprintf(&b, "    run %q as %q in %s\n    env %q\n", step.Run.Args, step.Run.User, step.Run.Workdir, step.Run.Env)
				for _, m := range step.Run.Mounts {
					from := ""
					if m.From != nil {
						from = m.From.Name + m.From.Ref
					}
					fmt.Fprintf(&b, "    mount %s %s from %q source %q ro %v id %q\n", m.Type, m.Target, from, m.Source, m.ReadOnly, m.ID)
				}
				if step.Run.Script.Name != "" {
					fmt.Fprintf(&b, "    script %+v\n", step.Run.Script)
				}
			case step.Copy != nil:
				from := "context"
				if step.Copy.From != nil {
					from = step.Copy.From.Name + step.Copy.From.Ref
				}
				fmt.Fprintf(&b, "    copy %q of %s to %s chown %q chmod %q\n", step.Copy.Sources, from, step.Copy.Dest, step.Copy.Chown, step.Copy.Chmod)
				for _, f := range step.Copy.Contents {
					fmt.Fprintf(&b, "    content %q %q\n", f.Name, f.Data)
				}
			default:
				fmt.Fprintf(&b, "    mkdir %s for %q\n", step.Mkdir.Path, step.Mkdir.User)
			}
		}
	}
	t := p.Target()
	c := t.Image.Config
	fmt.Fprintf(&b, "config env %q cmd %q entrypoint %q user %q dir %s\n", c.Env, c.Cmd, c.Entrypoint, c.User, c.WorkingDir)
	if len(c.Labels)+len(c.ExposedPorts)+len(c.Volumes) > 0 {
		fmt.Fprintf(&b, "config labels %v ports %v volumes %v\n", c.Labels, sortedKeys(c.ExposedPorts), sortedKeys(c.Volumes))
	}
	for _, h := range t.Image.History {
		layer := "layer"
		if h.EmptyLayer {
			layer = "     "
		}
		fmt.Fprintf(&b, "%s %s\n", layer, h.CreatedBy)
	}
	return b.String()
}

// The golden files have a Dockerfile, what it is built with, and its plan, or the error.
func TestPlansAreAsWritten(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no golden files", err)
	}
	for _, path := range files {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			a, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			opt := Options{
				Args: map[string]string{}, Platform: image.Platform{OS: "linux", Architecture: "arm64"}, Build: image.Platform{OS: "linux", Architecture: "amd64"},
				Image: images,
			}
			var warnings strings.Builder
			opt.Warn = func(w Warning) { fmt.Fprintf(&warnings, "warning %s (line %d)\n", w.Rule, w.Lines.First) }
			for line := range strings.Lines(string(a.Comment)) {
				key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
				switch key {
				case "arg":
					k, v, _ := strings.Cut(value, "=")
					opt.Args[k] = v
				case "target":
					opt.Target = value
				}
			}
			var got string
			plan, err := Make(a.Files[0].Data, opt)
			if err != nil {
				got = "error: " + err.Error() + "\n"
			} else {
				got = text(plan)
			}
			got += warnings.String()
			if *update {
				a.Files = append(a.Files[:1], txtar.File{Name: "plan", Data: []byte(got)})
				if err := os.WriteFile(path, txtar.Format(a), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if want := string(a.Files[1].Data); got != want {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

func FuzzMake(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.txt")
	for _, path := range files {
		if a, err := txtar.ParseFile(path); err == nil {
			f.Add(a.Files[0].Data)
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		plan, err := Make(text, Options{Platform: image.HostPlatform(), Build: image.HostPlatform(), Image: images})
		if err != nil {
			return
		}
		for _, s := range plan.Stages {
			layers := 0
			for _, h := range s.Image.History {
				if !h.EmptyLayer {
					layers++
				}
			}
			steps := 0
			for at := s; at != nil; at = at.Base {
				steps += len(at.Steps)
				if at.Ref != "" {
					steps++ // images have one layer each
				}
			}
			if layers != steps {
				t.Errorf("stage %q has %d layers in its history, and %d steps that make one", s.Name, layers, steps)
			}
		}
	})
}
