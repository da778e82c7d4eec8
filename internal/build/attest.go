package build

import (
	"context"
	"encoding/json"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"berth/internal/build/sbom"
	"berth/internal/ident"
	"berth/internal/image"
	"berth/internal/image/reference"
)

// Provenance says what is told about how an image was built.
type Provenance struct {
	// Max adds the arguments, the labels and the Dockerfile, which may say more than everybody is to know.
	Max bool
	// Version of SLSA's form: "v1" or "v0.2".
	Version string
	// BuilderID names who has built it.
	BuilderID string
}

// Kinds of statements (in-toto, slsa.dev, spdx.dev), and how BuildKit ties them to an image (docs/attestations/attestation-storage.md there).
const (
	mediaTypeStatement = "application/vnd.in-toto+json"
	statementType      = "https://in-toto.io/Statement/v0.1"
	provenanceV02      = "https://slsa.dev/provenance/v0.2"
	provenanceV1       = "https://slsa.dev/provenance/v1"
	predicateSPDX      = "https://spdx.dev/Document"

	referenceType   = "vnd.docker.reference.type"
	referenceDigest = "vnd.docker.reference.digest"
	predicateKey    = "in-toto.io/predicate-type"

	buildTypeV1  = "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md"
	buildTypeV02 = "https://mobyproject.org/buildkit@v1"
)

// statement says something about an image.
type statement struct {
	Type          string    `json:"_type"`
	PredicateType string    `json:"predicateType"`
	Subject       []subject `json:"subject"`
	Predicate     any       `json:"predicate"`
}

type subject struct {
	Name   string            `json:"name"`
	Digest map[string]string `json:"digest"`
}

// attest writes what is told about a manifest, and the manifest that an index names beside it.
func (b *builder) attest(ctx context.Context, v *Vertex, of image.Descriptor) ([]image.Descriptor, error) {
	var all []statement
	if b.SBOM {
		found, err := b.packages(ctx, of)
		if err != nil {
			return nil, err
		}
		all = append(all, statement{PredicateType: predicateSPDX, Predicate: found})
	}
	if b.Provenance != nil {
		kind, predicate := b.provenance()
		all = append(all, statement{PredicateType: kind, Predicate: predicate})
	}
	if len(all) == 0 {
		return nil, nil
	}
	m := image.Manifest{SchemaVersion: 2, MediaType: image.MediaTypeManifest}
	config := image.Image{Platform: image.Platform{OS: "unknown", Architecture: "unknown"}, RootFS: image.RootFS{Type: "layers"}}
	for _, s := range all {
		s.Type, s.Subject = statementType, b.subjects(of)
		d, err := b.putJSON(s, mediaTypeStatement)
		if err != nil {
			return nil, err
		}
		d.Annotations = map[string]string{predicateKey: s.PredicateType}
		m.Layers, config.RootFS.DiffIDs = append(m.Layers, d), append(config.RootFS.DiffIDs, d.Digest)
	}
	var err error
	if m.Config, err = b.putJSON(config, image.MediaTypeConfig); err != nil {
		return nil, err
	}
	d, err := b.putJSON(m, m.MediaType)
	if err != nil {
		return nil, err
	}
	v.Say("exporting attestation manifest %s done", d.Digest)
	d.Platform = &image.Platform{OS: "unknown", Architecture: "unknown"}
	d.Annotations = map[string]string{referenceType: "attestation-manifest", referenceDigest: string(of.Digest)}
	return []image.Descriptor{d}, nil
}

// subjects are the names of what is built, as package URLs.
func (b *builder) subjects(of image.Descriptor) (all []subject) {
	digest := map[string]string{of.Digest.Algorithm(): of.Digest.Hex()}
	for _, tag := range b.Tags {
		ref, err := reference.Parse(tag)
		if err != nil {
			continue
		}
		all = append(all, subject{"pkg:docker/" + ref.FamiliarName() + "@" + ref.Tag + "?platform=" + url.QueryEscape(b.platform.String()), digest})
	}
	if len(all) == 0 {
		all = []subject{{"_", digest}}
	}
	return all
}

// material is something that a build is made of.
type material struct {
	URI    string            `json:"uri"`
	Digest map[string]string `json:"digest"`
}

