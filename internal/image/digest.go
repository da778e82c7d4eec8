package image

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"hash"
	"strings"

	"berth/internal/errdef"
)

// The hash functions that image-spec (descriptor.md, "Registered algorithms") names and we accept.
const (
	SHA256 = "sha256"
	SHA512 = "sha512"
)

// ParseDigest returns s as a digest if it is a well-formed one.
func ParseDigest(s string) (Digest, error) {
	algorithm, encoded, ok := strings.Cut(s, ":")
	if !ok {
		return "", errdef.New(errdef.Invalid, "%q is not a digest: it has no algorithm", s)
	}
	want := hexLength(algorithm)
	switch {
	case want == 0:
		return "", errdef.New(errdef.Unsupported, "digest %q is of an algorithm other than sha256 and sha512", s)
	case len(encoded) != want:
		return "", errdef.New(errdef.Invalid, "digest %q has %d digits, not %d", s, len(encoded), want)
	case !isLowerHex(encoded):
		return "", errdef.New(errdef.Invalid, "digest %q has something other than lower-case hexadecimal digits", s)
	}
	return Digest(s), nil
}

func hexLength(algorithm string) int {
	switch algorithm {
	case SHA256:
		return 2 * sha256.Size
	case SHA512:
		return 2 * sha512.Size
	}
	return 0
}

func isLowerHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// Validate says what is wrong with a digest that came out of JSON rather than out of ParseDigest.
func (d Digest) Validate() error {
	_, err := ParseDigest(string(d))
	return err
}

// Algorithm is what stands before the colon.
func (d Digest) Algorithm() string {
	algorithm, _, _ := strings.Cut(string(d), ":")
	return algorithm
}

// Hex is what stands behind the colon.
func (d Digest) Hex() string {
	_, encoded, _ := strings.Cut(string(d), ":")
	return encoded
}

// Short is the form in which people read an image ID: twelve digits.
func (d Digest) Short() string {
	h := d.Hex()
	return h[:min(12, len(h))]
}

// Digester computes the digest of what is written to it.
type Digester struct {
	algorithm string
	hash      hash.Hash
	size      int64
}

// NewDigester returns a digester for an algorithm; for any name but SHA512 that is SHA256.
func NewDigester(algorithm string) *Digester {
	if algorithm == SHA512 {
		return &Digester{algorithm: SHA512, hash: sha512.New()}
	}
	return &Digester{algorithm: SHA256, hash: sha256.New()}
}

// Write never fails.
func (d *Digester) Write(p []byte) (int, error) {
	d.size += int64(len(p))
	return d.hash.Write(p)
}

// Size is the number of bytes written so far.
func (d *Digester) Size() int64 { return d.size }

// Digest is the digest of the bytes written so far.
func (d *Digester) Digest() Digest {
	var sum [sha512.Size]byte
	return Digest(d.algorithm + ":" + hex.EncodeToString(d.hash.Sum(sum[:0])))
}

// DigestOf returns the sha256 digest of data.
func DigestOf(data []byte) Digest {
	sum := sha256.Sum256(data)
	return Digest(SHA256 + ":" + hex.EncodeToString(sum[:]))
}

// Verify reports, as an error of kind Corrupt, whether data is not what d names.
func (d Digest) Verify(data []byte) error {
	if err := d.Validate(); err != nil {
		return err
	}
	h := NewDigester(d.Algorithm())
	_, _ = h.Write(data)
	if got := h.Digest(); got != d {
		return errdef.New(errdef.Corrupt, "bytes with digest %s are not %s", got, d)
	}
	return nil
}

// ChainIDs names the stack of layers that ends with each layer: the first chain ID is the first diff ID, each
// further one the digest of the chain ID below, a space and the diff ID (image-spec, config.md, "Layer ChainID").
func ChainIDs(diffIDs []Digest) []Digest {
	chain := make([]Digest, len(diffIDs))
	for i, diff := range diffIDs {
		chain[i] = diff
		if i > 0 {
			chain[i] = ChainID(chain[i-1], diff)
		}
	}
	return chain
}

// ChainID is the chain ID of a layer on top of the stack parent, which is "" for the lowest layer.
func ChainID(parent, diffID Digest) Digest {
	if parent == "" {
		return diffID
	}
	return DigestOf([]byte(string(parent) + " " + string(diffID)))
}
