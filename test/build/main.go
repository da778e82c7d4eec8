// Command build builds each Dockerfile of a corpus with berth and with docker, and compares what comes of it: the configuration, the
// history, and of every layer each file's type, mode, owner, size, content, link and attributes. Times are not compared.
//
// A file of the corpus is a txtar: a Dockerfile and its context. Its comment has a line "sentence TEXT" for what of the language it shows, and may
// have lines "args ARG..." for both commands, in which @ is the context, "setup COMMAND" for what a list of files cannot say, "differs WHAT" for
// what a difference that is meant begins with, "alone" where docker's BuildKit 20.10 does not know the feature without a frontend from elsewhere, so
// that the Dockerfile tests itself, and "fails TEXT" for a build that is to fail with that message.
//
// With -alone docker is not asked at all; with -table the sentences are written as docs/dockerfile.md has them.
package main

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/tools/txtar"
)

func main() {
	var (
		dir    = flag.String("dir", "", "where to work")
		berth  = flag.String("berth", "berth", "the program")
		docker = flag.String("docker", "docker", "the other program")
		corpus = flag.String("corpus", "", "the corpus")
		alone  = flag.Bool("alone", false, "build with berth alone")
		table  = flag.String("table", "", "write the table of sentences to this file")
	)
	flag.Parse()
	if *table != "" {
		text, err := sentences(*corpus)
		if err == nil {
			err = os.WriteFile(*table, text, 0o644)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if *alone {
		*docker = ""
	}
	if err := base(*dir, *berth, *docker); err != nil {
		fmt.Fprintln(os.Stderr, "cannot make the base:", err)
		os.Exit(1)
	}
	files, err := filepath.Glob(filepath.Join(*corpus, "*.txt"))
	if err != nil || len(files) == 0 {
		fmt.Fprintln(os.Stderr, "there is no corpus", err)
		os.Exit(1)
	}
	bad := 0
	for _, path := range files {
		name := strings.TrimSuffix(filepath.Base(path), ".txt")
		if flag.NArg() > 0 && !slices.Contains(flag.Args(), name) {
			continue
		}
		found, err := compare(path, name, *dir, *berth, *docker)
		switch {
		case err != nil:
			bad++
			fmt.Printf("FAIL %s: %v\n", name, err)
		case len(found) > 0:
			bad++
			fmt.Printf("FAIL %s:\n\t%s\n", name, strings.Join(found, "\n\t"))
		default:
			fmt.Printf("ok   %s\n", name)
		}
	}
	if bad > 0 {
		os.Exit(1)
	}
}

// base makes the image that the corpus begins with and gives it to both. It has all that a runtime would make in a tree that lacks it.
func base(dir, berth, docker string) error {
	text := "FROM box\nRUN mkdir -p /proc /sys /dev /run && touch /etc/hosts /etc/hostname /etc/resolv.conf && echo 'app:x:5:6::/home/app:/bin/sh' >>/etc/passwd && echo 'app:x:6:' >>/etc/group\n"
	cmd := exec.Command(berth, "build", "--network", "none", "-q", "-t", "base", "-")
	cmd.Stdin, cmd.Stderr = strings.NewReader(text), os.Stderr
	if err := cmd.Run(); err != nil {
		return err
	}
	if docker == "" {
		return nil
	}
	archive := filepath.Join(dir, "base.tar")
	return errors.Join(run(berth, "save", "-o", archive, "base"), run(docker, "load", "-i", archive))
}

// daemon is where test/build/run has docker's; berth is not to be told.
const daemon = "unix:///run/docker.own/sock"

func run(program string, args ...string) error {
	cmd := exec.Command(program, args...)
	if filepath.Base(program) == "docker" {
		cmd.Env = append(os.Environ(), "DOCKER_HOST="+daemon)
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w\n%s", filepath.Base(program), strings.Join(args, " "), err, out)
	}
	return nil
}

// ofOlder are differences of the BuildKit of docker 20.10 from today's, whose source says otherwise: what it writes into the history of ARG,
// EXPOSE and HEALTHCHECK, and of owners; that RUN touches /etc; that the owner does not count for archives; that the places of mounts stay in the layer.
var ofOlder = regexp.MustCompile(`^history \d+: (ARG|EXPOSE|HEALTHCHECK|(COPY|ADD) --chown)|^layer \d+ (etc|[cdkt]|run|run/secrets): , docker has type 5`)

// compare builds one file of the corpus twice and returns the differences that are not meant.
func compare(path, name, dir, berth, docker string) (found []string, err error) {
	a, err := txtar.ParseFile(path)
	if err != nil {
		return nil, err
	}
	ctx := filepath.Join(dir, "ctx-"+name)
	if err := os.MkdirAll(ctx, 0o755); err != nil {
		return nil, err
	}
	for _, f := range a.Files {
		file := filepath.Join(ctx, f.Name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, f.Data, 0o644)); err != nil {
			return nil, err
		}
	}
	args := []string{"build", "--network", "none", "-q", "-t", "corpus-" + name}
	var meant []string
	fails := ""
	if docker == "" {
		defer os.RemoveAll(ctx)
	}
	for line := range strings.Lines(string(a.Comment)) {
		word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch word {
		case "args":
			args = append(args, strings.Fields(strings.ReplaceAll(rest, "@", ctx))...)
		case "alone":
			docker = ""
		case "fails":
			fails = rest
		case "differs":
			meant = append(meant, rest)
		case "setup": // what an archive of files cannot say
			if err := run("sh", "-c", "cd "+ctx+" && "+rest); err != nil {
				return nil, err
			}
		}
	}
	args = append(args, ctx)
	if fails != "" {
		switch err := run(berth, args...); {
		case err == nil:
			return []string{"it does not fail"}, nil
		case !strings.Contains(err.Error(), fails):
			return []string{fmt.Sprintf("it fails otherwise: %v", err)}, nil
		}
		return nil, nil
	}
	if docker == "" {
		return nil, run(berth, args...)
	}
	var images [2]built
	for i, program := range [2]string{berth, docker} {
		if err := run(program, args...); err != nil {
			return nil, err
		}
		archive := filepath.Join(dir, fmt.Sprintf("%s-%d.tar", name, i))
		if err := run(program, "save", "-o", archive, "corpus-"+name); err != nil {
			return nil, err
		}
		if images[i], err = read(archive); err != nil {
			return nil, err
		}
	}
	for _, d := range difference(images[0], images[1]) {
		if !slices.ContainsFunc(meant, func(m string) bool { return strings.HasPrefix(d, m) }) && !ofOlder.MatchString(d) {
			found = append(found, d)
		}
	}
	return found, nil
}

// sentences are a table of what the files of a corpus show.
func sentences(corpus string) ([]byte, error) {
	files, err := filepath.Glob(filepath.Join(corpus, "*.txt"))
	if err != nil {
		return nil, err
	}
	var out strings.Builder
	out.WriteString(tableHead)
	for _, path := range files {
		a, err := txtar.ParseFile(path)
		if err != nil {
			return nil, err
		}
		sentence, ok := strings.CutPrefix(strings.SplitN(string(a.Comment), "\n", 2)[0], "sentence ")
		if !ok {
			return nil, fmt.Errorf("%s does not begin with a sentence", path)
		}
		compared := "compared"
		switch comment := "\n" + string(a.Comment); {
		case strings.Contains(comment, "\nfails "):
			compared = "fails"
		case strings.Contains(comment, "\nalone\n"):
			compared = "tests itself"
		}
		fmt.Fprintf(&out, "| %s | [%s](../test/build/corpus/%s) | %s |\n",
			strings.ReplaceAll(sentence, "|", "\\|"), strings.TrimSuffix(filepath.Base(path), ".txt"), filepath.Base(path), compared)
	}
	return []byte(out.String()), nil
}

const tableHead = `# The language of Dockerfiles, sentence by sentence

Each sentence has a Dockerfile in test/build/corpus that shows it. "make corpus" builds all of them with berth and with the BuildKit of Debian's docker.io,
and compares configuration, history and every file of every layer; those that docker 20.10 does not know without a frontend from elsewhere test themselves,
and some are to fail. "make corpus-table" writes this page, and a test compares it with the corpus.

| sentence | file | how |
| --- | --- | --- |
`

// built is an image as it is compared.
type built struct {
	config  map[string]any
	history []string
	layers  []map[string]string
}

// read reads a docker-archive.
func read(path string) (b built, err error) {
	files := map[string][]byte{}
	f, err := os.Open(path)
	if err != nil {
		return b, err
	}
	defer f.Close()
	for t := tar.NewReader(f); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return b, err
		}
		if h.Typeflag == tar.TypeSymlink { // docker's way to say that two layers are one
			files[h.Name] = files[filepath.Join(filepath.Dir(h.Name), h.Linkname)]
			continue
		}
		data, err := io.ReadAll(t)
		if err != nil {
			return b, err
		}
		files[h.Name] = data
	}
	var manifest []struct {
		Config string
		Layers []string
	}
	if err := json.Unmarshal(files["manifest.json"], &manifest); err != nil {
		return b, err
	}
	var config struct {
		Config  map[string]any `json:"config"`
		Author  string         `json:"author"`
		History []struct {
			CreatedBy  string `json:"created_by"`
			Comment    string `json:"comment"`
			EmptyLayer bool   `json:"empty_layer"`
		} `json:"history"`
	}
	if err := json.Unmarshal(files[manifest[0].Config], &config); err != nil {
		return b, err
	}
	b.config = map[string]any{"Author": config.Author}
	for k, v := range config.Config {
		if k == "WorkingDir" && v == "/" { // docker 20.10 leaves it out
			continue
		}
		b.config[k] = v
	}
	for _, h := range config.History {
		b.history = append(b.history, fmt.Sprintf("%s|%s|%v", h.CreatedBy, h.Comment, h.EmptyLayer))
	}
	for _, l := range manifest[0].Layers {
		entries, err := layer(files[l])
		if err != nil {
			return b, err
		}
		b.layers = append(b.layers, entries)
	}
	return b, nil
}