// materials are the images that the build has used.
func (b *builder) materials() []material {
	all := []material{}
	for _, s := range b.plan.Stages {
		base, ok := b.bases[baseKey(s.Ref, s.Platform)]
		if s.Ref == "" || !ok {
			continue
		}
		ref, err := reference.Parse(s.Ref)
		if err != nil {
			continue
		}
		all = append(all, material{
			"pkg:docker/" + ref.FamiliarName() + "@" + ref.Tag + "?platform=" + url.QueryEscape(s.Platform.String()),
			map[string]string{base.digest.Algorithm(): base.digest.Hex()},
		})
	}
	if b.source.revision != "" {
		all = append(all, material{b.Source.Context, map[string]string{"sha1": b.source.revision}})
	}
	return all
}

// request is what was asked for.
func (b *builder) request() map[string]any {
	args := map[string]string{}
	if b.Target != "" {
		args["target"] = b.Target
	}
	if b.Provenance.Max {
		for k, v := range b.Args {
			args["build-arg:"+k] = v
		}
		for k, v := range b.Labels {
			args["label:"+k] = v
		}
	}
	return map[string]any{"frontend": "dockerfile.v0", "args": args, "locals": []any{map[string]string{"name": "context"}, map[string]string{"name": "dockerfile"}}}
}

// provenance is SLSA's account of the build.
func (b *builder) provenance() (kind string, predicate any) {
	host := image.HostPlatform().String()
	finished := time.Now().UTC()
	path := b.source.name
	if b.Source.Dockerfile != "" && b.Source.Dockerfile != "-" {
		path = filepath.Base(b.Source.Dockerfile)
	}
	complete := !b.network()
	if b.Provenance.Version == "v0.2" {
		return provenanceV02, map[string]any{
			"builder":   map[string]string{"id": b.Provenance.BuilderID},
			"buildType": buildTypeV02,
			"materials": b.materials(),
			"invocation": map[string]any{
				"configSource": map[string]string{"entryPoint": path},
				"parameters":   b.request(),
				"environment":  map[string]string{"platform": host},
			},
			"metadata": map[string]any{
				"buildInvocationID": b.id, "buildStartedOn": b.started, "buildFinishedOn": finished,
				"completeness": map[string]bool{"parameters": b.Provenance.Max, "environment": true, "materials": complete}, "reproducible": false,
			},
		}
	}
	internal := map[string]any{"builderPlatform": host}
	if b.Provenance.Max {
		internal["buildConfig"] = map[string]any{"dockerfile": string(b.source.text)}
	}
	return provenanceV1, map[string]any{
		"buildDefinition": map[string]any{
			"buildType":            buildTypeV1,
			"externalParameters":   map[string]any{"configSource": map[string]string{"path": path}, "request": b.request()},
			"internalParameters":   internal,
			"resolvedDependencies": b.materials(),
		},
		"runDetails": map[string]any{
			"builder": map[string]string{"id": b.Provenance.BuilderID},
			"metadata": map[string]any{
				"invocationID": b.id, "startedOn": b.started, "finishedOn": finished,
				"buildkit_completeness": map[string]bool{"request": b.Provenance.Max, "resolvedDependencies": complete}, "buildkit_reproducible": false,
			},
		},
	}
}

// network reports whether a command of the build may have got something from elsewhere.
func (b *builder) network() bool {
	if b.Run.Network == "none" {
		return false
	}
	for _, s := range b.plan.Stages {
		for _, step := range s.Steps {
			if step.Run != nil && step.Run.Network != "none" {
				return true
			}
		}
	}
	return false
}

// packages lists what package managers say is in the result.
func (b *builder) packages(ctx context.Context, of image.Descriptor) (json.RawMessage, error) {
	trees, err := b.trees(b.results[b.plan.Target()].layers)
	if err != nil {
		return nil, err
	}
	name := "image"
	if len(b.Tags) > 0 {
		name = strings.TrimPrefix(b.Tags[0], "docker.io/library/")
	}
	found, err := sbom.Find(ctx, trees)
	if err != nil {
		return nil, err
	}
	for _, what := range found.Unread {
		b.Progress.Begin("[sbom] cannot read %s: its packages are not listed", what).Done()
	}
	return sbom.SPDX(found, sbom.About{Name: name, Created: b.now, Namespace: "urn:" + string(of.Digest)})
}

// newInvocation names one build.
func newInvocation() string { return ident.New()[:25] }
