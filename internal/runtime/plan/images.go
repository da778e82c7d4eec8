package plan

import (
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// placeImages makes the file systems of the images that are mounted, for mounts to attach. Of a part it takes a copy of the mount, and
// before Linux 6.15 only a mount that is attached can be copied: so the whole is attached where the root will cover it.
func (c *compiler) placeImages(place Ref) {
	origin := c.origin
	for i, m := range c.spec.Mounts {
		im, is := c.in.Images[m.Destination]
		if !is {
			continue
		}
		c.from("mount " + m.Destination)
		o, err := parseOptions(m)
		if err != nil {
			continue // mounts says so
		}
		whole := c.imageOverlay(&Overlay{Lower: im.Lower, UserXattr: im.UserXattr}, o.attr)
		if o.subpath == "" {
			c.sources[mountKey(i)] = whole
			continue
		}
		c.attach("keep it where the root will cover it", whole, place)
		part := c.slot("part")
		c.openIn(part, "find "+o.subpath+" in it", whole, o.subpath, unix.O_PATH, inRoot)
		c.sources[mountKey(i)] = c.get("image", "take it", callOpenTree, Ref(part), empty,
			flags(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH, "OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC|AT_EMPTY_PATH"))
		c.do("done with its place", callClose, Ref(part))
		c.do("done with the whole", callClose, whole)
	}
	c.origin = origin
}

// imageOverlay is an overlay of layers alone. Before Linux 6.13 they are named as in overlayByName, in one string of fsconfig(2), which takes 255
// bytes: 63 layers. With more the kernel says EINVAL.
func (c *compiler) imageOverlay(o *Overlay, a attr) Ref {
	if c.in.Host.OverlayByFD() {
		return c.overlayByFD("image", o, a)
	}
	names := make([]string, len(o.Lower))
	for i, dir := range o.Lower {
		fd := c.get("layer", "open a layer", callOpenat, atFDCWD, Str(dir), flags(unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, "O_PATH|O_DIRECTORY|O_CLOEXEC"))
		c.do("give it a number that is its name", callDup3, fd, num(firstLayerFD+i), flags(unix.O_CLOEXEC, "O_CLOEXEC"))
		c.do("keep only that", callClose, fd)
		names[i] = fmt.Sprint(firstLayerFD + i)
	}
	c.do("name layers by their descriptors", callChdir, Str("/proc/self/fd"))
	settings := append([]setting{{key: "lowerdir", value: strings.Join(names, ":")}, {key: "source", value: "overlay"}}, overlayFlags(o)...)
	fd := c.fsmount("image", "overlay", settings, a)
	c.do("leave /proc/self/fd", callChdir, Str("/"))
	for i := range o.Lower {
		c.do("done with a layer", callClose, num(firstLayerFD+i))
	}
	return fd
}

// attachImage attaches what placeImages has made.
func (c *compiler) attachImage(i int, im Image) {
	destination := path.Clean(c.spec.Mounts[i].Destination)
	kind := aDirectory
	if im.File {
		kind = aFile
	}
	at := c.target(c.root, destination, "the place of "+destination, kind, inRoot)
	c.attach("mount it at "+destination, c.sources[mountKey(i)], at)
}
