package cli

import (
	"fmt"

	"berth/internal/errdef"
	"berth/internal/image"
)

// mountRow is a mounted image as image mount shows it, with podman's names of fields.
type mountRow struct {
	ID         image.Digest `json:"id"`
	Repository string       `json:"Repositories"`
	Mountpoint string       `json:"mountpoint"`
}

// cmdImageMount mounts images and prints where, or lists those that are.
func (c *call) cmdImageMount() error {
	e, err := c.engine()
	if err != nil {
		return err
	}
	if len(c.args) == 0 {
		mounts, err := e.ImageMounts()
		if err != nil {
			return err
		}
		var rows []any
		for _, m := range mounts {
			rows = append(rows, mountRow{m.ID, m.Name, m.Path})
		}
		if done, err := c.format(rows); done {
			return err
		}
		for _, m := range mounts {
			fmt.Fprintf(c.out, "%s %s\n", visible(m.Name), m.Path)
		}
		return nil
	}
	return c.each(func(name string) error {
		im, err := c.variant(e.Images, name)
		if err != nil {
			return err
		}
		path, err := e.MountImage(c.context(), name, im)
		if err != nil {
			return err
		}
		if len(c.args) > 1 {
			path = visible(name) + " " + path
		}
		_, err = fmt.Fprintln(c.out, path)
		return err
	})
}

func (c *call) cmdImageUnmount() error {
	e, err := c.engine()
	if err != nil {
		return err
	}
	if c.options.all != (len(c.args) == 0) {
		return errdef.New(errdef.Invalid, "name the images to unmount, or use --all")
	}
	if c.options.all {
		mounts, err := e.ImageMounts()
		if err != nil {
			return err
		}
		for _, m := range mounts {
			c.args = append(c.args, string(m.ID))
		}
	}
	return c.each(func(name string) error {
		r, err := e.Images.Find(name)
		if err != nil {
			return err
		}
		if err := e.UnmountImage(r.ID, c.options.force); err != nil {
			return err
		}
		_, err = fmt.Fprintln(c.out, r.ID)
		return err
	})
}