// layer describes each entry of a layer.
func layer(data []byte) (map[string]string, error) {
	entries := map[string]string{}
	for t := tar.NewReader(strings.NewReader(string(data))); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return entries, nil
		}
		if err != nil {
			return nil, err
		}
		sum := sha256.New()
		if _, err := io.Copy(sum, t); err != nil {
			return nil, err
		}
		attributes := []string{}
		for k, v := range h.PAXRecords {
			if strings.HasPrefix(k, "SCHILY.xattr.") {
				attributes = append(attributes, k+"="+v)
			}
		}
		slices.Sort(attributes)
		name := strings.TrimSuffix(h.Name, "/")
		if strings.HasPrefix(filepath.Base(name), ".wh.") { // says all by its name
			entries[name] = "whiteout"
			continue
		}
		entries[name] = fmt.Sprintf("type %c mode %o owner %d:%d size %d content %x link %q %v",
			h.Typeflag, h.Mode&0o7777, h.Uid, h.Gid, h.Size, sum.Sum(nil)[:4], h.Linkname, attributes)
	}
}

// empty are the values that say nothing.
func empty(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case string:
		return v == ""
	case bool:
		return !v
	case []any:
		return len(v) == 0
	case map[string]any:
		return len(v) == 0
	}
	return false
}

