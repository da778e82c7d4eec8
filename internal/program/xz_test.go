package program

import (
	"bytes"
	"encoding/base64"
	"os"
	"os/exec"
	"testing"
)

// small is what `xz --check=crc32` makes of the text in TestUnxz.
const small = "/Td6WFoAAAFpIt42AgAhARYAAAB0L+Wj4AApACFdADEZSqwhGdYu8okkdm9pbhytzEciGgM0XGfamoFM8r+AAAAAAABxZAZlAAE5KkfxufWQQpkNAQAAAAABWVo="

func xz(t testing.TB, b []byte, arguments ...string) []byte {
	t.Helper()
	cmd := exec.Command("xz", append([]string{"-c", "-T1", "--check=crc32"}, arguments...)...)
	cmd.Stdin = bytes.NewReader(b)
	out, err := cmd.Output()
	if err != nil {
		t.Skipf("there is no xz: %v", err)
	}
	return out
}

func random(n int) []byte {
	b := make([]byte, n)
	x := uint32(1)
	for i := range b {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		b[i] = byte(x)
	}
	return b
}

func TestUnxzOfXZ(t *testing.T) {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	self = self[:1<<20]
	for _, c := range []struct {
		summary string
		data    []byte
		options []string
	}{
		{"One byte", []byte("x"), nil},
		{"A run", bytes.Repeat([]byte("a"), 1<<20), nil},
		{"What cannot be packed", random(1 << 20), nil},
		{"A program", self, []string{"-9e"}},
		{"A program, packed quickly", self, []string{"-0"}},
		{"Other properties", self, []string{"--lzma2=lc=1,lp=3,pb=4"}},
	} {
		t.Run(c.summary, func(t *testing.T) {
			got, err := unxz(xz(t, c.data, c.options...))
			if err != nil || !bytes.Equal(got, c.data) {
				t.Errorf("%d bytes have come of %d, or others: %v", len(got), len(c.data), err)
			}
		})
	}
}

func TestUnxz(t *testing.T) {
	b, err := base64.StdEncoding.DecodeString(small)
	if err != nil {
		t.Fatal(err)
	}
	const want = "berth berth berth, and what is not a berth"
	if got, err := unxz(b); string(got) != want {
		t.Errorf("%q, %v", got, err)
	}
	for i := range b {
		// What is after the checksum, the index, is for those who look for a part of the file.
		if got, err := unxz(b[:i]); err == nil && string(got) != want {
			t.Errorf("the first %d bytes are %q", i, got)
		}
		damaged := bytes.Clone(b)
		damaged[i] ^= 0x40
		if got, err := unxz(damaged); err == nil && string(got) != want {
			t.Errorf("with byte %d damaged it is %q", i, got)
		}
	}
}

func FuzzUnxz(f *testing.F) {
	b, _ := base64.StdEncoding.DecodeString(small)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) { _, _ = unxz(b) })
}

func BenchmarkUnxz(b *testing.B) {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		b.Fatal(err)
	}
	packed := xz(b, self)
	b.SetBytes(int64(len(self)))
	for b.Loop() {
		if _, err := unxz(packed); err != nil {
			b.Fatal(err)
		}
	}
}
