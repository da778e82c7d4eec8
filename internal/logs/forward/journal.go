package forward

import (
	"bytes"
	"encoding/binary"
	"net"
	"strconv"
	"strings"
	"time"

	"berth/internal/container"
	"berth/internal/errdef"
	"berth/internal/ident"
	"berth/internal/logs"
)

// journal sends entries to systemd's journal, by its native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL): a datagram each.
type journal struct {
	fields []byte // what is said with every entry
	conn   *net.UnixConn
}

const journalSocket = "/run/systemd/journal/socket"

func dialJournal(l container.LogConfig, f container.TagFacts, tag string) (*journal, error) {
	j := &journal{}
	for _, field := range [][2]string{
		{"CONTAINER_ID", ident.Short(f.ID)},
		{"CONTAINER_ID_FULL", f.ID},
		{"CONTAINER_NAME", f.Name},
		{"CONTAINER_TAG", tag},
		{"IMAGE_NAME", f.ImageName},
		{"SYSLOG_IDENTIFIER", tag},
	} {
		j.fields = appendField(j.fields, field[0], field[1])
	}
	for name, value := range l.Attributes(f) {
		if name = fieldName(name); name != "" {
			j.fields = appendField(j.fields, name, value)
		}
	}
	if err := j.connect(); err != nil {
		return nil, errdef.New(errdef.Unavailable, "journald is not enabled on this host: %v", err)
	}
	return j, nil
}

func (j *journal) connect() (err error) {
	j.conn, err = net.DialUnix("unixgram", nil, &net.UnixAddr{Name: journalSocket, Net: "unixgram"})
	return err
}

// fieldName is a name as the journal takes one from a client: upper case, no underscore at its beginning.
func fieldName(name string) string {
	name = strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, strings.ToUpper(name))
	return strings.TrimLeft(name, "_0123456789")
}

// appendField appends a field: NAME=value, or with its length if there is a line feed in it.
func appendField(b []byte, name, value string) []byte {
	b = append(b, name...)
	if !strings.Contains(value, "\n") {
		b = append(b, '=')
	} else {
		b = append(b, '\n')
		b = binary.LittleEndian.AppendUint64(b, uint64(len(value)))
	}
	b = append(b, value...)
	return append(b, '\n')
}

func (j *journal) send(e logs.Entry) error {
	severity := severityInfo
	if e.Stream == logs.Stderr.String() {
		severity = severityError
	}
	text, whole := strings.CutSuffix(e.Text, "\n")
	b := appendField(bytes.Clone(j.fields), "PRIORITY", strconv.Itoa(severity))
	b = appendField(b, "SYSLOG_TIMESTAMP", e.Time.Format(time.RFC3339Nano))
	if !whole {
		b = appendField(b, "CONTAINER_PARTIAL_MESSAGE", "true")
	}
	b = appendField(b, "MESSAGE", text)
	if j.conn == nil {
		if err := j.connect(); err != nil {
			return err
		}
	}
	_, err := j.conn.Write(b)
	if err != nil {
		_ = j.close()
	}
	return err
}

func (j *journal) close() error {
	if j.conn == nil {
		return nil
	}
	err := j.conn.Close()
	j.conn = nil
	return err
}
