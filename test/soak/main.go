// Command soak starts containers with published ports, and connects others to a network and takes them off it, thousands of times and
// many at once, and then looks for what is left of them on the host: leases, records, interfaces, elements of nftables, processes,
// control groups, files. Nothing is swept meanwhile or afterwards: what a sweep would find is a leak.
//
// Before that it starts a thousand containers that stay, times the commands that look at them, and has 64 clients run, exec, stop and rm
// others beside them for some minutes.
//
// The rest it does as root, and a tenth of it as a user without root: one with subordinate ids, if this host has such a user, else one who has
// one id. It needs root. BERTH_SHORT=1 does it a few dozen times instead of 2,000. What a kill leaves is not its business (test/crash).
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"berth/test/ordinary"
	"berth/test/ownnet"
)

func main() {
	program := flag.String("berth", "bin/berth", "the program to test")
	times := flag.Int("times", 0, "how often as root; 0: 2000, or 48 with BERTH_SHORT set; less than 0: not at all")
	userTimes := flag.Int("user-times", 0, "how often as a user without root; 0: 200, or 24 with BERTH_SHORT set; less than 0: not at all")
	jobs := flag.Int("jobs", 16, "how many at once; half of them without root")
	var c crowd
	flag.IntVar(&c.containers, "many", 0, "how many containers there are at once; 0: 1000, or 30 with BERTH_SHORT set; less than 0: this part is left out")
	flag.IntVar(&c.clients, "clients", 64, "how many clients run, exec, stop and rm containers beside them")
	flag.DurationVar(&c.during, "for", 0, "for how long; 0: five minutes, or five seconds with BERTH_SHORT set")
	flag.Parse()
	if c.during == 0 {
		c.during = 5 * time.Minute
		if os.Getenv("BERTH_SHORT") != "" {
			c.during = 5 * time.Second
		}
	}
	for _, n := range []struct {
		times       *int
		long, short int
	}{{times, 2000, 48}, {userTimes, 200, 24}, {&c.containers, 1000, 30}} {
		if *n.times == 0 {
			*n.times = n.long
			if os.Getenv("BERTH_SHORT") != "" {
				*n.times = n.short
			}
		}
	}
	if err := run(*program, *times, *userTimes, *jobs, c); err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

func run(program string, times, userTimes, jobs int, c crowd) error {
	if os.Geteuid() != 0 {
		return errors.New("cannot test: root is needed for networks")
	}
	if err := ownnet.Enter(); err != nil {
		return err
	}
	var err error
	if c.containers >= 0 {
		err = soakCrowd(program, c)
	}
	if times > 0 {
		err = errors.Join(err, soak(program, nil, times, jobs))
	}
	if userTimes < 0 {
		return err
	}
	restore, tun := ordinary.OpenTUN()
	if os.IsNotExist(tun) {
		fmt.Println("without root: skipped:", tun)
		return err
	}
	if tun != nil {
		return errors.Join(err, tun)
	}
	user := ordinary.Find()
	fmt.Println("without root:", user)
	return errors.Join(err, soak(program, &user, userTimes, max(1, jobs/2)), restore())
}

// soak is the work with an instance that is root's, or a user's.
func soak(program string, user *ordinary.User, times, jobs int) error {
	in, err := newInstance(program, user)
	if err != nil {
		return err
	}
	defer in.remove()
	if err := in.begin(jobs); err != nil {
		return err
	}
	w := &work{in: in, times: int64(times)}
	began := time.Now()
	var wg sync.WaitGroup
	for job := range jobs {
		wg.Go(func() { w.job(job) })
	}
	wg.Wait()
	took := time.Since(began)
	fmt.Printf("%d times run -p and connect, disconnect, %d at once, in %v: %.0f commands a second, %d failed\n",
		times, jobs, took.Round(time.Second), float64(3*times)/took.Seconds(), w.failed.Load())
	for _, kind := range kinds {
		fmt.Println(w.took[kind].text(kind))
	}
	if err := in.intact(jobs); err != nil {
		return err
	}
	if err := in.end(jobs); err != nil {
		return err
	}
	left := in.left()
	for _, what := range left {
		fmt.Println(what, "is left")
	}
	if n := w.failed.Load(); n > 0 || len(left) > 0 {
		return fmt.Errorf("%d commands failed, %d things are left", n, len(left))
	}
	fmt.Println("nothing is left: no lease, record, interface, element, process, control group or file")
	return nil
}

// The kinds of commands.
const (
	runs        = "run --rm -p"
	connects    = "network connect"
	disconnects = "network disconnect"
)

var kinds = []string{runs, connects, disconnects}

// work is what the jobs share.
type work struct {
	in     *instance
	times  int64
	taken  atomic.Int64
	failed atomic.Int64

	mu   sync.Mutex // guards what follows
	took map[string]*durations
}

// durations are how long commands of a kind took.
type durations []time.Duration

func (d *durations) text(kind string) string {
	if d == nil {
		return ""
	}
	slices.Sort(*d)
	at := func(part float64) time.Duration {
		return (*d)[int(part*float64(len(*d)-1))].Round(100 * time.Microsecond)
	}
	return fmt.Sprintf("%-20s half within %v, 99 of 100 within %v, the longest %v", kind, at(0.5), at(0.99), at(1))
}

// job carries out its share of the work, with a port and a container that are its own.
func (w *work) job(n int) {
	port, name := fmt.Sprintf("127.0.0.1:%d:80", 9000+n), busy(n)
	for n := w.taken.Add(1); n <= w.times; n = w.taken.Add(1) {
		w.do(runs, "run", "--rm", "--cidfile", w.in.cidfile(n), "-p", port, "-p", port+"/udp", "box", "true")
		w.do(connects, "network", "connect", "--alias", "also", shop, name)
		w.do(disconnects, "network", "disconnect", shop, name)
	}
}

// jobsAtOnce is more than how many commands and monitors there are at once.
const jobsAtOnce = 64

// enough failures say what there is to say.
const enough = 20

func (w *work) do(kind string, args ...string) {
	began := time.Now()
	_, err := w.in.berth(args...)
	took := time.Since(began)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.took == nil {
		w.took = map[string]*durations{}
	}
	if w.took[kind] == nil {
		w.took[kind] = new(durations)
	}
	*w.took[kind] = append(*w.took[kind], took)
	if err != nil && w.failed.Add(1) <= enough {
		fmt.Println(err)
	}
}

// shop is the network that the containers are connected to.
const shop = "shop"

func busy(job int) string { return fmt.Sprintf("busy%d", job) }

// begin makes the network and the containers that are connected to it, and everything that stays.
func (in *instance) begin(jobs int) error {
	if _, err := in.berth("network", "create", "--subnet", "10.81.0.0/24", shop); err != nil {
		return err
	}
	for job := range jobs {
		if _, err := in.berth("run", "-d", "--name", busy(job), "--cidfile", in.cidfile(-int64(job)), "box", "sleep", "1000000"); err != nil {
			return err
		}
	}
	for _, on := range []string{shop, "bridge"} {
		if _, err := in.berth("run", "--rm", "--network", on, "box", "true"); err != nil {
			return err
		}
	}
	return nil
}

// end removes what begin has made.
func (in *instance) end(jobs int) error {
	args := []string{"rm", "-f"}
	for job := range jobs {
		args = append(args, busy(job))
	}
	_, err := in.berth(args...)
	if _, rm := in.berth("network", "rm", shop); rm != nil {
		err = errors.Join(err, rm)
	}
	return err
}

// intact checks that there are the rules that there should be, and no more, and of the containers that are still there nothing twice.
func (in *instance) intact(jobs int) error {
	ok, err := in.networks().Intact()
	if err == nil && !ok {
		err = errors.New("the rules are not those that berth makes")
	}
	if err != nil {
		return err
	}
	var held []string
	for end := time.Now().Add(3 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if held, err = ownnet.Held(in.networks()); err != nil || len(held) == 3*jobs { // a lease, a record and an interface
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("%d containers hold %d things, and not %d: %s", jobs, len(held), 3*jobs, strings.Join(held, ", "))
		}
	}
}

// left is what there is of the instance now that it should have nothing. What is told to end may need a moment for it.
func (in *instance) left() (left []string) {
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if left = in.look(); len(left) == 0 || time.Now().After(end) {
			return left
		}
	}
}

func (in *instance) look() []string {
	held := ownnet.Held
	if in.user != nil { // his network namespace has ended
		held = ownnet.Records
	}
	left, err := held(in.networks())
	if err != nil {
		left = append(left, err.Error())
	}
	left = append(left, in.processes()...)
	for _, dir := range []string{"data/containers", "data/names", "run/containers", "run/rootless/members"} {
		entries, _ := os.ReadDir(filepath.Join(in.dir, dir))
		if dir == "run/rootless/members" && len(entries) <= jobsAtOnce {
			continue // of those who were there last; the next command removes them
		}
		for _, e := range entries {
			left = append(left, dir+"/"+e.Name())
		}
	}
	return append(left, in.groups()...)
}
