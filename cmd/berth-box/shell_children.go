package main

import (
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
)

// children are the processes of a shell. One goroutine reaps whatever ends, because as PID 1 the shell is also the parent
// of processes that it did not start; os/exec would wait for its own only.
type children struct {
	mu   sync.Mutex
	live map[int]*child // by PID
	jobs map[string]*job
}

type child struct {
	job    string
	ended  chan struct{}
	status syscall.WaitStatus
}

// job is a command started with "&".
type job struct {
	started bool
	killed  syscall.Signal
}

// start begins to reap.
func (c *children) start() {
	c.live, c.jobs = map[int]*child{}, map[string]*job{}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGCHLD)
	go func() {
		for range ended {
			c.reap()
		}
	}()
}

func (c *children) reap() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		if child := c.live[pid]; child != nil {
			child.status = status
			delete(c.live, pid)
			close(child.ended)
		}
	}
}

// run starts a program and returns it. The lock keeps the reaper from a child that is not in the table yet.
func (c *children) run(path string, args []string, attr *syscall.ProcAttr, jobID string) (*child, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	pid, err := syscall.ForkExec(path, args, attr)
	if err != nil {
		return nil, err
	}
	started := &child{job: jobID, ended: make(chan struct{})}
	c.live[pid] = started
	if jobID != "" {
		c.job(jobID).started = true
	}
	return started, nil
}

// job returns the job with that number; the caller holds the lock.
func (c *children) job(id string) *job {
	j := c.jobs[id]
	if j == nil {
		j = &job{}
		c.jobs[id] = j
	}
	return j
}

// foreground counts the programs that the shell waits for.
func (c *children) foreground() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, child := range c.live {
		if child.job == "" {
			n++
		}
	}
	return n
}

// kill sends a signal to a job: to the programs it runs, and to the part of it that this process itself carries out.
func (c *children) kill(id string, signal syscall.Signal) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch signal {
	case 0, syscall.SIGCHLD, syscall.SIGCONT, syscall.SIGWINCH, syscall.SIGURG, syscall.SIGSTOP, syscall.SIGTSTP:
	default:
		c.job(id).killed = signal
	}
	for pid, child := range c.live {
		if child.job == id {
			_ = syscall.Kill(pid, signal) // it may have ended this moment
		}
	}
}

// killed reports the signal that a job was sent, 0 for none.
func (c *children) killed(id string) syscall.Signal {
	c.mu.Lock()
	defer c.mu.Unlock()
	if id == "" {
		return 0
	}
	return c.job(id).killed
}

// running returns what is closed when a program of one of the jobs (of any, if none is given) ends, nil if none is
// running; starting says that one may be about to.
// The jobs started so far are 1 to count.
func (c *children) running(ids []string, count int) (ended <-chan struct{}, starting bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	wanted := func(id string) bool {
		for _, want := range ids {
			if id == want {
				return true
			}
		}
		return len(ids) == 0
	}
	for _, child := range c.live {
		if child.job != "" && wanted(child.job) {
			ended = child.ended
		}
	}
	for n := range count {
		id := strconv.Itoa(n + 1)
		starting = starting || wanted(id) && !c.job(id).started
	}
	return ended, starting
}
