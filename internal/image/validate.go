package image

import (
	"encoding/json"
	"strings"

	"berth/internal/errdef"
)

// Limits for documents from outside. Distribution's own limit for a manifest is the same 4 MiB.
const (
	MaxManifest   = 4 << 20 // bytes of a manifest or an index
	MaxConfig     = 8 << 20 // bytes of an image's configuration
	MaxLayers     = 500     // overlayfs cannot stack more (OVL_MAX_STACK, fs/overlayfs/params.h)
	MaxManifests  = 4096    // entries of one index
	MaxIndexDepth = 4       // indexes inside indexes
)

// IsIndex reports whether a media type says "index" or docker's "manifest list".
func IsIndex(mediaType string) bool {
	return mediaType == MediaTypeIndex || mediaType == MediaTypeDockerList
}

// IsManifest reports whether a media type says "manifest of one image".
func IsManifest(mediaType string) bool {
	return mediaType == MediaTypeManifest || mediaType == MediaTypeDockerManifest
}

// IsConfig reports whether a media type says "configuration of an image". Docker once wrote the general one.
func IsConfig(mediaType string) bool {
	return mediaType == MediaTypeConfig || mediaType == MediaTypeDockerConfig || mediaType == "application/octet-stream"
}

// IsLayer reports whether a media type says "layer that we can unpack". How it is compressed is seen from its
// bytes, not from here.
func IsLayer(mediaType string) bool {
	switch mediaType {
	case MediaTypeLayer, MediaTypeLayerGzip, MediaTypeLayerZstd, MediaTypeDockerLayer, MediaTypeDockerLayerTar,
		// Deprecated in image-spec 1.1, docker's "foreign layers", and what containerd writes for docker's zstd.
		"application/vnd.oci.image.layer.nondistributable.v1.tar",
		"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
		"application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
		"application/vnd.docker.image.rootfs.foreign.diff.tar",
		"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
		"application/vnd.docker.image.rootfs.diff.tar.zstd":
		return true
	}
	return false
}

// ValidateDescriptor says what is wrong with a descriptor from outside.
func ValidateDescriptor(d Descriptor) error {
	if err := d.Digest.Validate(); err != nil {
		return err
	}
	if d.Size < 0 {
		return errdef.New(errdef.Invalid, "the size of %s is %d", d.Digest, d.Size)
	}
	return nil
}

// MediaTypeOf says what a document is: what it says itself or, if it says nothing, what declared says or its
// fields show. A document that can be taken for two things is refused, because two readers would take it for
// different ones (CVE-2021-41190).
func MediaTypeOf(data []byte, declared string) (string, error) {
	if len(data) > MaxManifest {
		return "", errdef.New(errdef.Invalid, "it has %d bytes; at most %d are read", len(data), MaxManifest)
	}
	fields, err := scan(data)
	if err != nil {
		return "", err
	}
	own, err := fields.text("mediatype")
	if err != nil {
		return "", err
	}
	// Go's clients may add parameters to a Content-Type; the document itself has none.
	declared, _, _ = strings.Cut(declared, ";")
	declared = strings.TrimSpace(declared)
	known := IsIndex(declared) || IsManifest(declared)
	switch {
	case fields.has("fslayers") || fields.has("signatures"):
		return "", errdef.Hint(errdef.New(errdef.Unsupported, "it is a manifest of docker's schema 1, which has been gone since 2023"),
			"push the image again with a current tool")
	case fields.has("manifests") && (fields.has("layers") || fields.has("config")):
		return "", errdef.New(errdef.Invalid, "it is a manifest and an index at once (CVE-2021-41190)")
	case own != "" && known && own != declared:
		return "", errdef.New(errdef.Invalid, "it was announced as %q and says it is %q (CVE-2021-41190)", declared, own)
	}
	mediaType := own
	if mediaType == "" && known {
		mediaType = declared
	}
	switch {
	case mediaType == "" && fields.has("manifests"):
		return MediaTypeIndex, nil
	case mediaType == "" && fields.has("config") && fields.has("layers"):
		return MediaTypeManifest, nil
	case IsIndex(mediaType) && !fields.has("layers") && !fields.has("config"),
		IsManifest(mediaType) && !fields.has("manifests"):
		return mediaType, nil
	case IsIndex(mediaType) || IsManifest(mediaType):
		return "", errdef.New(errdef.Invalid, "it says it is %q and has the fields of something else (CVE-2021-41190)", mediaType)
	}
	return "", errdef.New(errdef.Unsupported, "its media type %q is neither a manifest's nor an index's", mediaType)
}

// ParseIndex reads an index or a manifest list of the media type declared, which may be "".
func ParseIndex(data []byte, declared string) (Index, error) {
	mediaType, err := MediaTypeOf(data, declared)
	if err != nil {
		return Index{}, wrapParse("index", err)
	}
	if !IsIndex(mediaType) {
		return Index{}, errdef.New(errdef.Invalid, "cannot read image index: its media type is %q", mediaType)
	}
	var x Index
	if err := json.Unmarshal(data, &x); err != nil {
		return Index{}, wrapParse("index", errdef.As(errdef.Invalid, err))
	}
	if x.SchemaVersion != 2 {
		return Index{}, errdef.New(errdef.Unsupported, "cannot read image index: its schemaVersion is %d, not 2", x.SchemaVersion)
	}
	if len(x.Manifests) > MaxManifests {
		return Index{}, errdef.New(errdef.Invalid, "cannot read image index: it has %d manifests; at most %d are read", len(x.Manifests), MaxManifests)
	}
	for i, d := range x.Manifests {
		if err := ValidateDescriptor(d); err != nil {
			return Index{}, errdef.New(errdef.Invalid, "cannot read image index: manifest %d: %w", i, err)
		}
	}
	x.MediaType = mediaType
	return x, nil
}

