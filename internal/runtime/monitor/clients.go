package monitor

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"berth/internal/errdef"

	"golang.org/x/sys/unix"
)

// client is a command that has attached.
type client struct {
	conn *Conn
	AttachRequest
}

// listen opens the socket of a run directory.
func listen(runDir string) (int, error) {
	if err := os.Remove(filepath.Join(runDir, socketName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return -1, err
	}
	d, err := os.Open(runDir)
	if err != nil {
		return -1, err
	}
	defer d.Close()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	err = os.NewSyscallError("bind", unix.Bind(fd, &unix.SockaddrUnix{Name: viaFD(d, socketName).Name}))
	if err == nil {
		err = os.NewSyscallError("listen", unix.Listen(fd, backlog))
	}
	if err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

// backlog is how many commands may wait for a monitor to take their connections.
const backlog = 128

// hear takes the socket on which commands connect.
func (m *monitor) hear(fd int) error {
	f := os.NewFile(uintptr(fd), socketName)
	l, err := net.FileListener(f)
	_ = f.Close()
	if err != nil {
		return err
	}
	m.listener = l.(*net.UnixListener)
	return nil
}

// accept serves those who connect, until the listener is closed or has a deadline.
func (m *monitor) accept() {
	m.listener.SetUnlinkOnClose(false)
	m.accepting.Go(func() {
		for {
			c, err := m.listener.AcceptUnix()
			if err != nil {
				return
			}
			m.busy.Add(1)
			go func() {
				defer m.idle()
				m.serve(&Conn{c: c})
			}()
		}
	})
}

// Request is the first frame of a connection.
type Request struct {
	conn    *Conn
	kind    byte
	payload []byte
}

// Await waits for the first frame of a connection; io.EOF says that the other side has gone without one.
func Await(conn *Conn) (Request, error) {
	kind, payload, err := conn.Receive()
	return Request{conn, kind, payload}, err
}

// answer does what the first frame of a connection asks for.
func (m *monitor) answer(r Request) error {
	conn := r.conn
	switch r.kind {
	case FrameAttach:
		c := &client{conn: conn}
		if err := unmarshal(r.payload, &c.AttachRequest); err != nil {
			return err
		}
		return m.admit(c)
	case FrameExec:
		return m.exec(conn, r.payload)
	case FrameHalt:
		m.haltOnce.Do(func() { close(m.halt) })
		m.starting.Lock() // a start that is under way is one that can be signalled, or has failed
		defer m.starting.Unlock()
		return conn.Close()
	case FrameNetworks:
		if err := m.changeNetworks(); err != nil {
			return err
		}
		return conn.Close()
	}
	return errdef.New(errdef.Invalid, "unknown request %q", r.kind)
}

// admit takes a client, who is told at once if the container runs.
func (m *monitor) admit(c *client) error {
	m.mu.Lock()
	if m.over {
		m.mu.Unlock()
		return errdef.New(errdef.Conflict, "the container has ended")
	}
	m.clients[c] = true
	m.busy.Add(1)
	pid, started := m.process.PID, m.running
	m.mu.Unlock()
	if started {
		_ = c.conn.Send(FrameStarted, Started{pid})
	}
	go func() {
		defer m.idle()
		m.listenTo(c)
	}()
	return nil
}

// serve answers a connection that came by the socket.
func (m *monitor) serve(conn *Conn) {
	r, err := Await(conn)
	if err == nil {
		err = m.answer(r)
	}
	if err != nil {
		_ = conn.Send(FrameFailed, failed(err))
		_ = conn.Close()
	}
}

// listenTo carries what a client sends to the container.
func (m *monitor) listenTo(c *client) {
	for {
		kind, payload, err := c.conn.Receive()
		if err != nil {
			m.drop(c)
			return
		}
		switch kind {
		case FrameStdin:
			if c.Stdin && m.streams.write(payload) != nil {
				continue // it reads no more; that is its right
			}
		case FrameCloseIn:
			if c.Stdin {
				m.streams.closeIn()
			}
		case FrameResize:
			if len(payload) != 4 {
				continue
			}
			rows, columns := binary.BigEndian.Uint16(payload), binary.BigEndian.Uint16(payload[2:])
			if m.streams.resize(rows, columns) {
				m.Store.Note(m.current(), "resize", "height", strconv.Itoa(int(rows)), "width", strconv.Itoa(int(columns)))
			}
		}
	}
}

func (m *monitor) drop(c *client) {
	m.mu.Lock()
	_, known := m.clients[c]
	delete(m.clients, c)
	m.mu.Unlock()
	if known && c.Stdin && c.StdinOnce {
		m.streams.closeIn()
	}
	if known && m.c.Step != "" {
		m.doom() // nobody else will want what it makes
	}
	_ = c.conn.Close()
}

// doom kills the container, now or as soon as it runs.
func (m *monitor) doom() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.doomed = true
	if m.running {
		_ = unix.PidfdSendSignal(m.pidfd, unix.SIGKILL, nil, 0)
	}
}

// show sends output to all clients who want it. A client that does not read holds the container up, as with docker:
// nothing is lost, and nothing piles up.
func (m *monitor) show(kind byte, p []byte) {
	for _, c := range m.all() {
		if c.Output {
			if err := c.conn.Send(kind, p); err != nil {
				m.drop(c)
			}
		}
	}
}

func (m *monitor) tellAll(kind byte, payload any) {
	for _, c := range m.all() {
		if err := c.conn.Send(kind, payload); err != nil {
			m.drop(c)
		}
	}
}

func (m *monitor) all() []*client {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := make([]*client, 0, len(m.clients))
	for c := range m.clients {
		all = append(all, c)
	}
	return all
}

// exec starts a further process, tells the client, and stays with the process till its end. The monitor is its parent,
// so it lives on when the client dies, and it was started through a mount that its container cannot write to.
func (m *monitor) exec(conn *Conn, payload []byte) error {
	var r ExecRequest
	if err := unmarshal(payload, &r); err != nil {
		return err
	}
	files := conn.Files()
	defer func() {
		for _, f := range files {
			_ = f.Close()
		}
	}()
	if r.Process == nil || !r.Process.Terminal && len(files) != 3 {
		return errdef.New(errdef.Invalid, "the request names no process, or does not bring its descriptors")
	}
	p, err := m.startFurther(r, files)
	if err != nil {
		return err
	}
	defer p.done()
	for _, f := range files {
		_ = f.Close()
	}
	files = nil
	if p.Console != nil {
		err = conn.Send(FrameStarted, Started{p.PID}, int(p.Console.Fd()))
		_ = p.Console.Close()
	} else {
		err = conn.Send(FrameStarted, Started{p.PID})
	}
	exit := p.collect()
	if err == nil {
		_ = conn.Send(FrameEnded, exit)
	}
	return conn.Close()
}
