package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// The controller and the agent on the other machine speak over the agent's standard input and output, a line of JSON each.
// The agent begins with its boot's id. Requests are answered in any order; one that is answered was done before the cut.
//
//	controller -> agent   {"N":1,"Do":"berth","Args":[...]}   also write, layers, blobs, leftovers, forget, sync; cut is not answered
//	agent -> controller   {"Boot":"..."} once, then {"N":1,"Out":"...","Err":"..."}
type request struct {
	N    int
	Do   string
	Args []string `json:",omitempty"`
	Data []byte   `json:",omitempty"`
}

type answer struct {
	Boot   string            `json:",omitempty"`
	N      int               `json:",omitempty"`
	Out    string            `json:",omitempty"`
	Layers map[string]string `json:",omitempty"`
	Broken []string          `json:",omitempty"`
	Err    string            `json:",omitempty"`
}

// home is the agent's directory, on the disk that survives a cut; its run root does not.
const home, runtimeDir = "/var/lib/berth-powercut", "/run/berth-powercut"

// agent carries out requests until its input ends, or the machine.
func agent(in io.Reader, out io.Writer) error {
	for _, dir := range []string{home, runtimeDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	program, err := os.ReadFile(filepath.Join(filepath.Dir(os.Args[0]), "berth"))
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(runtimeDir, "berth"), program, 0o755); err != nil {
		return err
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return err
	}
	if err := serveImages(); err != nil {
		return err
	}
	var mu sync.Mutex
	encode := json.NewEncoder(out)
	send := func(a answer) {
		mu.Lock()
		defer mu.Unlock()
		_ = encode.Encode(a) // without a reader there is nobody to tell
	}
	send(answer{Boot: strings.TrimSpace(string(boot))})
	decode := json.NewDecoder(in)
	for {
		var r request
		if err := decode.Decode(&r); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		go func() {
			a := carryOut(r)
			a.N = r.N
			send(a)
		}()
	}
}

func carryOut(r request) (a answer) {
	var err error
	switch r.Do {
	case "berth":
		a.Out, err = berthIn(runtimeDir, r.Args...)
	case "write":
		err = os.WriteFile(r.Args[0], r.Data, 0o644)
	case "layers":
		a.Layers, err = layers(r.Args[0])
	case "blobs":
		a.Broken, err = brokenBlobs(r.Args[0])
	case "leftovers":
		a.Broken, err = leftovers(r.Args[0])
	case "forget":
		err = os.RemoveAll(r.Args[0])
	case "sync":
		err = exec.Command("sync").Run()
	case "cut": // at once: nothing is written any more, no process is told (Documentation/admin-guide/sysrq.rst)
		err = os.WriteFile("/proc/sysrq-trigger", []byte("b"), 0)
	default:
		err = fmt.Errorf("unknown request %q", r.Do)
	}
	if err != nil {
		a.Err = err.Error()
	}
	return a
}

// remote is a machine that an agent can be started on, again after each boot.
type remote struct {
	start  []string // the command that starts the agent
	bootID string

	agent *exec.Cmd
	in    io.WriteCloser
	gone  chan struct{} // closed when the agent's output has ended

	mu      sync.Mutex
	n       int
	waiting map[int]chan answer
}

// bootTime is more than an emulated machine takes to boot.
const bootTime = 5 * time.Minute

// connect starts the agent, which cannot be before the machine has booted.
func (r *remote) connect() error {
	for end := time.Now().Add(bootTime); ; time.Sleep(time.Second) {
		err := r.try()
		if err == nil {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("the machine does not come back: %w", err)
		}
	}
}

func (r *remote) try() error {
	cmd := exec.Command(r.start[0], r.start[1:]...)
	var errs strings.Builder
	cmd.Stderr = &errs
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	late := time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Kill() })
	defer late.Stop()
	decode := json.NewDecoder(bufio.NewReader(out))
	var hello answer
	if err = decode.Decode(&hello); err == nil && hello.Boot == r.bootID {
		err = errors.New("it has not booted again")
	}
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(errs.String()))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bootID, r.agent, r.in, r.waiting, r.gone = hello.Boot, cmd, in, map[int]chan answer{}, make(chan struct{})
	go r.receive(decode, r.gone)
	return nil
}

func (r *remote) receive(decode *json.Decoder, gone chan struct{}) {
	defer close(gone)
	for {
		var a answer
		if decode.Decode(&a) != nil {
			return
		}
		r.mu.Lock()
		c := r.waiting[a.N]
		delete(r.waiting, a.N)
		r.mu.Unlock()
		if c != nil {
			c <- a
		}
	}
}

func (r *remote) ask(q request) (answer, error) {
	r.mu.Lock()
	r.n++
	q.N = r.n
	c := make(chan answer, 1)
	r.waiting[q.N] = c
	gone := r.gone
	line, err := json.Marshal(q)
	if err == nil {
		_, err = r.in.Write(append(line, '\n'))
	}
	r.mu.Unlock()
	if err != nil {
		return answer{}, errGone
	}
	select {
	case a := <-c:
		if a.Err != "" {
			return a, errors.New(a.Err)
		}
		return a, nil
	case <-gone:
		return answer{}, errGone
	}
}

func (r *remote) dir() string { return home }

func (r *remote) archives() string { return home } // which runRemote has synced

func (r *remote) berth(args ...string) (string, error) {
	a, err := r.ask(request{Do: "berth", Args: args})
	return a.Out, err
}

func (r *remote) write(path string, data []byte) error {
	_, err := r.ask(request{Do: "write", Args: []string{path}, Data: data})
	return err
}

func (r *remote) layers(root string) (map[string]string, error) {
	a, err := r.ask(request{Do: "layers", Args: []string{root}})
	return a.Layers, err
}

func (r *remote) brokenBlobs(root string) ([]string, error) {
	a, err := r.ask(request{Do: "blobs", Args: []string{root}})
	return a.Broken, err
}

func (r *remote) leftovers(root string) ([]string, error) {
	a, err := r.ask(request{Do: "leftovers", Args: []string{root}})
	return a.Broken, err
}

func (r *remote) drivers() []string { return []string{"overlay", "vfs"} }

func (r *remote) forget(root string) error {
	_, err := r.ask(request{Do: "forget", Args: []string{root}})
	return err
}

func (r *remote) sync() error {
	_, err := r.ask(request{Do: "sync"})
	return err
}

// cut does not wait for the connection to break, which nobody tells of. What has not been answered within a second never
// will be.
func (r *remote) cut(func()) error {
	r.mu.Lock()
	line, err := json.Marshal(request{Do: "cut"})
	if err == nil {
		_, err = r.in.Write(append(line, '\n'))
	}
	r.mu.Unlock()
	if err != nil {
		return err
	}
	select {
	case <-r.gone:
	case <-time.After(time.Second):
	}
	_ = r.agent.Process.Kill()
	<-r.gone
	_ = r.agent.Wait()
	return nil
}

func (r *remote) boot(over <-chan struct{}) error {
	<-over
	return r.connect()
}

func (r *remote) rest() {}
