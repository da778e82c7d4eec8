package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// measures are what this program does where it is called by such a name with an address, or with a name to be found: inside containers, and
// on what stands for another host. Each prints one number.
var measures = map[string]func(target string) (float64, error){
	"throughput":  throughput,
	"connections": connections,
	"questions":   questions,
	"names":       names,
}

// measureTime is how long each is done.
const measureTime = time.Second

// measureMain is this program inside: serve ADDRESS, or a measure and its target.
func measureMain(verb, target string) error {
	if verb == "serve" {
		return serve(target)
	}
	n, err := measures[verb](target)
	if err == nil {
		_, err = fmt.Println(n)
	}
	return err
}

// The first byte on a connection says what is wanted.
const (
	wantSink = 's' // all that is sent is thrown away; how much it was is said at its end
	wantEcho = 'e' // each byte is answered
)

func serve(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			first := make([]byte, 1)
			if _, err := io.ReadFull(c, first); err != nil {
				return
			}
			if first[0] == wantEcho {
				_, _ = io.Copy(c, c)
				return
			}
			var n int64
			buf := make([]byte, 256<<10)
			for {
				m, err := c.Read(buf)
				if n += int64(m); err != nil {
					break
				}
			}
			_, _ = fmt.Fprintln(c, n)
		}()
	}
}

func dial(address string, want byte) (*net.TCPConn, error) {
	c, err := net.DialTimeout("tcp4", address, 10*time.Second)
	if err != nil {
		return nil, err
	}
	_, err = c.Write([]byte{want})
	return c.(*net.TCPConn), err
}

// throughput is what one connection carries, in Gbit/s.
func throughput(address string) (float64, error) {
	c, err := dial(address, wantSink)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	buf := make([]byte, 256<<10)
	begin := time.Now()
	for time.Since(begin) < measureTime {
		if _, err := c.Write(buf); err != nil {
			return 0, err
		}
	}
	if err := c.CloseWrite(); err != nil {
		return 0, err
	}
	var n float64
	_, err = fmt.Fscan(bufio.NewReader(c), &n)
	return n * 8 / 1e9 / time.Since(begin).Seconds(), err
}

// inTurn counts what some goroutines do each second.
func inTurn(goroutines int, do func() (again func() error, end func(), err error)) (float64, error) {
	var done atomic.Int64
	var all sync.WaitGroup
	errs := make([]error, goroutines)
	begin := time.Now()
	for i := range goroutines {
		all.Go(func() {
			again, end, err := do()
			if err != nil {
				errs[i] = err
				return
			}
			defer end()
			for time.Since(begin) < measureTime && errs[i] == nil {
				errs[i] = again()
				done.Add(1)
			}
		})
	}
	all.Wait()
	return float64(done.Load()) / time.Since(begin).Seconds(), errors.Join(errs...)
}

// connections are made, used for a question and closed, eight at once: how many a second.
func connections(address string) (float64, error) {
	return inTurn(8, func() (func() error, func(), error) {
		return func() error {
			c, err := dial(address, wantEcho)
			if err != nil {
				return err
			}
			defer c.Close()
			_ = c.SetLinger(0) // or the ports would run out
			return ask(c)
		}, func() {}, nil
	})
}

// questions are asked on one connection, one after another: how many a second.
func questions(address string) (float64, error) {
	return inTurn(1, func() (func() error, func(), error) {
		c, err := dial(address, wantEcho)
		if err != nil {
			return nil, nil, err
		}
		return func() error { return ask(c) }, func() { _ = c.Close() }, nil
	})
}

func ask(c net.Conn) error {
	var b [1]byte
	if _, err := c.Write(b[:]); err != nil {
		return err
	}
	_, err := io.ReadFull(c, b[:])
	return err
}

// names are asked of the name server that the container is given, eight at once: how many a second.
func names(name string) (float64, error) {
	server, err := nameServer()
	if err != nil {
		return 0, err
	}
	query := []byte{0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0} // one question, recursion wanted (RFC 1035, 4.1.1)
	for label := range strings.SplitSeq(name, ".") {
		query = append(append(query, byte(len(label))), label...)
	}
	query = append(query, 0, 0, 1, 0, 1) // A, IN
	return inTurn(8, func() (func() error, func(), error) {
		c, err := net.Dial("udp", net.JoinHostPort(server, "53"))
		if err != nil {
			return nil, nil, err
		}
		answer := make([]byte, 1500)
		return func() error {
			if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
				return err
			}
			if _, err := c.Write(query); err != nil {
				return err
			}
			n, err := c.Read(answer)
			if err == nil && (n < 12 || answer[3]&15 != 0 || bytes.Equal(answer[6:8], []byte{0, 0})) {
				err = fmt.Errorf("%s is not found", name)
			}
			return err
		}, func() { _ = c.Close() }, nil
	})
}

func nameServer() (string, error) {
	data, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "nameserver" {
			return fields[1], nil
		}
	}
	return "", errors.New("/etc/resolv.conf has no name server")
}
