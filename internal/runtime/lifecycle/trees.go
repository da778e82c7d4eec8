package lifecycle

import (
	"errors"
	"os"

	"berth/internal/runtime/child"
	"berth/internal/runtime/plan"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// OpenTrees takes hold of what a container is given of the host's files, for Input.Trees; they are the caller's to close.
func OpenTrees(s *specs.Spec) (trees []*os.File, err error) {
	defer func() {
		if err != nil {
			closeAll(trees)
		}
	}()
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer ours.Close()
	program, n := plan.CompileTrees(s)
	c, err := child.Start(program, child.Options{Inputs: map[string]int{plan.InTrees: int(theirs.Fd())}})
	_ = theirs.Close()
	if err != nil {
		return nil, startError(err, "")
	}
	for range n {
		tree, err := child.Receive(ours)
		if err != nil {
			return trees, startError(errors.Join(c.End(), err), "")
		}
		trees = append(trees, tree)
	}
	return trees, c.End()
}

// OpenShm takes hold of the shared memory of a container by its mount namespace, and its user namespace unless that is ours.
func OpenShm(user, mounts *os.File) (_ *os.File, err error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer ours.Close()
	inputs := map[string]int{plan.InTrees: int(theirs.Fd()), plan.InMounts: int(mounts.Fd())}
	if user != nil {
		inputs[plan.InNamespace] = int(user.Fd())
	}
	c, err := child.Start(plan.CompileShm(user != nil), child.Options{Inputs: inputs})
	_ = theirs.Close()
	if err != nil {
		return nil, startError(err, "")
	}
	shm, err := child.Receive(ours)
	if err != nil {
		return nil, startError(errors.Join(c.End(), err), "")
	}
	return shm, c.End()
}

// MountFuse makes a mount whose file system is served at the open device /dev/fuse. It is attached to nothing, and the caller's.
func MountFuse(device *os.File, source string) (*os.File, error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer ours.Close()
	c, err := child.Start(plan.CompileFuse(source), child.Options{Inputs: map[string]int{plan.InTrees: int(theirs.Fd()), plan.InFuse: int(device.Fd())}})
	_ = theirs.Close()
	if err != nil {
		return nil, startError(err, "")
	}
	mount, err := child.Receive(ours)
	if err != nil {
		return nil, startError(errors.Join(c.End(), err), "")
	}
	return mount, c.End()
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}
