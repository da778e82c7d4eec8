package dns

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"time"

	"berth/internal/network/etcfiles"

	"golang.org/x/sys/unix"
)

const (
	maxServers = 3 // libc's and docker's
	// patience is how long a server may take when it is the only one; docker's. It is shorter than libc's five seconds.
	patience = 4 * time.Second
	// patienceOfMany leaves time for the next server before libc gives up.
	patienceOfMany = 2 * time.Second
	// maxStrangers is how many messages that answer nothing we have asked are taken from a server before it is given up:
	// whoever guesses the number of a query has so many tries in 65536.
	maxStrangers = 32
)

// fly passes a query from a UDP client on, in a goroutine of its own. What is too much is dropped.
func (s *Server) fly(c *Config, q *query, client netip.AddrPort) {
	s.mu.Lock()
	ok := !s.closed && s.flights < maxFlights
	if ok {
		s.flights++
	}
	s.mu.Unlock()
	if !ok {
		return
	}
	msg, end, id := bytes.Clone(q.msg), q.end, q.id
	s.running.Go(func() {
		code := s.forward(c, unix.SOCK_DGRAM, msg, end, func(answer []byte) {
			binary.BigEndian.PutUint16(answer, id)
			_, _ = s.udp.WriteToUDPAddrPort(answer, client) // a client that has gone
		})
		s.mu.Lock()
		s.flights--
		s.mu.Unlock()
		if code != success {
			binary.BigEndian.PutUint16(msg, id)
			var q query
			if _, ok := q.parse(msg); ok {
				_, _ = s.udp.WriteToUDPAddrPort(q.fail(nil, code), client)
			}
		}
	})
}

// ask passes a query from a TCP client on, over TCP, and returns the answer.
func (s *Server) ask(c *Config, q *query) []byte {
	var answer []byte
	id := q.id
	code := s.forward(c, unix.SOCK_STREAM, bytes.Clone(q.msg), q.end, func(got []byte) { answer = got })
	if code != success {
		return q.fail(nil, code)
	}
	binary.BigEndian.PutUint16(answer, id)
	return answer
}

// forward asks one server after the other, and gives the answer to deliver, which may change it but not keep it if it came
// over UDP. Its result is success, or what the client is to be told. msg gets another number for each server.
func (s *Server) forward(c *Config, kind int, msg []byte, end int, deliver func([]byte)) int {
	list, dial, wait := c.Servers, c.Dial, time.Duration(0)
	if len(list) == 0 {
		list, wait = s.host.get(c.ResolvConf)
		dial = DialIn(nil)
	} else if dial == nil {
		return serverFail
	}
	list = list[:min(len(list), maxServers)]
	if wait == 0 && len(list) > 1 {
		wait = patienceOfMany
	} else if wait == 0 {
		wait = patience
	}
	code := serverFail
	for _, server := range list {
		if len(c.Servers) > 0 && server.Unmap() == Address() {
			continue // that would be ourselves
		}
		f, err := dial(kind, netip.AddrPortFrom(server, s.port))
		if err != nil {
			continue
		}
		if !s.track(f) {
			return serverFail
		}
		if err = f.SetDeadline(time.Now().Add(wait)); err == nil {
			var number [2]byte
			_, err = unix.Getrandom(number[:], 0)
			copy(msg, number[:])
		}
		result := noAnswer
		if err == nil && kind == unix.SOCK_DGRAM {
			result = s.exchange(f, msg, end, deliver)
		} else if err == nil {
			result = exchangeTCP(f, msg, end, deliver)
		}
		s.release(f)
		switch result {
		case success:
			return success
		case formatErr, notImpl:
			// It does not know what rides with the question, and libc asks again without.
			code = result
		}
	}
	return code
}

const noAnswer = -1

// judge looks at a message from a server. A code other than noAnswer is the server's last word; with success, the message
// is for the client.
func judge(answer, msg []byte, end int) (code int, ours bool) {
	complete, ok := answers(answer, binary.BigEndian.Uint16(msg), msg[headerLength:end])
	if !ok {
		return noAnswer, false
	}
	code = int(answer[3] & 0xf)
	if code == serverFail || code == refused {
		return serverFail, true
	}
	if !complete {
		return code, true
	}
	return success, true
}

// exchange asks over UDP. There is one buffer for the answers to all queries, which are read when they are there.
func (s *Server) exchange(f *os.File, msg []byte, end int, deliver func([]byte)) int {
	if _, err := f.Write(msg); err != nil {
		return noAnswer
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return noAnswer
	}
	code, strangers := noAnswer, 0
	err = raw.Read(func(fd uintptr) bool {
		s.inMu.Lock()
		defer s.inMu.Unlock()
		if s.in == nil {
			s.in = make([]byte, 1<<16)
		}
		for strangers < maxStrangers {
			n, err := unix.Read(int(fd), s.in)
			if err == unix.EINTR {
				continue
			}
			if err == unix.EAGAIN {
				return false
			}
			if err != nil { // nobody listens there
				return true
			}
			var ours bool
			if code, ours = judge(s.in[:n], msg, end); ours {
				if code == success {
					deliver(s.in[:n])
				}
				return true
			}
			strangers++
		}
		return true
	})
	if err != nil {
		return noAnswer
	}
	return code
}

// exchangeTCP asks over TCP. A write waits for the connection.
func exchangeTCP(f *os.File, msg []byte, end int, deliver func([]byte)) int {
	if writeMessage(f, msg) != nil {
		return noAnswer
	}
	answer, err := readMessage(f, nil, 1<<16-1)
	if err != nil {
		return noAnswer
	}
	code, _ := judge(answer, msg, end)
	if code == success {
		deliver(answer)
	}
	return code
}

// hostServers are the servers that the host's resolv.conf names, read again when it has changed.
type hostServers struct {
	mu      sync.Mutex
	path    string
	stat    unix.Stat_t
	servers []netip.Addr
	wait    time.Duration // its option timeout, or 0
}

func (h *hostServers) get(path string) ([]netip.Addr, time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		st = unix.Stat_t{}
	}
	st.Atim = unix.Timespec{}
	if h.path == path && h.stat == st && st.Ino != 0 {
		return h.servers, h.wait
	}
	h.path, h.stat, h.servers, h.wait = path, st, nil, 0
	text, err := etcfiles.Read(path, etcfiles.ResolvConfLimit)
	if err != nil {
		return nil, 0
	}
	c := etcfiles.Parse(text)
	h.servers = c.Servers[:min(len(c.Servers), maxServers)]
	if v, ok := c.Option("timeout"); ok {
		if n, err := strconv.Atoi(v); err == nil && n > 0 {
			h.wait = min(time.Duration(min(n, 60))*time.Second, patience)
		}
	}
	return h.servers, h.wait
}
