package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"berth/internal/network/uplink"
	"berth/test/ordinary"
	"berth/test/ownnet"

	"golang.org/x/sys/unix"
)

// without is the user who is not root; nil says that none can be tried here, and why has been said.
func without() (*ordinary.User, func(), error) {
	restore, err := ordinary.OpenTUN()
	if os.IsNotExist(err) {
		fmt.Println("without root: skipped:", err)
		return nil, func() {}, nil
	}
	if err != nil {
		return nil, nil, err
	}
	u := ordinary.Find()
	fmt.Println("without root:", u)
	return &u, func() {
		if err := restore(); err != nil {
			fmt.Println(err)
		}
	}, nil
}

// userScenarios are what a user does whose containers share a user namespace, a network namespace and an uplink. In most of them
// another container, the keeper, lives on: what is left of the target is left beside it then, and does not go with the namespaces.
// Their ports are nobody else's.
func userScenarios(user *ordinary.User) (list []scenario) {
	if user == nil {
		return nil
	}
	keeper := []string{"run", "-d", "--name", keeperName, "box", "sleep", "100000"}
	create := []string{"network", "create", "--subnet", "10.171.0.0/24", "shop"}
	use := []string{"run", "--rm", "--network", "shop", "box", "true"}
	none := []string{"run", "-d", "--name", "target", "--network", "none", "box", "sleep", "1000"}
	bridge := []string{"run", "-d", "--name", "target", "box", "sleep", "1000"}
	connect, disconnect := []string{"network", "connect", "--alias", "www", "shop", "target"}, []string{"network", "disconnect", "shop", "target"}
	port := 8100
	add := func(name string, v victim, prepare [][]string, args []string, check func(*instance, outcome) []string) {
		list = append(list, scenario{"without root: " + name, v, prepare, args, check})
	}
	publish := func() []string {
		return []string{"-d", "--name", "target", "-p", fmt.Sprint(port, ":80"), "-p", fmt.Sprint(port, ":80/udp"), "box", "httpd", "-h", "/etc"}
	}
	served := func(check func(string) func(*instance, outcome) []string) func(*instance, outcome) []string {
		p := fmt.Sprint(port)
		return func(in *instance, o outcome) []string { return append(in.served(p), check(p)(in, o)...) }
	}
	for _, v := range []victim{theCommand, newMonitor, itsFirst} {
		add("run"+v.text(), v, nil, none, afterRun)
		add("run on bridge"+v.text(), v, [][]string{keeper}, bridge, afterRun)
	}
	for _, v := range []victim{theCommand, newMonitor, itsFirst, newUplink, runningUplink} {
		prepare := [][]string{keeper}
		if v == newUplink {
			prepare = nil
		}
		port++
		add("run -p"+v.text(), v, prepare, append([]string{"run"}, publish()...), served(afterPublish))
		port++
		made := append([]string{"create"}, publish()[1:]...)
		add("start -p"+v.text(), v, append(prepare, made), []string{"start", "target"}, served(afterPublish))
	}
	for _, v := range []victim{theCommand, runningServer, runningUplink} {
		port++
		started := append([]string{"run"}, publish()...)
		add("stop -p"+v.text(), v, [][]string{keeper, started}, []string{"stop", "-t", "1", "-s", "KILL", "target"}, served(func(string) func(*instance, outcome) []string { return afterStop }))
		port++
		started = append([]string{"run"}, publish()...)
		add("rm -f of -p"+v.text(), v, [][]string{keeper, started}, []string{"rm", "-f", "target"}, served(freePort))
		add("network connect"+v.text(), v, [][]string{keeper, create, bridge}, connect, afterChange(true))
		add("network disconnect"+v.text(), v, [][]string{keeper, create, bridge, connect}, disconnect, afterChange(false))
	}
	add("network create", theCommand, [][]string{keeper}, create, afterNetworkCreate("10.171.0.0/24"))
	add("network rm", theCommand, [][]string{keeper, create, use}, []string{"network", "rm", "shop"}, afterNetworkRemove("10.171.0.0/24"))
	return list
}

func (v victim) text() string {
	return [...]string{"", " (monitor)", " (monitor)", " (first process)", " (new uplink)", " (uplink)"}[v]
}

const keeperName = "keeper"

