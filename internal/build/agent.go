package build

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"

	"berth/internal/errdef"
)

// What an agent is asked (draft-miller-ssh-agent): a message is its length in four bytes, its type, and the rest.
const (
	agentFailure      = 5
	requestIdentities = 11
	signRequest       = 13
	extension         = 27

	maxAgentMessage = 256 << 10 // OpenSSH's own limit
)

// forwardAgent listens at a socket for those who ask an agent to sign, or for its keys. What would change the agent is answered with a
// failure: a build may use keys, not take them away.
func forwardAgent(socket, agent string) (stop func() error, err error) {
	l, err := net.Listen("unix", socket)
	if err != nil {
		return nil, errdef.New(errdef.Unavailable, "cannot forward the agent: %w", err)
	}
	var mu sync.Mutex // guards open
	open := map[net.Conn]bool{}
	note := func(c net.Conn, there bool) {
		mu.Lock()
		defer mu.Unlock()
		if there {
			open[c] = true
			return
		}
		delete(open, c)
		_ = c.Close()
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			note(c, true)
			serving.Go(func() {
				defer note(c, false)
				serveAgent(c, agent)
			})
		}
	})
	return func() error {
		err := l.Close()
		mu.Lock()
		for c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		serving.Wait()
		return err
	}, nil
}

// serveAgent answers one client until it goes.
func serveAgent(c net.Conn, agent string) {
	up, err := net.Dial("unix", agent)
	if err != nil {
		return
	}
	defer up.Close()
	for {
		question, err := agentMessage(c)
		if err != nil {
			return
		}
		answer := []byte{agentFailure}
		switch question[0] {
		case requestIdentities, signRequest, extension:
			if sendAgent(up, question) != nil {
				return
			}
			if answer, err = agentMessage(up); err != nil {
				return
			}
		}
		if sendAgent(c, answer) != nil {
			return
		}
	}
}

func agentMessage(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n == 0 || n > maxAgentMessage {
		return nil, errors.New("not a message of an agent")
	}
	b := make([]byte, n)
	_, err := io.ReadFull(r, b)
	return b, err
}

func sendAgent(w io.Writer, b []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...))
	return err
}
