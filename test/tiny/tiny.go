// Package tiny makes images of a few kilobytes for tests that need many of them: two layers, programs of a few bytes, and
// something of each kind of file. It stores nothing and knows no berth.
package tiny

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"runtime"
)

// Program is the path of the image's program, which ends with 0 at once; Pause that of one which never ends by itself.
const (
	Program = "/x"
	Pause   = "/pause"
)

// Parts are the configuration and the layers, the lowest first, of an image. Images of different seeds share no layer.
func Parts(seed int) (config []byte, layers [][]byte) {
	lower := Rootfs(seed)
	upper := archive(
		file{name: "d/second", data: fmt.Appendf(nil, "second %d", seed)},
		file{name: "d/.wh.first"},
		file{name: "e", kind: tar.TypeDir},
		file{name: "e/link", kind: tar.TypeLink, link: "d/second"},
	)
	config = encode(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux", "config": map[string]any{"Cmd": []string{Program}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{Digest(lower), Digest(upper)}},
	})
	return config, [][]byte{lower, upper}
}

// Image is an archive as `docker save` writes it, of an image with that name.
func Image(name string, seed int) []byte {
	config, layers := Parts(seed)
	configName := Digest(config)[len("sha256:"):] + ".json"
	manifest := encode([]any{map[string]any{"Config": configName, "RepoTags": []string{name}, "Layers": []string{"0.tar", "1.tar"}}})
	return archive(
		file{name: "manifest.json", data: manifest}, file{name: configName, data: config},
		file{name: "0.tar", data: layers[0]}, file{name: "1.tar", data: layers[1]},
	)
}

// Rootfs is a tree with the program in it.
func Rootfs(seed int) []byte {
	return archive(
		file{name: "x", mode: 0o755, data: ExitProgram()},
		file{name: "pause", mode: 0o755, data: PauseProgram()},
		file{name: "d", kind: tar.TypeDir},
		file{name: "d/first", data: fmt.Appendf(nil, "first %d", seed)},
		file{name: "d/long", mode: 0o600, data: bytes.Repeat(fmt.Appendf(nil, "%d ", seed), 4000)},
		file{name: "d/symbolic", kind: tar.TypeSymlink, link: "long"},
		file{name: "empty", mode: 0o4755},
	)
}

type file struct {
	name string
	kind byte // a regular file unless said otherwise
	mode int64
	link string
	data []byte
}

func archive(files ...file) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Name: f.name, Typeflag: f.kind, Mode: f.mode, Linkname: f.link, Size: int64(len(f.data))}
		switch {
		case f.kind == tar.TypeDir:
			h.Name, h.Mode = h.Name+"/", 0o755
		case f.kind == 0:
			h.Typeflag = tar.TypeReg
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if err := w.WriteHeader(h); err != nil {
			panic(err) // the headers are ours, and memory has no errors
		}
		if _, err := w.Write(f.data); err != nil {
			panic(err)
		}
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return b.Bytes()
}

func encode(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err) // strings and maps
	}
	return data
}

// Digest is the digest of data as OCI writes it.
func Digest(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// ExitProgram is a program that calls exit(0) and nothing else.
func ExitProgram() []byte {
	if runtime.GOARCH == "arm64" {
		return elf(183, 0xa8, 0x0b, 0x80, 0xd2, 0x00, 0x00, 0x80, 0xd2, 0x01, 0x00, 0x00, 0xd4) // mov x8, #93; mov x0, #0; svc #0
	}
	return elf(62, 0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05) // mov eax, 60; xor edi, edi; syscall
}

// PauseProgram is a program that waits for a signal, again and again.
func PauseProgram() []byte {
	if runtime.GOARCH == "arm64" {
		// mov x8, #73 (ppoll); mov x0, x1, x2, x3, #0; svc #0; b -24
		return elf(183, 0x28, 0x09, 0x80, 0xd2, 0x00, 0x00, 0x80, 0xd2, 0x01, 0x00, 0x80, 0xd2, 0x02, 0x00, 0x80, 0xd2, 0x03, 0x00, 0x80, 0xd2,
			0x01, 0x00, 0x00, 0xd4, 0xfa, 0xff, 0xff, 0x17)
	}
	return elf(62, 0xb8, 34, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7) // mov eax, 34 (pause); syscall; jmp -9
}

// elf is an ELF file (elf(5)) of one segment with that code.
func elf(machine uint16, code ...byte) []byte {
	const base, headers = 0x400000, 64 + 56
	size := uint64(headers + len(code))
	b := []byte{0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	le := binary.LittleEndian
	b = le.AppendUint16(b, 2) // ET_EXEC
	b = le.AppendUint16(b, machine)
	b = le.AppendUint32(b, 1)
	b = le.AppendUint64(b, base+headers) // the entry
	b = le.AppendUint64(b, 64)           // the program headers
	b = le.AppendUint64(b, 0)
	b = le.AppendUint32(b, 0)
	for _, n := range []uint16{64, 56, 1, 0, 0, 0} {
		b = le.AppendUint16(b, n)
	}
	b = le.AppendUint32(b, 1) // PT_LOAD
	b = le.AppendUint32(b, 5) // readable, executable
	for _, n := range []uint64{0, base, base, size, size, 0x10000} {
		b = le.AppendUint64(b, n)
	}
	return append(b, code...)
}
