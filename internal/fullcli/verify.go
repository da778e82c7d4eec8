package fullcli

import (
	"context"
	"fmt"

	"berth/internal/cli"
	"berth/internal/errdef"
	"berth/internal/image"
	"berth/internal/image/reference"
	"berth/internal/image/store"
	"berth/internal/image/transfer"
	"berth/internal/image/verify"
)

// verifyImages checks images, or all that is kept of images.
func verifyImages(c cli.Call) error {
	var records []store.Record
	for _, name := range c.Args {
		r, err := c.Engine.Images.Find(name)
		if err != nil {
			return err
		}
		records = append(records, r)
	}
	uses, err := c.Engine.Uses()
	if err != nil {
		return err
	}
	mounted := map[image.Digest]bool{}
	for _, use := range uses {
		for _, chain := range use.Chain {
			mounted[chain] = mounted[chain] || use.Running
		}
	}
	quiet := option(c, "quiet") == "true"
	opt := verify.Options{
		Unpack: unpackOptions(),
		InUse:  func(chain image.Digest) bool { return mounted[chain] },
		Found: func(p verify.Problem) {
			if quiet {
				return
			}
			of, done := "", "damaged"
			if p.Image != "" {
				of = " of " + p.Image
			}
			if p.Repaired {
				done = "repaired"
			}
			fmt.Fprintf(c.Out, "%s: %s %s%s: %s\n", done, p.What, p.Digest, cli.Visible(of), cli.Visible(p.Err.Error()))
		},
	}
	if option(c, "repair") == "true" {
		client := newClient(c)
		defer client.Close()
		opt.Fetch = func(ctx context.Context, ref reference.Reference, d image.Descriptor) error {
			return transfer.Blob(ctx, client, c.Engine.Images.Content, ref, d)
		}
	}
	sum, err := verify.Images(c.Context, c.Engine.Images, records, opt)
	if err != nil {
		return fmt.Errorf("cannot verify images: %w", err)
	}
	if !quiet {
		fmt.Fprintf(c.Out, "%d images, %d blobs, %d layers: %d damaged, %d repaired\n", sum.Images, sum.Blobs, sum.Layers, sum.Problems, sum.Repaired)
		if sum.NotKept > 0 {
			fmt.Fprintf(c.Out, "%d layers could not be compared: their blobs are not kept\n", sum.NotKept)
		}
	}
	if left := sum.Problems - sum.Repaired; left > 0 {
		err := errdef.New(errdef.Corrupt, "damage was found, and %d of it is left", left)
		if opt.Fetch == nil {
			return errdef.Hint(err, "berth image verify --repair fetches them again")
		}
		return errdef.Hint(err, "remove the image and pull it again")
	}
	return nil
}
