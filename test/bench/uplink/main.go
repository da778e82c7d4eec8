// Command uplink measures berth's uplink beside slirp4netns and pasta, in alternation in one run, between network namespaces of its own:
// what iperf3 carries out of a guest and into it by a published port, connections, and questions and answers. It prints medians and
// ratios, judges nothing, and is no test: `make bench-uplink` on a quiet machine, as root, with iperf3 and the peers installed; what is
// not installed is left out, and said.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"berth/test/netns"

	"golang.org/x/sys/unix"
)

var (
	rounds  = flag.Int("n", 5, "rounds")
	seconds = flag.Int("seconds", 3, "how long each measurement takes")
	program = flag.String("program", "bin/berth-uplink", "the uplink to measure")
	only    = flag.String("only", "", "measure only peers of these names, with commas between")
	what    = flag.String("what", "", "take only the measures whose names contain this")
	mtuList = flag.String("mtu", "1500,65520", "the MTUs to measure, with commas between")
)

func main() {
	flag.Parse()
	if err := run(flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "bench-uplink:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) > 0 {
		return inside(args)
	}
	if os.Geteuid() != 0 {
		return errors.New("run it as root: it makes network namespaces")
	}
	if err := netns.Isolate(); err != nil {
		return err
	}
	if err := makeHost(); err != nil {
		return err
	}
	server, err := startServers()
	if err != nil {
		return err
	}
	defer server.end()
	for _, text := range strings.Split(*mtuList, ",") {
		mtu, err := strconv.Atoi(text)
		if err != nil {
			return err
		}
		if err := compare(mtu); err != nil {
			return err
		}
	}
	return nil
}

// A measure is one number of one peer.
type measure struct {
	name, unit string
	take       func(*peer) (float64, error)
}

var measures = []measure{
	{"guest to host", "Gbit/s", func(p *peer) (float64, error) { return iperf(p.inGuest("iperf3", "-c", gateway, "-p", iperfPort).Args) }},
	{"host to guest, published", "Gbit/s", func(p *peer) (float64, error) {
		return iperf([]string{"iperf3", "-c", p.published, "-p", publishedPort})
	}},
	{"connections out, one after another", "1/s", func(p *peer) (float64, error) { return p.guestCounts("connect", gateway+":"+echoPort, "1") }},
	{"connections out, eight at once", "1/s", func(p *peer) (float64, error) { return p.guestCounts("connect", gateway+":"+echoPort, "8") }},
	{"connections in, eight at once", "1/s", func(p *peer) (float64, error) {
		return counts(exec.Command("/proc/self/exe", "-seconds", fmt.Sprint(*seconds), "connect", p.published+":"+publishedEchoPort, "8"))
	}},
	{"questions on one connection", "1/s", func(p *peer) (float64, error) { return p.guestCounts("ask", gateway+":"+echoPort, "1") }},
}

// compare takes every measure of every peer in turn.
func compare(mtu int) error {
	all, err := startPeers(mtu)
	defer func() {
		for _, p := range all {
			p.end()
		}
	}()
	if err != nil {
		return err
	}
	for _, m := range measures {
		if !strings.Contains(m.name, *what) {
			continue
		}
		fmt.Printf("%s, MTU %d (%d rounds)\n", m.name, mtu, *rounds)
		values := make([][]float64, len(all))
		for range *rounds {
			for i, p := range all {
				v, err := m.take(p)
				if err != nil {
					fmt.Printf("  %-14s fails: %v\n", p.name, err)
					continue
				}
				values[i] = append(values[i], v)
			}
		}
		report(all, values, m.unit)
	}
	return nil
}

func report(all []*peer, values [][]float64, unit string) {
	var first float64
	for i, p := range all {
		if len(values[i]) == 0 {
			continue
		}
		slices.Sort(values[i])
		median := values[i][len(values[i])/2]
		if first == 0 {
			first = median
		}
		fmt.Printf("  %-14s median %10.2f %s   best %10.2f   %s/this %.2f\n", p.name, median, unit, values[i][len(values[i])-1], all[0].name, first/median)
	}
}

// iperf runs a client and returns what it has carried, in Gbit/s. The server may not have ended the test before yet.
func iperf(argv []string) (float64, error) {
	argv = append(argv, "-J", "-t", fmt.Sprint(*seconds))
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		value, err := iperfOnce(exec.Command(argv[0], argv[1:]...))
		if err == nil || !strings.Contains(err.Error(), "busy") || time.Now().After(end) {
			return value, err
		}
	}
}

func iperfOnce(cmd *exec.Cmd) (float64, error) {
	out, err := cmd.Output()
	var result struct {
		Error string
		End   struct {
			Received struct {
				BitsPerSecond float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		}
	}
	if e := json.Unmarshal(out, &result); e != nil {
		return 0, errors.Join(err, e)
	}
	if result.Error != "" {
		return 0, errors.New(result.Error)
	}
	return result.End.Received.BitsPerSecond / 1e9, err
}

// counts runs this program to count something, and returns how many there were in a second.
func counts(cmd *exec.Cmd) (float64, error) {
	out, err := cmd.Output()
	if err != nil {
		return 0, err
	}
	return strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
}

// inside is what this program does in a guest, and as a client on the host.
func inside(args []string) error {
	switch {
	case args[0] == "guest":
		return unix.Pause()
	case args[0] == "serve" && len(args) == 2:
		l, err := net.Listen("tcp", args[1])
		if err != nil {
			return err
		}
		serve(l)
		return nil
	case args[0] == "connect" && len(args) == 3:
		return count(args[1], args[2], connect)
	case args[0] == "ask" && len(args) == 3:
		return count(args[1], args[2], ask)
	}
	return fmt.Errorf("what is %q?", args)
}

// serve sends back what it gets.
func serve(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			var b [64]byte
			for {
				n, err := c.Read(b[:])
				if err != nil {
					return
				}
				if _, err := c.Write(b[:n]); err != nil {
					return
				}
			}
		}()
	}
}

// count does something again and again with so many workers, and prints how often in a second.
func count(address, workers string, do func(address string, until time.Time) (int, error)) error {
	n, err := strconv.Atoi(workers)
	if err != nil {
		return err
	}
	until := time.Now().Add(time.Duration(*seconds) * time.Second)
	type result struct {
		n   int
		err error
	}
	results := make(chan result)
	for range n {
		go func() {
			n, err := do(address, until)
			results <- result{n, err}
		}()
	}
	total := 0
	for range n {
		r := <-results
		total += r.n
		err = errors.Join(err, r.err)
	}
	fmt.Println(float64(total) / float64(max(*seconds, 1)))
	return err
}

// connect makes connections, each for one question.
func connect(address string, until time.Time) (n int, err error) {
	for time.Now().Before(until) {
		c, err := net.Dial("tcp", address)
		if err != nil {
			return n, err
		}
		err = question(c)
		if err = errors.Join(err, c.Close()); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// ask asks questions on one connection.
func ask(address string, until time.Time) (n int, err error) {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	for time.Now().Before(until) {
		if err := question(c); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

func question(c net.Conn) error {
	var b [1]byte
	if _, err := c.Write(b[:]); err != nil {
		return err
	}
	_, err := c.Read(b[:])
	return err
}
