package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"berth/internal/network/uplink"
	"berth/test/netns"

	"golang.org/x/sys/unix"
)

// newRun makes a run root of nobody's.
func newRun(t testing.TB) string {
	t.Helper()
	netns.Need(t)
	dir, err := os.MkdirTemp("/dev/shm", "berth-uplink-")
	if err == nil {
		err = os.Chown(dir, nobody, nobody)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		eventually(t, "the uplink has ended", func() bool { return processOf(dir) == 0 })
		words, _ := os.ReadFile(filepath.Join(dir, "uplink.log"))
		if len(words) > 0 {
			t.Errorf("the uplink's words: %s", words)
		}
		_ = os.RemoveAll(dir)
	})
	return dir
}

// processOf is the number of the uplink with that run root, or 0.
func processOf(run string) int {
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range all {
		b, _ := os.ReadFile(path)
		if words := bytes.Split(b, []byte{0}); string(words[0]) == uplink.Program && bytes.Contains(b, []byte(strconv.Quote(run))) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			return pid
		}
	}
	return 0
}

func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Errorf("it never came that %s", what)
			return
		}
	}
}

// ask is dial from a network namespace of the host's side; nil is the host's.
func ask(t testing.TB, ns *os.File, address string) (answer string, err error) {
	netns.In(t, ns, func() error {
		answer, err = dial(address)
		return nil
	})
	return answer, err
}

const linger = "200ms"

// A user without privileges reaches other hosts, and others reach what he publishes, with their own addresses.
func TestAUsersUplink(t *testing.T) {
	run := newRun(t)
	other := netns.Wire(t)
	var server net.Listener
	netns.In(t, other, func() (err error) {
		server, err = net.Listen("tcp", ":0")
		return err
	})
	defer server.Close()
	go serve(server)
	_, port, _ := net.SplitHostPort(server.Addr().String())

	u := newUser(t, run)
	u.do("ensure %s", linger)
	if status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", processOf(run))); !bytes.Contains(status, []byte("NoNewPrivs:\t1\n")) {
		t.Errorf("the uplink may gain privileges: %v", err)
	}
	for _, c := range []struct{ to, as string }{{netns.OtherIP, netns.HostIP}, {netns.OtherIP6, netns.HostIP6}} {
		if got := u.do("dial %s", net.JoinHostPort(c.to, port)); got != c.as {
			t.Errorf("%s is asked by %q", c.to, got)
		}
	}
	at := u.do("forward")
	for _, c := range []struct {
		from     *os.File
		to, seen string
	}{{other, netns.HostIP, netns.OtherIP}, {nil, "127.0.0.1", "10.0.2.2"}} {
		if got, err := ask(t, c.from, net.JoinHostPort(c.to, at)); got != c.seen {
			t.Errorf("%s leads to who sees %q: %v", c.to, got, err)
		}
	}
	if s := u.status(); s.Forwards != 1 || s.Clients != 1 || s.Sent == 0 || s.Received == 0 {
		t.Errorf("%+v", s)
	}
	u.do("close")
	eventually(t, "the uplink has ended", func() bool { return processOf(run) == 0 })
	if _, err := os.Stat(filepath.Join(run, "uplink.sock")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
}

// What a client forwards ends with it, however it ends, and what others forward does not.
func TestForwardsEndWithTheirClient(t *testing.T) {
	run := newRun(t)
	netns.Wire(t)
	one, two := newUser(t, run), newUser(t, run)
	one.do("ensure %s", linger)
	two.do("ensure %s", linger)
	first, second := one.do("forward"), two.do("forward")
	replaced := first
	first = one.do("forward")
	refused := func(port string) func() bool {
		return func() bool {
			_, err := ask(t, nil, "127.0.0.1:"+port)
			return errors.Is(err, unix.ECONNREFUSED)
		}
	}
	eventually(t, "a forward that was replaced refuses", refused(replaced))
	if got, err := ask(t, nil, "127.0.0.1:"+first); err != nil {
		t.Errorf("%q, %v", got, err)
	}
	two.kill()
	eventually(t, "a killed client's forward refuses", refused(second))
	if got, err := ask(t, nil, "127.0.0.1:"+first); err != nil {
		t.Errorf("another client's answers %q, %v", got, err)
	}
}

// The uplink's clients see that it was killed, and have another.
func TestAKilledUplink(t *testing.T) {
	run := newRun(t)
	netns.Wire(t)
	for _, how := range []syscall.Signal{unix.SIGKILL, unix.SIGTERM} {
		u := newUser(t, run)
		u.do("ensure %s", linger)
		u.do("forward")
		pid := processOf(run)
		if err := unix.Kill(pid, how); err != nil {
			t.Fatal(err)
		}
		u.do("ended")
		eventually(t, "it has gone", func() bool { return processOf(run) != pid })
		u.do("ensure %s", linger)
		at := u.do("forward")
		if got, err := ask(t, nil, "127.0.0.1:"+at); got != "10.0.2.2" {
			t.Errorf("after %v: %q, %v", how, got, err)
		}
		u.do("close")
		eventually(t, "the uplink has ended", func() bool { return processOf(run) == 0 })
	}
}

// Those who come while the uplink goes always have one.
func TestComingAndGoing(t *testing.T) {
	run := newRun(t)
	netns.Wire(t)
	done := make(chan error)
	const users, rounds = 3, 40
	for range users {
		u := newUser(t, run)
		go func() {
			for range rounds {
				for _, command := range []string{"ensure 1ms", "status", "close"} {
					if _, err := fmt.Fprintln(u.in, command); err != nil {
						done <- err
						return
					}
					if !u.out.Scan() || strings.HasPrefix(u.out.Text(), "error") {
						done <- fmt.Errorf("%s: %s", command, u.out.Text())
						return
					}
				}
			}
			done <- nil
		}()
	}
	for range users {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// The uplink stays small whatever it has carried.
func TestMemory(t *testing.T) {
	run := newRun(t)
	other := netns.Wire(t)
	var server net.Listener
	netns.In(t, other, func() (err error) {
		server, err = net.Listen("tcp", netns.OtherIP+":0")
		return err
	})
	defer server.Close()
	go func() {
		for {
			c, err := server.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				b := make([]byte, 256<<10)
				for err := error(nil); err == nil; {
					_, err = c.Write(b)
				}
			}()
		}
	}()
	u := newUser(t, run)
	u.do("ensure %s", linger)
	for range 4 {
		u.do("pull %s %d", server.Addr(), 256<<20)
	}
	const most = 15 << 10
	if kB := privateDirty(t, processOf(run)); kB > most {
		t.Errorf("after a GiB the uplink has %d KiB for itself", kB)
	} else {
		t.Logf("after a GiB the uplink has %d KiB for itself", kB)
	}
}

// privateDirty is how many KiB of memory a process has for itself.
func privateDirty(t testing.TB, pid int) int {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for in := bufio.NewScanner(f); in.Scan(); {
		var kB int
		if _, err := fmt.Sscanf(in.Text(), "Private_Dirty: %d kB", &kB); err == nil {
			return kB
		}
	}
	t.Fatal("the kernel does not say")
	return 0
}
