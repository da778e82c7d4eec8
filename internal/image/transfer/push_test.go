package transfer

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"berth/internal/image"
	"berth/internal/image/content"
	"berth/internal/image/reference"
	"berth/internal/image/registry"
)

// An index is pushed with all its platforms, under the digest that it had; one of which a part is missing gives way to the platform's.
func TestPushOfAnIndex(t *testing.T) {
	host := image.HostPlatform()
	dir := layout(t, []image.Platform{{OS: "linux", Architecture: "s390x"}, host}, layerTar(t, map[string][]byte{"a": noise(1, 1<<20)}))
	store, err := content.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	var list, index image.Index
	if err := json.Unmarshal(raw, &list); err != nil {
		t.Fatal(err)
	}
	target := list.Manifests[0]
	if raw, err = store.ReadAll(target.Digest, image.MaxManifest); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &index); err != nil {
		t.Fatal(err)
	}
	other, chosen := index.Manifests[0], index.Manifests[1]
	client := registry.New(registry.Options{})
	defer client.Close()
	push := func(name string) (reference.Reference, Pushed) {
		ref, err := reference.Parse(name)
		if err != nil {
			t.Fatal(err)
		}
		pushed, err := Push(context.Background(), ref, target, chosen, PushOptions{Registry: client, Content: store})
		if err != nil {
			t.Fatal(err)
		}
		if d, err := client.Head(context.Background(), ref); err != nil || d != pushed.Digest {
			t.Errorf("%s is %s there, and %s was pushed: %v", name, d, pushed.Digest, err)
		}
		return ref, pushed
	}
	address := dockerRegistry(t, "")
	ref, pushed := push(address + "/whole:1")
	if pushed.Digest != target.Digest || pushed.Instead != "" || pushed.Size != target.Size {
		t.Errorf("pushed %+v", pushed)
	}
	if found, err := client.HasManifest(context.Background(), ref, other.Digest); !found || err != nil {
		t.Errorf("the other platform is missing: %v", err)
	}
	if err := store.Delete(other.Digest); err != nil {
		t.Fatal(err)
	}
	if _, pushed = push(address + "/whole:2"); pushed.Digest != target.Digest { // the registry has the rest
		t.Errorf("pushed %+v", pushed)
	}
	if _, pushed = push(address + "/part:1"); pushed.Digest != chosen.Digest || pushed.Instead != target.Digest {
		t.Errorf("pushed %+v", pushed)
	}
}
