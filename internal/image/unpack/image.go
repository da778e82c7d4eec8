package unpack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/image"
	"berth/internal/image/content"
	"berth/internal/image/layer"
)

// Open gives the bytes of a layer of an image, by its place in the manifest. What it returns is closed when the layer is
// unpacked.
type Open = func(ctx context.Context, layer int) (io.ReadCloser, error)

// FromBlobs opens layers that are in blobs.
func FromBlobs(blobs *content.Store, m image.Manifest) Open {
	return func(_ context.Context, layer int) (io.ReadCloser, error) {
		return blobs.OpenAt(m.Layers[layer].Digest, 0)
	}
}

// Image makes sure that all layers of an image are unpacked: several at once, all made durable together. open is called
// for each layer that is not, and may wait until its bytes arrive. The caller holds content.HoldAdditions. Layers that other processes are unpacking are waited for. After an error
// no layer of this call has its name.
func Image(ctx context.Context, open Open, layers *layer.Store, m image.Manifest, config image.Image, opt Options) error {
	if err := image.CheckLayers(m, config); err != nil {
		return fmt.Errorf("cannot unpack the image: %w", err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	chain := image.ChainIDs(config.RootFS.DiffIDs)
	var begun []layer.Finished
	defer func() {
		for _, l := range begun {
			_ = l.Abort()
		}
	}()
	room := make(chan struct{}, max(2, runtime.GOMAXPROCS(0)/2))
	var wait sync.WaitGroup
	results := make([]Result, len(chain))
	var which []int // for each of begun: which layer of the image it is
	var beginErr error
	for i, diffID := range config.RootFS.DiffIDs {
		parent := image.Digest("")
		if i > 0 {
			parent = chain[i-1]
		}
		var st *layer.Staging
		if st, beginErr = layers.Begin(ctx, parent, diffID); beginErr != nil {
			break
		}
		if st == nil {
			continue
		}
		begun, which = append(begun, layer.Finished{Staging: st}), append(which, i)
		wait.Go(func() {
			// Whoever waits for his layer to arrive does not keep others from unpacking theirs.
			r, err := open(ctx, i)
			if err == nil {
				room <- struct{}{}
				results[i], err = applyTo(ctx, st, r, opt)
				<-room
				err = errors.Join(err, r.Close())
			}
			if err != nil {
				cancel(fmt.Errorf("cannot unpack layer %s: %w", m.Layers[i].Digest, err)) // the first one counts
			}
		})
	}
	wait.Wait()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if beginErr != nil {
		return beginErr
	}
	for j, i := range which {
		if err := adopt(begun[j].Tree(), results[i].Implied, below(layers, chain[:i], begun)); err != nil {
			return fmt.Errorf("cannot unpack layer %s: %w", m.Layers[i].Digest, err)
		}
		begun[j].Info = infoOf(results[i])
	}
	return layers.Publish(begun...)
}

func infoOf(r Result) layer.Info {
	return layer.Info{Size: r.Size, Driver: layer.DriverOverlay, OpaqueRoot: r.OpaqueRoot, Created: time.Now().UTC()}
}

func applyTo(ctx context.Context, st *layer.Staging, r io.Reader, opt Options) (Result, error) {
	if err := context.Cause(ctx); err != nil {
		return Result{}, err
	}
	result, err := Apply(ctx, st.Tree(), r, opt)
	if err == nil && result.DiffID != st.DiffID {
		if st.DiffID.Algorithm() != image.SHA256 {
			return result, errdef.New(errdef.Unsupported, "diff ID %s is not a sha256", st.DiffID)
		}
		err = errdef.New(errdef.Corrupt, "its uncompressed digest is %s, not %s as the image's config says", result.DiffID, st.DiffID)
	}
	return result, err
}

// Layer unpacks one layer on top of parent, which is there already or "", and returns its chain ID. If the layer's
// bytes are not diffID's, nothing is left.
func Layer(ctx context.Context, layers *layer.Store, parent, diffID image.Digest, r io.Reader, opt Options) (image.Digest, error) {
	chain := image.ChainID(parent, diffID)
	st, err := layers.Begin(ctx, parent, diffID)
	if err != nil || st == nil {
		return chain, err
	}
	result, err := applyTo(ctx, st, r, opt)
	if err == nil {
		var under []image.Digest
		if under, err = ancestors(layers, parent); err == nil {
			err = adopt(st.Tree(), result.Implied, below(layers, under, nil))
		}
	}
	if err == nil {
		err = layers.Publish(layer.Finished{Staging: st, Info: infoOf(result)})
	}
	if err != nil {
		return "", errors.Join(fmt.Errorf("cannot unpack layer %s: %w", diffID, err), st.Abort())
	}
	return chain, nil
}

// Again unpacks a layer once more that is there, from its blob: what should be there, to be compared, put in its place or aborted.
func Again(ctx context.Context, layers *layer.Store, chain image.Digest, r io.Reader, opt Options) (layer.Finished, Result, error) {
	info, err := layers.Info(chain)
	if err != nil {
		return layer.Finished{}, Result{}, err
	}
	st, err := layers.Again(ctx, chain)
	if err != nil {
		return layer.Finished{}, Result{}, err
	}
	result, err := applyTo(ctx, st, r, opt)
	if err == nil {
		var under []image.Digest
		if under, err = ancestors(layers, st.Parent); err == nil {
			err = adopt(st.Tree(), result.Implied, below(layers, under, nil))
		}
	}
	if err != nil {
		return layer.Finished{}, result, errors.Join(fmt.Errorf("cannot unpack layer %s again: %w", chain, err), st.Abort())
	}
	info.OpaqueRoot = result.OpaqueRoot
	return layer.Finished{Staging: st, Info: info}, result, nil
}

// ancestors is the chain that ends with the layer top, the lowest first.
func ancestors(layers *layer.Store, top image.Digest) (chain []image.Digest, err error) {
	for top != "" {
		if len(chain) > image.MaxLayers {
			return nil, errdef.New(errdef.Corrupt, "the layers under %s have no end", chain[0])
		}
		info, err := layers.Info(top)
		if err != nil {
			return nil, err
		}
		chain = append([]image.Digest{top}, chain...)
		top = info.Parent
	}
	return chain, nil
}

// below returns the trees under a layer, the highest first.
func below(layers *layer.Store, chain []image.Digest, open []layer.Finished) (trees []string) {
	for i := len(chain) - 1; i >= 0; i-- {
		tree := layers.Path(chain[i])
		for _, l := range open {
			if l.Chain == chain[i] {
				tree = l.Tree().Name()
			}
		}
		trees = append(trees, tree)
	}
	return trees
}

// adopt gives implied directories the mode, owner and times that the layers below have for them: overlayfs shows
// the highest layer's, and a layer that only adds /tmp/x must not close /tmp for everybody.
func adopt(tree *os.File, implied, below []string) error {
	for i := len(implied) - 1; i >= 0; i-- { // children first: a directory may be closed to its owner
		var st unix.Stat_t
		found := false
		for _, lower := range below {
			more, err := inherit(lower, implied[i], &st, &found)
			if err != nil {
				return err
			}
			if !more {
				break
			}
		}
		if !found {
			continue
		}
		fd, err := disk.OpenIn(int(tree.Fd()), implied[i], unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0, disk.Beneath|unix.RESOLVE_NO_SYMLINKS)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
			continue // a later entry of the tar replaced it
		}
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(fd), implied[i])
		m := meta{mode: st.Mode & 0o7777, uid: int(st.Uid), gid: int(st.Gid), atime: st.Atim, mtime: st.Mtim}
		// The lower layer has the owner that this process could give.
		err = decorateDir(f, &m, &owner{always: true})
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// inherit looks for the directory p in the tree of one layer. It says whether the layers further below count.
func inherit(lower, p string, st *unix.Stat_t, found *bool) (more bool, err error) {
	root, err := unix.Open(lower, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, &os.PathError{Op: "open", Path: lower, Err: err}
	}
	defer unix.Close(root)
	if p == "." {
		*found = true
		return false, os.NewSyscallError("fstat", unix.Fstat(root, st))
	}
	at := ""
	for part := range strings.SplitSeq(p, "/") {
		at = path.Join(at, part)
		fd, err := disk.OpenIn(root, at, unix.O_PATH|unix.O_NOFOLLOW, 0, disk.Beneath|unix.RESOLVE_NO_SYMLINKS)
		if errors.Is(err, unix.ENOENT) {
			return true, nil
		}
		if err != nil {
			return false, err
		}
		err = unix.Fstat(fd, st)
		_ = unix.Close(fd)
		if err != nil {
			return false, os.NewSyscallError("fstat", err)
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR { // a whiteout or a file: what is below it is hidden
			return false, nil
		}
	}
	*found = true
	return false, nil
}
