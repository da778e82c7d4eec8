package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"berth/internal/network/netlink"
	"berth/internal/network/uplink"
	"berth/test/netns"

	"golang.org/x/sys/unix"
)

// patience is how long an answer may take on a loaded machine.
const patience = 20 * time.Second

// A user is a process without privileges on the host: root of a user namespace of its own, and of a network namespace inside of it,
// where a server at port 80 says who asks and sends back what it gets. It obeys commands on its standard input, a line each, with a
// line each:
//
//	ensure LINGER      connects to the uplink, or starts one
//	forward            publishes the server on a port of the host's, and says which
//	dial ADDRESS       connects from inside, and says what is answered
//	pull ADDRESS N     connects from inside, and reads N bytes
//	status             the uplink's
//	ended              waits for the end of the connection
//	close              ends the connection
type user struct {
	t   testing.TB
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

// The variables that say that the process is a user, where its run root is and where the program is.
const (
	userRun     = "BERTH_TEST_USER_RUN"
	userProgram = "BERTH_TEST_USER_PROGRAM"
)

// nobody is the user's number on the host.
const nobody = 65534

func newUser(t testing.TB, run string) *user {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), userRun+"="+run, userProgram+"="+program)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: nobody, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: nobody, Size: 1}},
		Credential:  &syscall.Credential{Uid: 0, Gid: 0},
	}
	u := &user{t: t, cmd: cmd}
	var err error
	if u.in, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	u.out = bufio.NewScanner(out)
	if err := cmd.Start(); err != nil {
		t.Skipf("there are no user namespaces: %v", err)
	}
	t.Cleanup(u.kill)
	return u
}

func (u *user) kill() {
	_ = u.cmd.Process.Kill()
	_ = u.cmd.Wait()
}

// do gives a command and returns the answer; one that begins with "error" fails the test.
func (u *user) do(format string, args ...any) string {
	u.t.Helper()
	answer := u.try(format, args...)
	if strings.HasPrefix(answer, "error") {
		u.t.Fatalf("%s: %s", fmt.Sprintf(format, args...), answer)
	}
	return answer
}

func (u *user) try(format string, args ...any) string {
	u.t.Helper()
	if _, err := fmt.Fprintf(u.in, format+"\n", args...); err != nil {
		u.t.Fatal(err)
	}
	if !u.out.Scan() {
		u.t.Fatalf("%s: the user has died", fmt.Sprintf(format, args...))
	}
	return u.out.Text()
}

func (u *user) status() (s uplink.Status) {
	u.t.Helper()
	if err := json.Unmarshal([]byte(u.do("status")), &s); err != nil {
		u.t.Fatal(err)
	}
	return s
}

// userMain is the user's process.
func userMain() error {
	runtime.LockOSThread() // this thread is inside from here on, the others stay on the host
	outside := make(chan func())
	go func() {
		for f := range outside {
			f()
		}
	}()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	server, err := net.Listen("tcp", ":80")
	if err != nil {
		return err
	}
	go serve(server)
	m := &member{outside: outside}
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		answer, err := m.obey(strings.Fields(in.Text()))
		if err != nil {
			answer = "error: " + err.Error()
		}
		fmt.Println(answer)
	}
	return in.Err()
}

func serve(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			_, _ = fmt.Fprintln(c, c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap())
			_, _ = io.Copy(c, c)
		}()
	}
}

// member is what a user has.
type member struct {
	outside chan<- func()
	client  *uplink.Client
}

func (m *member) obey(words []string) (string, error) {
	switch words[0] {
	case "ensure":
		return "ok", m.ensure(words[1])
	case "forward":
		return m.forward()
	case "dial":
		return dial(words[1])
	case "pull":
		return pull(words[1], words[2])
	case "status":
		s, err := m.client.Status()
		if err != nil {
			return "", err
		}
		b, err := json.Marshal(s)
		return string(b), err
	case "ended":
		select {
		case <-m.client.Ended():
			return "ok", nil
		case <-time.After(patience):
			return "", os.ErrDeadlineExceeded
		}
	case "close":
		return "ok", m.client.Close()
	}
	return "", fmt.Errorf("what is %q?", words[0])
}

