package files

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// remembering is a Memory for all directories, which counts what had to be read.
type remembering struct {
	mu   sync.Mutex
	sums map[string]Sum
	read int
}

func (r *remembering) memory(dir string) Memory {
	return Memory{
		Known: func(name string, _ *unix.Stat_t) (Sum, bool) {
			r.mu.Lock()
			defer r.mu.Unlock()
			sum, ok := r.sums[dir+"/"+name]
			return sum, ok
		},
		Learn: func(name string, _ *unix.Stat_t, sum Sum) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.sums[dir+"/"+name] = sum
			r.read++
		},
	}
}

func TestDigestOfADirectoryOfTheHost(t *testing.T) {
	root := t.TempDir()
	write := func(name, data string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 700 { // more than one goroutine looks at
		write(fmt.Sprint("flat/", i), "x")
	}
	for i := range 60 {
		write(fmt.Sprintf("deep/%d/%d/f", i%7, i), fmt.Sprint(i))
	}
	if err := os.Symlink("flat/1", root+"/link"); err != nil {
		t.Fatal(err)
	}
	keep := func(p string, dir bool) (bool, bool) {
		return !strings.HasPrefix(p, "deep") || p == "deep/3/3/f", true
	}
	digest := func(r *remembering, keep func(string, bool) (bool, bool)) (string, *Listing) {
		t.Helper()
		item, err := Tree{Layers: []string{root}, Keep: keep}.Find(".")
		if err != nil {
			t.Fatal(err)
		}
		defer item.Close()
		list := &Listing{}
		d := Digester{}
		if r != nil {
			d.Memory = r.memory
		}
		sum, err := d.Digest(t.Context(), item, list)
		if err != nil {
			t.Fatal(err)
		}
		return sum, list
	}
	paths := func(l *Listing) (all []string) {
		l.Each(func(path string, _ uint32, _ []byte) { all = append(all, path) })
		return all
	}

	r := &remembering{sums: map[string]Sum{}}
	first, list := digest(r, nil)
	if r.read != 760 {
		t.Errorf("%d files were read", r.read)
	}
	if n := len(paths(list)); n != 760+1+2+7+60 {
		t.Errorf("%d paths are listed", n)
	}
	if again, _ := digest(r, nil); again != first || r.read != 760 {
		t.Errorf("the second time: %s, not %s; %d files were read", again, first, r.read)
	}
	// One after another, as directories of layers are looked at, it is the same.
	if slow, _ := digest(nil, nil); slow != first {
		t.Errorf("one after another it is %s, not %s", slow, first)
	}
	some, list := digest(r, keep)
	if slow, slowList := digest(nil, keep); slow != some || fmt.Sprint(paths(slowList)) != fmt.Sprint(paths(list)) {
		t.Errorf("of some files: %s, one after another %s", some, slow)
	}
	if all := strings.Join(paths(list), " "); !strings.Contains(all, "deep/3/3/f") || strings.Contains(all, "deep/4") {
		t.Errorf("of some files: %s", all)
	}
	if err := os.Chmod(root+"/deep/2/2/f", 0o640); err != nil {
		t.Fatal(err)
	}
	if now, _ := digest(r, nil); now == first {
		t.Error("a mode does not count")
	}
	if now, _ := digest(r, keep); now != some {
		t.Error("the mode of what is left out counts")
	}
}
