package lifecycle

import (
	"errors"
	"os"

	"berth/internal/errdef"
	"berth/internal/runtime/child"
	"berth/internal/runtime/plan"
)

// Root is the file system of a container that does not run: mounted where nobody but its holder sees it.
type Root struct {
	*os.File // "/"
	holder   *child.Child
	word     *os.File // its end lets the holder go
}

// OpenRoot mounts what a container consists of, for a command that reads or changes its files.
func OpenRoot(in Input) (_ *Root, err error) {
	given, err := OpenGiven(in.Spec)
	if err != nil {
		return nil, err
	}
	defer CloseGiven(given)
	p, err := plan.CompileRoot(plan.Input{
		Spec: in.Spec, Host: in.Host, Overlay: in.Overlay, Served: in.Served, MountPoint: in.MountPoint, FileSources: fileSources(in.Spec), Images: in.Images, Given: numbersOf(given),
	})
	if err != nil {
		return nil, errdef.As(errdef.Invalid, err)
	}
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer ours.Close()
	waits, word, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, theirs.Close())
	}
	r := &Root{word: word}
	inputs := map[string]int{plan.InTrees: int(theirs.Fd()), plan.InGo: int(waits.Fd()), plan.InGoEnd: int(word.Fd())}
	if in.Root != nil {
		inputs[plan.InRoot] = int(in.Root.Fd())
	}
	for i, f := range given {
		inputs[plan.InGiven(i)] = int(f.Fd())
	}
	r.holder, err = child.Start(p, child.Options{Inputs: inputs})
	err = errors.Join(err, theirs.Close(), waits.Close())
	if r.holder == nil {
		return nil, errors.Join(startError(err, ""), word.Close())
	}
	if r.File, err = child.Receive(ours); err != nil {
		return nil, startError(errors.Join(r.end(), err), "")
	}
	return r, nil
}

// Close unmounts everything.
func (r *Root) Close() error { return errors.Join(r.File.Close(), r.end()) }

func (r *Root) end() error {
	err := r.word.Close()
	return errors.Join(err, r.holder.End())
}