// difference says what ours, the first, has otherwise.
func difference(a, b built) (found []string) {
	for _, key := range keys(a.config, b.config) {
		x, y := a.config[key], b.config[key]
		if empty(x) && empty(y) {
			continue
		}
		p, _ := json.Marshal(x)
		q, _ := json.Marshal(y)
		if string(p) != string(q) {
			found = append(found, fmt.Sprintf("config %s: %s, docker has %s", key, p, q))
		}
	}
	for i := range max(len(a.history), len(b.history)) {
		if x, y := at(a.history, i), at(b.history, i); x != y {
			found = append(found, fmt.Sprintf("history %d: %s, docker has %s", i, x, y))
		}
	}
	if len(a.layers) != len(b.layers) {
		return append(found, fmt.Sprintf("layers: %d, docker has %d", len(a.layers), len(b.layers)))
	}
	for i := range a.layers {
		for _, name := range keys(a.layers[i], b.layers[i]) {
			if x, y := a.layers[i][name], b.layers[i][name]; x != y {
				found = append(found, fmt.Sprintf("layer %d %s: %s, docker has %s", i, name, x, y))
			}
		}
	}
	return found
}

func at(list []string, i int) string {
	if i < len(list) {
		return list[i]
	}
	return "nothing"
}

func keys[V any](maps ...map[string]V) []string {
	seen := map[string]bool{}
	var all []string
	for _, m := range maps {
		for k := range m {
			if !seen[k] {
				seen[k] = true
				all = append(all, k)
			}
		}
	}
	slices.Sort(all)
	return all
}
