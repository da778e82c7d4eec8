package fullcli

import (
	"fmt"
	"io"
	"time"

	"github.com/docker/go-units"
)

// progress counts what is read, and shows it on one line of a terminal.
type progress struct {
	from  io.Reader
	to    io.Writer
	total int64 // 0: unknown
	read  int64
	shown time.Time
}

// showEvery is how long a line stands before it is drawn again.
const showEvery = 100 * time.Millisecond

func (p *progress) Read(b []byte) (int, error) {
	n, err := p.from.Read(b)
	p.read += int64(n)
	if now := time.Now(); now.Sub(p.shown) >= showEvery {
		p.shown = now
		of := ""
		if p.total > 0 {
			of = "/" + units.HumanSize(float64(p.total))
		}
		fmt.Fprintf(p.to, "\r\x1b[KLoading %s%s", units.HumanSize(float64(p.read)), of)
	}
	return n, err
}

// end takes the line away.
func (p *progress) end() {
	if !p.shown.IsZero() {
		fmt.Fprint(p.to, "\r\x1b[K")
	}
}
