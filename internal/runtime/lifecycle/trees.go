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

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}
