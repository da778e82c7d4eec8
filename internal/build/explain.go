package build

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"berth/internal/build/cache"
	"berth/internal/build/dockerfile"
	"berth/internal/build/files"
	"berth/internal/image"

	"github.com/docker/go-units"
)

// place is where a step stands, so that it is known what it came to the last time: the context, the Dockerfile, and its number.
func (b *builder) place(s *dockerfile.Stage, number int) string {
	return image.DigestOf(fmt.Appendf(nil, "%s\x00%s\x00%s\x00%s\x00%s\x00%d", b.Source.Context, b.source.dir, b.Source.Dockerfile, b.platform, s.Name, number)).Hex()
}

// found says why a step was not carried out.
func (b *builder) sayFound(v *Vertex, r cache.Record) {
	if b.Explain {
		v.Say("cache: used, from %s ago: nothing that this step depends on is different", units.HumanDuration(time.Since(r.Created)))
	}
}

// sayMissed says why a step has to be carried out.
func (b *builder) sayMissed(v *Vertex, s *dockerfile.Stage, last string, k key) {
	if !b.Explain {
		return
	}
	for _, why := range b.missed(s, last, k) {
		v.Say("cache: not used: %s", why)
	}
}

// maxReasons is how many reasons are said before "and more".
const maxReasons = 20

func (b *builder) missed(s *dockerfile.Stage, last string, k key) []string {
	switch {
	case b.NoCache:
		return []string{"--no-cache was given"}
	case slices.Contains(b.NoCacheFor, s.Name):
		return []string{"--no-cache-filter names the stage " + s.Name}
	case last == "":
		return []string{"no step has been built at this place"}
	case last == k.sum():
		return []string{"it was built, but its record or its layer has been removed"}
	}
	r, ok, err := b.cache.Get(last)
	var before key
	if err != nil || !ok || json.Unmarshal(r.Of, &before) != nil {
		return []string{"what was built here the last time has been removed"}
	}
	var now key // as it reads when it has been written, so that nil and empty are one
	if data, err := json.Marshal(k); err != nil || json.Unmarshal(data, &now) != nil {
		return nil
	}
	reasons := differences(before, now)
	if now.Copy != nil && before.Copy != nil && k.Copy.list != nil {
		if list, err := k.Copy.list(); err == nil {
			reasons = append(reasons, changedFiles(b.cache.Files(last), list)...)
		}
	}
	if len(reasons) == 0 {
		reasons = []string{"the files that it uses are different"}
	}
	if len(reasons) > maxReasons {
		reasons = append(reasons[:maxReasons], fmt.Sprintf("and %d more", len(reasons)-maxReasons))
	}
	return reasons
}

// differences says what of two keys is different, but for files.
func differences(before, now key) (why []string) {
	differ := func(what string, x, y any) {
		p, _ := json.Marshal(x)
		q, _ := json.Marshal(y)
		if !bytes.Equal(p, q) {
			why = append(why, what)
		}
	}
	kind := func(k key) string {
		switch {
		case k.Run != nil:
			return "RUN"
		case k.Copy != nil:
			return "COPY"
		}
		return "WORKDIR"
	}
	if kind(before) != kind(now) {
		return []string{"another instruction stood here: " + kind(before)}
	}
	differ("what it is built on is different: a step before it, or the base image", before.Parent, now.Parent)
	differ("the platform is another one", before.Platform, now.Platform)
	differ("SOURCE_DATE_EPOCH is different", before.Epoch, now.Epoch)
	differ("rewrite-timestamp is different", before.Latest, now.Latest)
	switch {
	case now.Run != nil:
		x, y := before.Run, now.Run
		differ("its command is different", []any{x.Args, x.Script}, []any{y.Args, y.Script})
		why = append(why, variables(x.Env, y.Env)...)
		differ("the user is another one", x.User, y.User)
		differ("the working directory is another one", x.Workdir, y.Workdir)
		differ("the network is another one", x.Network, y.Network)
		differ("--security is different", x.Insecure, y.Insecure)
		differ("--add-host is different", x.Hosts, y.Hosts)
		differ("--shm-size or --ulimit is different", []any{x.ShmBytes, x.Ulimits}, []any{y.ShmBytes, y.Ulimits})
		differ("its mounts are different", x.Mounts, y.Mounts)
		differ("files that are mounted are different", x.Inputs, y.Inputs)
	case now.Copy != nil:
		x, y := before.Copy, now.Copy
		differ("the destination is another one", x.Dest, y.Dest)
		differ("--chown or --chmod is different", []any{x.Chown, x.Chmod}, []any{y.Chown, y.Chmod})
		differ("its other options are different", []any{x.Add, x.Parents, x.Link, x.Unpack}, []any{y.Add, y.Parents, y.Link, y.Unpack})
		differ("its here-documents are different", x.Contents, y.Contents)
	default:
		differ("the directory or the user is another one", before.Mkdir, now.Mkdir)
	}
	return why
}

// variables says which variables are different, and nothing of their values.
func variables(before, now []string) (why []string) {
	values := func(list []string) map[string]string {
		m := map[string]string{}
		for _, v := range list {
			name, value, _ := strings.Cut(v, "=")
			m[name] = value
		}
		return m
	}
	x, y := values(before), values(now)
	names := map[string]bool{}
	for name := range x {
		names[name] = true
	}
	for name := range y {
		names[name] = true
	}
	sorted := make([]string, 0, len(names))
	for name := range names {
		sorted = append(sorted, name)
	}
	slices.Sort(sorted)
	for _, name := range sorted {
		p, had := x[name]
		q, has := y[name]
		switch {
		case !had:
			why = append(why, "the variable "+name+" is new")
		case !has:
			why = append(why, "the variable "+name+" is gone")
		case p != q:
			why = append(why, "the variable "+name+" has another value")
		}
	}
	return why
}

// fileList has a line for each file that a COPY copies: its mode, the beginning of the digest of its content, or of where it leads to, and its path as
// strconv.Quote has it.
func fileList(l *files.Listing) (out []byte) {
	l.Each(func(path string, mode uint32, sum []byte) {
		out = strconv.AppendUint(out, uint64(mode), 8)
		out = append(out, ' ')
		out = hex.AppendEncode(out, sum[:min(len(sum), 8)])
		out = append(out, ' ')
		out = strconv.AppendQuote(out, path)
		out = append(out, '\n')
	})
	return out
}

// changedFiles says which files of two lists are different.
func changedFiles(before, now []byte) (why []string) {
	if before == nil {
		return []string{"its files are different"}
	}
	type file struct{ mode, sum string }
	read := func(list []byte) map[string]file {
		m := map[string]file{}
		for line := range strings.Lines(string(list)) {
			mode, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
			sum, quoted, _ := strings.Cut(rest, " ")
			m[quoted] = file{mode, sum}
		}
		return m
	}
	x, y := read(before), read(now)
	for path, f := range y {
		old, had := x[path]
		switch {
		case !had:
			why = append(why, "new: "+path)
		case old.mode != f.mode && old.sum != f.sum:
			why = append(why, "changed: "+path+" (content and mode)")
		case old.mode != f.mode:
			why = append(why, "changed: "+path+" (mode)")
		case old.sum != f.sum:
			why = append(why, "changed: "+path+" (content)")
		}
	}
	for path := range x {
		if _, has := y[path]; !has {
			why = append(why, "gone: "+path)
		}
	}
	slices.Sort(why)
	return why
}
