package main

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The traffic of containers is measured in a small world for each engine, because the packet filter of one keeps others' traffic out: a
// network namespace that is its host, and one that is another host, with a wire between.
const (
	hostAddress  = "10.77.0.1"
	otherAddress = "10.77.0.2"
	handClient   = "10.78.0.2"
	handServer   = "10.78.0.3"
	port         = "80"
	publishedAt  = "8080"
	measureAt    = "/measure" // this program, in the image
)

// world is the network of one engine.
type world struct{ host, other string }

// in is a command in a network namespace, and in nothing else of it.
func in(namespace string, argv ...string) []string {
	return append([]string{"nsenter", "--net=/run/netns/" + namespace}, argv...)
}

func makeWorld(name string) (w world, remove func(), err error) {
	w = world{name + "-host", name + "-other"}
	remove = func() { attempt([]string{"ip", "netns", "del", w.host}, []string{"ip", "netns", "del", w.other}) }
	err = do(
		[]string{"ip", "netns", "add", w.host}, []string{"ip", "netns", "add", w.other},
		[]string{"ip", "link", "add", "wire", "netns", w.host, "type", "veth", "peer", "name", "wire", "netns", w.other},
		in(w.host, "ip", "addr", "add", hostAddress+"/24", "dev", "wire"), in(w.other, "ip", "addr", "add", otherAddress+"/24", "dev", "wire"),
		in(w.host, "ip", "link", "set", "wire", "up"), in(w.other, "ip", "link", "set", "wire", "up"),
		in(w.host, "ip", "link", "set", "lo", "up"), in(w.other, "ip", "link", "set", "lo", "up"),
		in(w.host, "ip", "route", "add", "default", "via", otherAddress),
	)
	if err != nil {
		remove()
	}
	return w, remove, err
}

// station is where traffic is measured: an engine in its world, or what is made by hand.
type station struct {
	name    string
	command func(trafficRow) []string // nil: it has no such thing
	crowd   func() error              // publishes a thousand ports more; nil where each would take a process
	close   func()
}

// traffic compares what containers' networks carry, with each other and with two pairs of interfaces on a bridge, made by hand.
func (b *bench) traffic() error {
	image, err := b.measureTree()
	if err != nil {
		return err
	}
	hand, err := byHand(image + measureAt)
	if err != nil {
		return fmt.Errorf("by hand: %w", err)
	}
	stations := []station{hand}
	defer func() {
		for _, s := range stations {
			s.close()
		}
	}()
	for _, engine := range []struct {
		name string
		open func(w world) (peer, func(), error)
	}{{"berth", b.berthIn}, {"podman", b.podmanIn}, {"docker", b.dockerIn}} {
		s, err := openStation(engine.name, engine.open, image)
		if err != nil {
			fmt.Printf("%s: left out: %v\n", engine.name, err)
			continue
		}
		stations = append(stations, s)
	}
	for _, r := range trafficRows {
		if err := compareTraffic(r, stations); err != nil {
			return fmt.Errorf("%s: %w", r.what, err)
		}
	}
	return nil
}

// trafficRow is one thing that is measured: from a container of the network, or from another host by the published port.
type trafficRow struct {
	what, measure, target string
	fromOther             bool
	crowded               bool // among a thousand published ports more
}

const published = hostAddress + ":" + publishedAt

// The crowded rows are the last: the ports stay.
var trafficRows = []trafficRow{
	{"container to container, Gbit/s", "throughput", "server:" + port, false, false},
	{"container to container, connections/s", "connections", "server:" + port, false, false},
	{"container to container, questions/s", "questions", "server:" + port, false, false},
	{"names/s", "names", "server", false, false},
	{"published port, Gbit/s", "throughput", published, true, false},
	{"published port, connections/s", "connections", published, true, false},
	{"published port, questions/s", "questions", published, true, false},
	{"published port among 1,001, connections/s", "connections", published, true, true},
	{"published port among 1,001, questions/s", "questions", published, true, true},
}

// trafficRounds is how often each is measured, in alternation.
const trafficRounds = 3

// compareTraffic measures one row at all stations, and prints what has come of it.
func compareTraffic(r trafficRow, stations []station) error {
	values := make([][]float64, len(stations))
	for round := range trafficRounds {
		for i, s := range stations {
			if r.crowded && s.crowd == nil || s.command(r) == nil {
				continue
			}
			if r.crowded && round == 0 {
				if err := s.crowd(); err != nil {
					return fmt.Errorf("%s: %w", s.name, err)
				}
			}
			n, err := measured(s.command(r))
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			values[i] = append(values[i], n)
		}
	}
	fmt.Printf("%s (%d rounds)\n", r.what, trafficRounds)
	for i, s := range stations {
		if v := values[i]; len(v) > 0 {
			slices.Sort(v)
			fmt.Printf("  %-28s median %10.2f   max %10.2f\n", s.name, v[len(v)/2], v[len(v)-1])
		}
	}
	return nil
}

