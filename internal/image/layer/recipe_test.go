package layer

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
)

// made makes what a recipe says, or as much of it as there is, of a tree with the file "f".
func made(tb testing.TB, recipe []byte) ([]byte, error) {
	tb.Helper()
	dir := tb.TempDir()
	if err := errors.Join(os.Mkdir(dir+"/tree", 0o755), os.WriteFile(dir+"/tree/f", []byte("abc"), 0o600), os.WriteFile(dir+"/recipe", recipe, 0o600)); err != nil {
		tb.Fatal(err)
	}
	in, err := os.Open(dir + "/recipe")
	if err != nil {
		tb.Fatal(err)
	}
	tree, err := os.Open(dir + "/tree")
	if err != nil {
		tb.Fatal(err)
	}
	c, err := newCook(in, tree)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return io.ReadAll(io.LimitReader(c, 16<<20))
}

// someRecipe has literals that are alike and ones that are not, longer and shorter ones, and what is longer than a literal may be.
func someRecipe(tb testing.TB) (recipe, should []byte) {
	tb.Helper()
	var b, whole bytes.Buffer
	r := NewRecipe(&b)
	w := io.MultiWriter(r, &whole)
	header := strings.Repeat("header"+strings.Repeat("\x00", 11), 40)
	for _, part := range []string{
		header, header[:200] + "other" + header[205:], header[:300], "x", header + header, strings.Repeat("\x00", 5000) + "y", strings.Repeat("\x00", 7),
		strings.Repeat("long", maxLiteral/3), "",
	} {
		_, _ = io.WriteString(w, part)
		r.File("f", 3)
		_, _ = io.WriteString(w, "a")
		_, _ = io.WriteString(w, "bc"+part)
		r.File("empty", 0)
	}
	if err := r.Close(); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes(), whole.Bytes()
}

func TestRecipeGivesTheSameBytes(t *testing.T) {
	recipe, should := someRecipe(t)
	got, err := made(t, recipe)
	if err != nil || !bytes.Equal(got, should) {
		t.Errorf("%d bytes instead of %d, %v", len(got), len(should), err)
	}
}

func FuzzRecipe(f *testing.F) {
	recipe, _ := someRecipe(f)
	f.Add(recipe[:2000])
	f.Add([]byte(recipeMagic + "\x02\x04../f\x03\x00"))
	f.Fuzz(func(t *testing.T, recipe []byte) { _, _ = made(t, recipe) })
}