// ensure calls Ensure on a thread on the host, whose Device makes the device on this one, inside.
func (m *member) ensure(linger string) error {
	d, err := time.ParseDuration(linger)
	if err != nil {
		return err
	}
	c := uplink.Config{
		Run: os.Getenv(userRun), MTU: 65520, Linger: d,
		IPv4: uplink.Addresses{Guest: netip.MustParsePrefix("10.0.2.100/24"), Gateway: netip.MustParseAddr("10.0.2.2")},
		IPv6: uplink.Addresses{Guest: netip.MustParsePrefix("fd00:2::100/64"), Gateway: netip.MustParseAddr("fd00:2::2")},
	}
	wanted, done := make(chan struct{}), make(chan error)
	var device *os.File
	var failure error
	m.outside <- func() {
		client, err := uplink.Ensure(uplink.Starter{Program: os.Getenv(userProgram), Config: c, Device: func() (*os.File, error) {
			wanted <- struct{}{}
			<-wanted
			return device, failure
		}})
		m.client = client
		done <- err
	}
	for {
		select {
		case <-wanted:
			device, failure = makeDevice(c)
			wanted <- struct{}{}
		case err := <-done:
			return err
		}
	}
}

func makeDevice(c uplink.Config) (*os.File, error) {
	// A name of its own: that of an uplink which has just ended may not be free yet.
	name := "up" + strconv.FormatInt(time.Now().UnixNano()%1e9, 36)
	f, err := uplink.MakeTUN(name)
	if err != nil {
		return nil, err
	}
	n, err := netlink.Open(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	defer n.Close()
	l, err := n.LinkByName(name)
	if err != nil {
		return nil, err
	}
	return f, n.Do(append(c.Requests(l), netlink.SetUp("lo"))...)
}

// forward publishes port 80.
func (m *member) forward() (string, error) {
	type result struct {
		port string
		err  error
	}
	done := make(chan result)
	m.outside <- func() {
		l, err := net.Listen("tcp", ":0")
		if err != nil {
			done <- result{err: err}
			return
		}
		defer l.Close()
		f, err := l.(*net.TCPListener).File()
		if err == nil {
			defer f.Close()
			err = m.client.Forward([]uplink.Forward{{Protocol: uplink.TCP, Target: netip.MustParseAddrPort("10.0.2.100:80")}}, []*os.File{f}, nil)
		}
		_, port, _ := net.SplitHostPort(l.Addr().String())
		done <- result{port, err}
	}
	r := <-done
	return r.port, r.err
}

func dial(address string) (string, error) {
	c, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	return strings.TrimSpace(line), err
}

func pull(address, count string) (string, error) {
	n, err := strconv.ParseInt(count, 10, 64)
	if err != nil {
		return "", err
	}
	c, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		return "", err
	}
	defer c.Close()
	got, err := io.CopyN(io.Discard, c, n)
	return fmt.Sprint(got), err
}

var program string

func TestMain(m *testing.M) {
	if os.Getenv(userRun) != "" {
		if err := userMain(); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		return
	}
	netns.Main(mainOf{m})
}

// written writes a file back.
func written(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// mainOf builds the program before the tests.
type mainOf struct{ *testing.M }

func (m mainOf) Run() int {
	dir, err := os.MkdirTemp("", "berth-uplink-")
	if err == nil {
		defer os.RemoveAll(dir)
		err = os.Chmod(dir, 0o755)
	}
	if err == nil {
		program = filepath.Join(dir, uplink.Program)
		build := exec.Command("go", "build", "-o", program, ".")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		var out []byte
		if out, err = build.CombinedOutput(); err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
	}
	if err == nil {
		err = written(program) // or its pages would be the process's own dirty ones
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.M.Run()
}
