package main

import (
	"strconv"
	"strings"

	"berth/test/tiny"
)

// verify checks what is there after the boot, and learns what became of what nobody had reported.
func (t *test) verify() {
	broken, err := t.machine.brokenBlobs(t.data())
	if err != nil {
		t.violation("%v", err)
	}
	for _, b := range broken {
		t.violation("blob %s does not match its digest", b)
	}
	found, err := t.machine.layers(t.data())
	if err != nil {
		t.violation("%v", err)
	}
	for chain, text := range found {
		if want, known := t.reference[chain]; !known && !t.committed[text] {
			t.violation("layer %s is none of ours: it holds\n%s", chain, text)
		} else if known && text != want {
			t.violation("layer %s is not whole: it holds\n%sand should hold\n%s", chain, text, want)
		}
	}
	if _, err := t.berth("run", "--rm", "--network", "none", "box", "true"); err != nil {
		t.violation("%v", err)
	}
	images, err := t.berth("images", "--format", "{{.Repository}}:{{.Tag}}")
	if err != nil {
		t.violation("%v", err)
	}
	containers, err2 := t.berth("ps", "-a", "--format", "{{.Names}}")
	if err2 != nil {
		t.violation("%v", err2)
	}
	networks, err3 := t.berth("network", "ls", "--format", "{{.Name}}")
	if err3 != nil {
		t.violation("%v", err3)
	}
	if err != nil || err2 != nil || err3 != nil {
		return
	}
	var there, onNetworks []string
	for w := range workers {
		k := t.workers[w]
		for s := range seeds {
			for _, kind := range append(kinds[:len(kinds):len(kinds)], "tagged", "committed") {
				name := imageName(kind, w, s)
				if t.settle(k.images, name, images) {
					there = append(there, name)
					for _, chain := range t.chains[name] {
						if _, ok := found[chain]; !ok {
							t.violation("image %s has no layer %s", name, chain)
						}
					}
				}
			}
			t.settle(k.containers, containerName("c", w, s), containers)
			t.checkWriter(k, containerName("m", w, s), s, containers)
			if name := networkName(w, s); t.settle(k.networks, name, networks) {
				onNetworks = append(onNetworks, name)
			}
		}
	}
	// What is there can be used: no lease of before the cut, and nothing half made, stands in the way.
	on := "bridge"
	if len(onNetworks) > 0 && t.cuts%2 == 0 {
		on = onNetworks[t.random.Intn(len(onNetworks))]
	}
	if _, err := t.berth(t.publishing(0, on)...); err != nil {
		t.violation("%v", err)
	}
	if len(there) == 0 {
		return
	}
	if _, err := t.berth(append([]string{"image", "inspect"}, there...)...); err != nil {
		t.violation("%v", err)
	}
	if said, err := t.berth(append([]string{"image", "verify"}, there...)...); err != nil { // the blobs of what was built are made of their layers
		t.violation("%s%v", said, err)
	}
	if t.cuts%4 != 0 {
		return
	}
	name := there[t.random.Intn(len(there))]
	program := tiny.Program
	if strings.HasPrefix(name, "committed") || strings.HasPrefix(name, "tagged") { // which may be the one that was committed
		return
	}
	if _, err := t.berth("run", "--rm", "--network", "none", name, program); err != nil {
		t.violation("%v", err)
	}
}

// checkWriter checks a container that has written: all of that is there, whatever driver it has been moved to. One that was cut short is removed, as
// nobody knows how far it had come.
func (t *test) checkWriter(k known, name string, seed int, containers string) {
	if !t.settle(k.containers, name, containers) {
		delete(k.written, name)
		delete(k.drivers, name)
		return
	}
	if !k.written[name] {
		if _, err := t.berth("rm", "-f", name); err != nil {
			t.violation("%v", err)
		}
		k.containers[name] = absent
		return
	}
	if out, err := t.berth("diff", name); err != nil || out != t.changes[seed] {
		t.violation("container %s differs from its image by\n%s%v, and should by\n%s", name, out, err, t.changes[seed])
	}
	switch now, err := t.berth("inspect", "--format", "{{.Driver}}", name); {
	case err != nil:
		t.violation("%v", err)
	case k.drivers[name] != "" && now != k.drivers[name]+"\n":
		t.violation("container %s was reported to have the driver %s, and has %s", name, k.drivers[name], now)
	}
	if t.cuts%4 == 1 {
		if out, err := t.berth("start", "-a", name); err != nil || out != strconv.Itoa(seed)+"\nnew\n" {
			t.violation("container %s prints %q, %v", name, out, err)
		}
	}
}

// settle compares what is known of a name with a list of names, and returns whether it is in there.
func (t *test) settle(known map[string]fate, name, list string) bool {
	there := strings.Contains("\n"+list, "\n"+name+"\n")
	switch {
	case known[name] == present && !there:
		t.violation("%s was reported and is gone", name)
	case known[name] == absent && there:
		t.violation("%s was removed and is back", name)
	}
	known[name] = absent
	if there {
		known[name] = present
	}
	return there
}
