package cli

import (
	"path"
	"strings"
	"time"

	"berth/internal/errdef"
	"berth/internal/image/reference"
	"berth/internal/image/store"
)

// listedImage is an image of a list. One that cannot be read has a record alone.
type listedImage struct {
	store.Record
	image  store.Image
	broken bool
}

func (im listedImage) created() time.Time {
	if im.broken || im.image.Config.Created == nil {
		return time.Time{}
	}
	return *im.image.Config.Created
}

// imageFilter tells which images are listed.
type imageFilter func(listedImage) bool

// imageFilters reads docker's filters of images. Those of one key are alternatives, but for labels, which all must be there.
func imageFilters(filters []string, find func(name string) (listedImage, error)) (imageFilter, error) {
	byKey := map[string][]imageFilter{}
	for _, f := range filters {
		key, value, _ := strings.Cut(f, "=")
		one, err := oneImageFilter(key, value, find)
		if err != nil {
			return nil, err
		}
		if key == "label" {
			key = f
		}
		byKey[key] = append(byKey[key], one)
	}
	return func(im listedImage) bool {
		for _, alternatives := range byKey {
			any := false
			for _, f := range alternatives {
				any = any || f(im)
			}
			if !any {
				return false
			}
		}
		return true
	}, nil
}

func oneImageFilter(key, value string, find func(name string) (listedImage, error)) (imageFilter, error) {
	switch key {
	case "dangling":
		switch value {
		case "true", "1":
			return func(im listedImage) bool { return im.Name == "" }, nil
		case "false", "0":
			return func(im listedImage) bool { return im.Name != "" }, nil
		}
		return nil, errdef.New(errdef.Invalid, "invalid filter 'dangling=%s'", value)
	case "label":
		return func(im listedImage) bool { return hasLabel(im.image.Config.Config.Labels, value) }, nil
	case "before", "since":
		other, err := find(value)
		if err != nil {
			return nil, err
		}
		if key == "before" {
			return func(im listedImage) bool { return im.created().Before(other.created()) }, nil
		}
		return func(im listedImage) bool { return im.created().After(other.created()) }, nil
	case "until":
		until, err := parseTime(value)
		if err != nil {
			return nil, err
		}
		return func(im listedImage) bool { return !im.broken && im.created().Before(until) }, nil
	case "reference":
		if _, err := path.Match(value, ""); err != nil {
			return nil, errdef.New(errdef.Invalid, "invalid filter 'reference=%s': %w", value, err)
		}
		return func(im listedImage) bool {
			ref, ok := im.Reference()
			return ok && matchesReference(value, ref)
		}, nil
	}
	return nil, errdef.New(errdef.Invalid, "invalid filter '%s'", key)
}

// matchesReference matches a pattern, where "*" stops at "/", with the familiar name, with and without its tag.
func matchesReference(pattern string, ref reference.Reference) bool {
	for _, name := range []string{ref.Familiar(), ref.FamiliarName(), ref.String(), ref.Repository()} {
		if ok, err := path.Match(pattern, name); ok && err == nil {
			return true
		}
	}
	return false
}
