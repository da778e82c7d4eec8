package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"

	"berth/test/registry"
)

// pull compares pulling one large layer, many middling ones and many small files from a registry on the loopback with podman, and with what cannot be
// beaten much: fetching each blob once, decompressing it and unpacking it with tar.
func (b *bench) pull() error {
	if *pulls == 0 {
		return nil
	}
	r, err := registry.Start(b.dir)
	if errors.Is(err, registry.ErrNotInstalled) {
		fmt.Println("pull: left out:", err)
		return nil
	}
	if err != nil {
		return err
	}
	defer r.Stop()
	for _, image := range []struct {
		name, what string
		layers     int
		layer      layerSize
	}{
		{"one", "1 layer of 500 MB", 1, layerSize{500 << 20, mixed}},
		{"many", "40 layers of 12 MB", 40, layerSize{12 << 20, mixed}},
		{"small", "30,000 files of 1 to 8 KB in 3 layers", 3, layerSize{10_000 * 4096, small}},
	} {
		if err := b.pullOf(r, image.name, image.what, image.layers, image.layer); err != nil {
			return err
		}
	}
	return nil
}

// layerSize is what files a layer has.
type layerSize struct {
	bytes int
	file  func(*rand.Rand) int // bytes of the next one
}

func mixed(random *rand.Rand) int { return 1 << (10 + random.IntN(12)) } // 1 KiB to 2 MiB
func small(random *rand.Rand) int { return 1<<10 + random.IntN(6<<10) }  // 4 KiB on average

// mostResident is what a pull may have in memory at once, in bytes.
const mostResident = 100 << 20

// resident measures the most that a command has in memory.
func resident(argv []string) (bytes int64, err error) {
	cmd := exec.Command(argv[0], argv[1:]...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, out)
	}
	usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		return 0, errors.New("cannot measure memory here")
	}
	return usage.Maxrss << 10, nil
}

func (b *bench) pullOf(r *registry.Registry, name, what string, layers int, size layerSize) error {
	blobs, err := publish(r, name, layers, size)
	if err != nil {
		return err
	}
	reference := r.Address + "/" + name + ":v1"
	n := 0
	// Each goes into a directory that is new, and starts when nothing is left to be written.
	fresh := func(argv func(dir string) []string) contender {
		c := contender{argv: argv("*")}
		at := ""
		c.before = func() error {
			n++
			if at != "" {
				if err := os.RemoveAll(at); err != nil {
					return err
				}
			}
			at = fmt.Sprintf("%s/%s%d", b.dir, name, n)
			copy(c.argv, argv(at))
			if err := os.Mkdir(at, 0o755); err != nil {
				return err
			}
			return exec.Command("sync").Run()
		}
		return c
	}
	var script strings.Builder
	for _, digest := range blobs {
		fmt.Fprintf(&script, "curl -sf http://%s/v2/%s/blobs/%s | gzip -dc | tar -x -C $0 || exit\n", r.Address, name, digest)
	}
	script.WriteString("sync -f $0\n")
	berth := fresh(func(dir string) []string { return []string{b.berth, "--data-root", dir, "pull", "-q", reference} })
	limit := fresh(func(dir string) []string { return []string{"sh", "-c", script.String(), dir} })
	berth.name, limit.name = "berth", "curl | gzip -d | tar -x"
	all := []contender{berth, limit}
	if b.podman != nil {
		podman := fresh(func(dir string) []string {
			return with(b.podmanAt(strings.TrimPrefix(dir, b.dir+"/")), "pull", "-q", "--tls-verify=false", reference)
		})
		podman.name = "podman"
		all = append(all, podman)
	}
	if err := compare("pull of "+what, *pulls, all); err != nil {
		return err
	}
	if err := berth.before(); err != nil {
		return err
	}
	used, err := resident(berth.argv)
	if err != nil {
		return err
	}
	fmt.Printf("%-24s %6d MB resident at most\n", "berth", used>>20)
	if used > mostResident {
		return fmt.Errorf("a pull of %s has %d MB in memory, and may have %d", what, used>>20, mostResident>>20)
	}
	return nil
}

// publish makes an image of files that gzip halves, as programs and libraries do, and pushes it.
func publish(r *registry.Registry, name string, layers int, size layerSize) (digests []string, err error) {
	var diffIDs []string
	var blobs []registry.Layer
	for i := range layers {
		var compressed bytes.Buffer
		z := gzip.NewWriter(&compressed)
		sum := sha256.New()
		w := tar.NewWriter(io.MultiWriter(z, sum))
		random := rand.New(rand.NewPCG(uint64(i), uint64(size.bytes)))
		for at, n := 0, 0; at < size.bytes; n++ {
			file := min(size.bytes-at, size.file(random))
			if err := w.WriteHeader(&tar.Header{Name: fmt.Sprintf("usr/lib/%d/%d/file%d", i, n%50, n), Mode: 0o644, Size: int64(file)}); err != nil {
				return nil, err
			}
			if _, err := w.Write(content(random, file)); err != nil {
				return nil, err
			}
			at += file
		}
		if err := errors.Join(w.Close(), z.Close()); err != nil {
			return nil, err
		}
		diffIDs = append(diffIDs, "sha256:"+hex.EncodeToString(sum.Sum(nil)))
		digest := sha256.Sum256(compressed.Bytes())
		digests = append(digests, "sha256:"+hex.EncodeToString(digest[:]))
		blobs = append(blobs, registry.Layer{Compression: "+gzip", Data: compressed.Bytes()})
	}
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux", "config": map[string]any{},
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffIDs},
	})
	if err != nil {
		return nil, err
	}
	return digests, r.Push(name, "v1", config, blobs)
}

// content is noise and repetition in equal parts.
func content(random *rand.Rand, n int) []byte {
	data := make([]byte, 0, n+128)
	for len(data) < n {
		var noise [64]byte
		for i := range noise {
			noise[i] = byte(random.Uint32())
		}
		data = append(data, noise[:]...)
		data = append(data, "the quick brown fox jumps over the lazy dog, and the dog sleeps."[:64]...)
	}
	return data[:n]
}