// ParseManifest reads the manifest of an image, of the media type declared, which may be "".
func ParseManifest(data []byte, declared string) (Manifest, error) {
	mediaType, err := MediaTypeOf(data, declared)
	if err != nil {
		return Manifest{}, wrapParse("manifest", err)
	}
	if !IsManifest(mediaType) {
		return Manifest{}, errdef.New(errdef.Invalid, "cannot read image manifest: its media type is %q", mediaType)
	}
	var m Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return Manifest{}, wrapParse("manifest", errdef.As(errdef.Invalid, err))
	}
	if err := m.validate(); err != nil {
		return Manifest{}, wrapParse("manifest", err)
	}
	m.MediaType = mediaType
	return m, nil
}

func (m *Manifest) validate() error {
	if m.SchemaVersion != 2 {
		return errdef.New(errdef.Unsupported, "its schemaVersion is %d, not 2", m.SchemaVersion)
	}
	if err := ValidateDescriptor(m.Config); err != nil {
		return errdef.New(errdef.Invalid, "config: %w", err)
	}
	if len(m.Layers) > MaxLayers {
		return errdef.New(errdef.Unsupported, "it has %d layers; the kernel stacks at most %d", len(m.Layers), MaxLayers)
	}
	for i, l := range m.Layers {
		if err := ValidateDescriptor(l); err != nil {
			return errdef.New(errdef.Invalid, "layer %d: %w", i, err)
		}
	}
	return nil
}

// CheckRunnable says why a well-formed manifest is not one of an image that can be unpacked: signatures, Helm
// charts and other artifacts have manifests too.
func (m *Manifest) CheckRunnable() error {
	if !IsConfig(m.Config.MediaType) {
		what := m.ArtifactType
		if what == "" {
			what = m.Config.MediaType
		}
		return errdef.New(errdef.Unsupported, "it is not a container image but %q", what)
	}
	if m.Config.Size > MaxConfig {
		return errdef.New(errdef.Invalid, "its config has %d bytes; at most %d are read", m.Config.Size, MaxConfig)
	}
	if len(m.Layers) == 0 {
		return errdef.New(errdef.Unsupported, "it has no layers")
	}
	for i, l := range m.Layers {
		if strings.HasSuffix(l.MediaType, "+encrypted") {
			return errdef.New(errdef.Unsupported, "layer %d is encrypted (%s)", i, l.MediaType)
		}
		if !IsLayer(l.MediaType) {
			return errdef.New(errdef.Unsupported, "layer %d has the unknown media type %q", i, l.MediaType)
		}
	}
	return nil
}

// ParseConfig reads the configuration of an image.
func ParseConfig(data []byte) (Image, error) {
	if len(data) > MaxConfig {
		return Image{}, errdef.New(errdef.Invalid, "cannot read image config: it has %d bytes; at most %d are read", len(data), MaxConfig)
	}
	var c Image
	if _, err := scan(data); err != nil {
		return Image{}, wrapParse("config", err)
	}
	if err := json.Unmarshal(data, &c); err != nil {
		return Image{}, wrapParse("config", errdef.As(errdef.Invalid, err))
	}
	if c.RootFS.Type != "layers" {
		return Image{}, errdef.New(errdef.Unsupported, "cannot read image config: rootfs.type is %q, not \"layers\"", c.RootFS.Type)
	}
	for i, d := range c.RootFS.DiffIDs {
		if err := d.Validate(); err != nil {
			return Image{}, errdef.New(errdef.Invalid, "cannot read image config: diff ID %d: %w", i, err)
		}
	}
	// execve(2) ends a string at the first NUL: what is checked and what is run would differ.
	for _, list := range [...][]string{c.Config.Env, c.Config.Entrypoint, c.Config.Cmd, {c.Config.User, c.Config.WorkingDir, c.Config.StopSignal}} {
		for _, s := range list {
			if strings.IndexByte(s, 0) >= 0 {
				return Image{}, errdef.New(errdef.Invalid, "cannot read image config: %q contains a NUL byte", s)
			}
		}
	}
	return c, nil
}

// CheckLayers says why manifest and config do not belong together: each layer has exactly one diff ID.
func CheckLayers(m Manifest, c Image) error {
	if err := m.CheckRunnable(); err != nil {
		return err
	}
	if len(m.Layers) != len(c.RootFS.DiffIDs) {
		return errdef.New(errdef.Invalid, "the manifest has %d layers and the config %d diff IDs", len(m.Layers), len(c.RootFS.DiffIDs))
	}
	return nil
}

func wrapParse(what string, err error) error {
	return errdef.New(errdef.KindOf(err), "cannot read image %s: %w", what, err)
}
