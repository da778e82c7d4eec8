package forward

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"berth/internal/container"
	"berth/internal/logs"

	"golang.org/x/sys/unix"
)

// syslog sends messages as RFC 3164 and RFC 5424 have them; without a format, as a host's own syslog expects them.
type syslog struct {
	address  container.SyslogAddress
	tls      *tls.Config
	facility int
	format   string
	tag      string
	host     string
	conn     net.Conn
	ended    *atomic.Bool // the other side has closed the connection
}

// Severities of RFC 5424.
const (
	severityError = 3
	severityInfo  = 6
)

const (
	dialTime  = 10 * time.Second
	writeTime = 30 * time.Second
)

func dialSyslog(l container.LogConfig, tag string) (_ *syslog, err error) {
	s := &syslog{format: l.Options["syslog-format"], tag: tag}
	if s.address, err = container.ParseSyslogAddress(l.Options["syslog-address"]); err != nil {
		return nil, err
	}
	if s.facility, err = container.SyslogFacility(l.Options["syslog-facility"]); err != nil {
		return nil, err
	}
	if s.address.Network == "tcp+tls" {
		if s.tls, err = tlsConfig(l.Options); err != nil {
			return nil, err
		}
	}
	if s.host, err = os.Hostname(); err != nil {
		return nil, err
	}
	return s, s.connect()
}

func tlsConfig(options map[string]string) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: options["syslog-tls-skip-verify"] != ""} //nolint:gosec // docker's option
	if path := options["syslog-tls-ca-cert"]; path != "" {
		pem, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("cannot read the certificate of syslog-tls-ca-cert: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("cannot read the certificate of syslog-tls-ca-cert: there is none in %s", path)
		}
	}
	if cert, key := options["syslog-tls-cert"], options["syslog-tls-key"]; cert != "" || key != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("cannot read the certificate of syslog-tls-cert and syslog-tls-key: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// ownSyslogs are where a host's own syslog may listen.
var ownSyslogs = []string{"/dev/log", "/var/run/syslog", "/var/run/log"}

func (s *syslog) connect() (err error) {
	switch d := (&net.Dialer{Timeout: dialTime}); s.address.Network {
	case "":
		err = errors.New("cannot find the host's syslog: there is none at /dev/log")
		for _, path := range ownSyslogs {
			if _, no := os.Stat(path); no != nil {
				continue
			}
			if s.conn, err = dialUnix(d, path, "unixgram", "unix"); err == nil {
				break
			}
		}
	case "unix":
		s.conn, err = dialUnix(d, s.address.Address, "unix", "unixgram")
	case "unixgram":
		s.conn, err = dialUnix(d, s.address.Address, "unixgram")
	case "tcp+tls":
		s.conn, err = tls.DialWithDialer(d, "tcp", s.address.Address, s.tls)
		if err != nil {
			s.conn = nil // not a nil *tls.Conn
		}
	default:
		s.conn, err = d.Dial(s.address.Network, s.address.Address)
	}
	if err != nil {
		return err
	}
	s.ended = new(atomic.Bool)
	if strings.HasPrefix(s.address.Network, "tcp") {
		// Nothing comes from there but the end, after which a write is lost and still no error.
		go func(c net.Conn, ended *atomic.Bool) {
			_, _ = io.Copy(io.Discard, c)
			ended.Store(true)
		}(s.conn, s.ended)
	}
	return nil
}

// dialUnix connects to a socket of whichever of the types it is.
func dialUnix(d *net.Dialer, path string, types ...string) (conn net.Conn, err error) {
	for _, t := range types {
		if conn, err = d.Dial(t, path); !errors.Is(err, unix.EPROTOTYPE) {
			break
		}
	}
	return conn, err
}

func (s *syslog) send(e logs.Entry) error {
	if s.conn != nil && s.ended.Load() {
		_ = s.close()
	}
	if s.conn == nil {
		if err := s.connect(); err != nil {
			return err
		}
	}
	err := s.conn.SetWriteDeadline(time.Now().Add(writeTime))
	if err == nil {
		_, err = s.conn.Write(s.frame(s.message(e)))
	}
	if err != nil {
		_ = s.close()
	}
	return err
}

func (s *syslog) close() error {
	if s.conn == nil {
		return nil
	}
	err := s.conn.Close()
	s.conn = nil
	return err
}

// message is docker's, with the time at which the entry was printed.
func (s *syslog) message(e logs.Entry) []byte {
	severity := severityInfo
	if e.Stream == logs.Stderr.String() {
		severity = severityError
	}
	priority, text, pid := s.facility<<3|severity, strings.TrimSuffix(e.Text, "\n")+"\n", os.Getpid()
	at := e.Time.Local()
	switch s.format {
	case "rfc3164":
		return fmt.Appendf(nil, "<%d>%s %s %s[%d]: %s", priority, at.Format(time.Stamp), s.host, s.tag, pid, text)
	case "rfc5424":
		return fmt.Appendf(nil, "<%d>1 %s %s %s %d %s - %s", priority, at.Format(time.RFC3339), s.host, s.tag, pid, s.tag, text)
	case "rfc5424micro":
		return fmt.Appendf(nil, "<%d>1 %s %s %s %d %s - %s", priority, at.Format("2006-01-02T15:04:05.000000Z07:00"), s.host, s.tag, pid, s.tag, text)
	}
	return fmt.Appendf(nil, "<%d>%s %s[%d]: %s", priority, at.Format(time.Stamp), s.tag, pid, text)
}

// frame says how long a message is where RFC 5425 asks for it.
func (s *syslog) frame(message []byte) []byte {
	if s.address.Network == "tcp+tls" && strings.HasPrefix(s.format, "rfc5424") {
		return append(fmt.Appendf(nil, "%d ", len(message)), message...)
	}
	return message
}