// openStation makes a world for an engine, with a server on a network of its own that is published.
func openStation(name string, open func(world) (peer, func(), error), image string) (s station, err error) {
	w, remove, err := makeWorld(name)
	if err != nil {
		return s, err
	}
	s = station{name: name, close: remove}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	p, stop, err := open(w)
	if err != nil {
		return s, err
	}
	s.close = func() {
		attempt(p.call("rm", "-f", "server", "crowd"), p.call("network", "rm", "t"))
		stop()
		remove()
	}
	run := func(flags []string, args ...string) []string {
		return slices.Concat(p.argv, []string{"run", "--network", "t"}, p.create, flags, []string{p.prefix + "measure", measureAt}, args)
	}
	if err := give([]peer{p}, "measure", image); err != nil {
		return s, err
	}
	if err := do(p.call("network", "create", "t"), run([]string{"-d", "--name", "server", "-p", publishedAt + ":" + port}, "serve", ":"+port)); err != nil {
		return s, err
	}
	s.command = func(r trafficRow) []string {
		if r.fromOther {
			return in(w.other, image+measureAt, r.measure, r.target)
		}
		return run([]string{"--rm"}, r.measure, r.target)
	}
	if name == "berth" {
		crowded := sync.OnceValue(func() error {
			return do(run([]string{"-d", "--name", "crowd", "-p", "20000-20999:20000-20999"}, "serve", ":"+port))
		})
		s.crowd = crowded
	}
	return s, nil
}

// measured runs a measure until the server is there.
func measured(argv []string) (float64, error) {
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		out, err := exec.Command(argv[0], argv[1:]...).Output()
		if err == nil {
			return strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
		}
		if time.Now().After(end) {
			return 0, fmt.Errorf("%s: %w", strings.Join(argv, " "), err)
		}
	}
}

// byHand is two network namespaces that are connected as containers are, without an engine.
func byHand(program string) (s station, err error) {
	names := []string{"hand", "hand-client", "hand-server"}
	var server *exec.Cmd
	s = station{name: "by hand", close: func() {
		if server != nil && server.Process != nil {
			_ = server.Process.Kill()
			_ = server.Wait()
		}
		for _, n := range names {
			attempt([]string{"ip", "netns", "del", n})
		}
	}}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	for _, n := range names {
		if err := do([]string{"ip", "netns", "add", n}); err != nil {
			return s, err
		}
	}
	if err := do(in("hand", "ip", "link", "add", "bridge", "type", "bridge"), in("hand", "ip", "link", "set", "bridge", "up")); err != nil {
		return s, err
	}
	for i, at := range []string{handClient, handServer} {
		n := names[i+1]
		if err := do(
			[]string{"ip", "link", "add", n, "netns", "hand", "type", "veth", "peer", "name", "eth0", "netns", n},
			in("hand", "ip", "link", "set", n, "master", "bridge", "up"), in(n, "ip", "link", "set", "eth0", "up"), in(n, "ip", "addr", "add", at+"/24", "dev", "eth0"),
		); err != nil {
			return s, err
		}
	}
	argv := in("hand-server", program, "serve", ":"+port)
	server = exec.Command(argv[0], argv[1:]...)
	s.command = func(r trafficRow) []string {
		if r.fromOther || r.measure == "names" {
			return nil
		}
		return in("hand-client", program, r.measure, handServer+":"+port)
	}
	return s, server.Start()
}

// measureTree is a root file system with this program in it.
func (b *bench) measureTree() (string, error) {
	root := b.dir + "/measure"
	for _, d := range []string{"proc", "sys", "dev", "tmp", "etc"} {
		if err := os.MkdirAll(root+"/"+d, 0o755); err != nil {
			return "", err
		}
	}
	data, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return "", err
	}
	return root, os.WriteFile(root+measureAt, data, 0o755)
}

func (b *bench) berthIn(w world) (peer, func(), error) {
	at := b.dir + "/traffic"
	p := peer{name: "berth", argv: in(w.host, b.berth, "--data-root", at+"/d", "--run-root", at+"/r")}
	return p, func() { attempt(p.call("system", "reset", "-f")) }, nil
}

func (b *bench) podmanIn(w world) (peer, func(), error) {
	if b.podman == nil {
		return peer{}, nil, errLeftOut
	}
	p := peer{name: "podman", argv: in(w.host, append(b.podmanAt("pt"), "--network-config-dir", b.dir+"/pt/nets")...), prefix: "localhost/"}
	return p, func() {}, nil
}

func (b *bench) dockerIn(w world) (peer, func(), error) {
	return b.docker(in(w.host), "--bip", "10.79.0.1/24")
}
