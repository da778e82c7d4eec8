package build

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"path"
	"strings"

	"berth/internal/build/files"
	"berth/internal/engine"
	"berth/internal/errdef"

	"golang.org/x/sys/unix"
)

// ShowContext lists every path of the context, whether a Dockerfile sees it, and which line of the .dockerignore says so.
func ShowContext(ctx context.Context, e *engine.Engine, o Options, w io.Writer) error {
	s, err := begin(e, o)
	if err != nil {
		return err
	}
	defer s.end()
	if s.source, err = s.open(ctx); err != nil {
		return err
	}
	defer s.source.close()
	if s.source.dir == "" {
		return errdef.New(errdef.Invalid, "there is no context: the Dockerfile came alone")
	}
	text, err := s.ignoreText(s.source)
	if err != nil {
		return err
	}
	rules, err := ignoreRules(text)
	if err != nil {
		return err
	}
	all, err := files.Tree{Layers: []string{s.source.dir}}.Find(".")
	if err != nil {
		return err
	}
	defer all.Close()
	var in, out, size int64
	err = all.Walk(func(i files.Item) error {
		if ctx.Err() != nil {
			return errdef.As(errdef.Cancelled, context.Cause(ctx))
		}
		kept, because := why(rules, i.Name)
		var st unix.Stat_t
		if i.Dir == nil && unix.Fstatat(i.In, path.Base(i.Name), &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && kept {
			size += st.Size
		}
		name := i.Name
		if i.Dir != nil {
			name += "/"
		}
		word := "in "
		if in++; !kept {
			word = "out"
			in--
			out++
		}
		_, err := fmt.Fprintf(w, "%s %s%s\n", word, printable(name), because)
		return err
	})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%d in, %d out; the files that are in have %d bytes\n", in, out, size)
	return err
}

// rule is a line of a .dockerignore.
type rule struct {
	line    int
	text    string
	except  bool // "!"
	matcher *patterns
}

func ignoreRules(text []byte) (all []rule, err error) {
	text = bytes.TrimPrefix(text, []byte("\ufeff"))
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		one := strings.TrimSpace(line)
		m, err := ignoring([]byte(strings.TrimPrefix(one, "!") + "\n"))
		if err != nil {
			return nil, err
		}
		if m == nil || strings.HasPrefix(line, "#") {
			continue
		}
		all = append(all, rule{n, one, strings.HasPrefix(one, "!"), m})
	}
	return all, nil
}

// why says whether a path is kept, and by which line: the last one that matches it, or a directory that it is in.
func why(rules []rule, name string) (kept bool, because string) {
	kept = true
	for _, r := range rules {
		if r.except == kept {
			continue // it would change nothing
		}
		if r.matcher.match(name) {
			kept, because = r.except, fmt.Sprintf("   (line %d: %s)", r.line, printable(r.text))
		}
	}
	return kept, because
}

// printable keeps a hostile name from speaking to the terminal.
func printable(s string) string { return clean(s) }