// served checks that the target's published port leads to it, if it runs: what was killed has been put right by the commands since.
func (in *instance) served(port string) (wrong []string) {
	status, err := in.status("target")
	if err != nil {
		return []string{err.Error()}
	}
	if status != "running" {
		return nil
	}
	client := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		answer, err := client.Get("http://127.0.0.1:" + port + "/hostname")
		if err == nil {
			_, err = io.Copy(io.Discard, answer.Body)
			_ = answer.Body.Close()
		}
		if err == nil {
			return nil
		}
		if status, _ = in.status("target"); status != "running" {
			return nil
		}
		if time.Now().After(end) {
			return []string{fmt.Sprintf("the published port of the container that runs is not served: %v", err)}
		}
	}
}

// onlyKeeper removes all containers but the keeper, if there is one, and says what is left beside him, and whether all are in one user
// namespace.
func (in *instance) onlyKeeper() (wrong []string) {
	if found := ordinary.UserNamespaces(in.processes()); len(found) > 1 {
		// One that is being left.
		time.Sleep(time.Second)
		if found = ordinary.UserNamespaces(in.processes()); len(found) > 1 {
			wrong = append(wrong, fmt.Sprintf("there are %d user namespaces", len(found)))
		}
	}
	out, err := in.berth("ps", "-a", "--no-trunc", "--format", "{{.ID}} {{.Names}} {{.State}}")
	if err != nil {
		return append(wrong, err.Error())
	}
	kept := ""
	remove := []string{"rm", "-f"}
	for line := range strings.Lines(out) {
		id, name, _ := strings.Cut(strings.TrimSpace(line), " ")
		if name, state, _ := strings.Cut(name, " "); name == keeperName {
			if kept = id; state != "running" {
				wrong = append(wrong, "the keeper is "+state)
			}
			continue
		}
		remove = append(remove, id)
	}
	wrong = append(wrong, in.must(remove, []string{"container", "prune", "-f"}, []string{"network", "prune", "-f"})...)
	if kept == "" {
		return wrong
	}
	wrong = append(wrong, in.asPlanned(keeperName, "eth0")...)
	var held []string
	for end := time.Now().Add(3 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if held, err = in.held(); err == nil && len(held) == 3 { // its lease, record and interface
			return wrong
		}
		if time.Now().After(end) {
			break
		}
	}
	if err != nil {
		wrong = append(wrong, err.Error())
	}
	return append(wrong, fmt.Sprintf("of the keeper alone there should be a lease, a record and an interface, and there is %s", strings.Join(held, ", ")))
}

// held is what the instance holds in its network namespace.
func (in *instance) held() ([]string, error) {
	ns, err := ordinary.Network(in.run(), in.processes())
	if err != nil {
		return nil, err
	}
	if ns == nil {
		return nil, fmt.Errorf("nobody holds the network namespace")
	}
	defer ns.Close()
	s := in.networks()
	s.Home = func() (*os.File, error) { return ns, nil }
	return ownnet.Held(s)
}

// uplink finds the process of the uplink.
func (in *instance) uplink() (int, error) {
	for _, pid := range in.processes() {
		if name(pid) == uplink.Program {
			return pid, nil
		}
	}
	return 0, fmt.Errorf("cannot find the uplink")
}

// uplinkSeen is how many times the uplink is killed for each time that its own end, after two seconds, is waited for.
const uplinkSeen = 10

// endUplink waits for the end of the uplink, since nobody is connected to it any more, or kills it.
func (in *instance) endUplink(wait bool) []string {
	if in.user == nil {
		return nil
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		pids := slices.DeleteFunc(in.processes(), func(pid int) bool { return name(pid) != uplink.Program })
		if len(pids) > 1 {
			return []string{fmt.Sprintf("there are %d uplinks", len(pids))}
		}
		if len(pids) == 0 {
			// An uplink that was killed has left its socket.
			_ = uplink.RemoveSocket(in.run())
			return nil
		}
		if !wait {
			_ = unix.Kill(pids[0], unix.SIGKILL)
		}
		if time.Now().After(end) {
			words, _ := os.ReadFile(in.run() + "/uplink.log")
			return []string{fmt.Sprintf("the uplink does not end: %s", bytes.TrimSpace(words))}
		}
	}
}

// end ends what is left of an instance that is needed no more.
func (in *instance) end() error {
	if in == nil || in.user == nil {
		return nil
	}
	for _, pid := range in.processes() {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	return nil
}
