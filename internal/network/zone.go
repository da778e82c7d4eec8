package network

import (
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"berth/internal/network/dns"
)

// Zone answers a resolver's questions about the containers of a network: by name, alias and short ID. It reads the records of the
// network's endpoints, again whenever one has come or gone.
type Zone struct {
	store   Store
	network string

	mu    sync.Mutex // guards what follows
	read  time.Time  // the directory's time when it was read
	fixed bool       // no later change can have had that time, too
	table *dns.Table
}

// tick is more than what the kernel counts the times of files in where it does not count finely: a clock tick of at most 10 ms
// (Documentation/filesystems/multigrain-ts.rst, Linux 6.13).
const tick = 20 * time.Millisecond

// Zone returns the names on a network.
func (s Store) Zone(network string) *Zone { return &Zone{store: s, network: network} }

// Addrs is dns.Zone's.
func (z *Zone) Addrs(name []byte, to []netip.Addr) ([]netip.Addr, bool) {
	return z.current().Addrs(name, to)
}

// Name is dns.Zone's.
func (z *Zone) Name(a netip.Addr) (string, bool) { return z.current().Name(a) }

// current is the names as they are now. Records are replaced by renaming, so whatever changes, the directory does.
func (z *Zone) current() *dns.Table {
	z.mu.Lock()
	defer z.mu.Unlock()
	now := time.Now()
	st, err := os.Stat(filepath.Join(z.store.runDir(z.network), "endpoints"))
	if err == nil && z.table != nil && z.fixed && st.ModTime().Equal(z.read) {
		return z.table
	}
	table := &dns.Table{}
	if err == nil {
		all, listErr := z.store.Endpoints(z.network)
		if listErr != nil && z.table != nil {
			return z.table // what was known is better than nothing
		}
		for _, e := range all {
			addrs := make([]netip.Addr, 0, len(e.Addresses))
			for _, p := range e.Addresses {
				addrs = append(addrs, p.Addr())
			}
			table.Add(append([]string{e.Name, e.Container[:min(12, len(e.Container))]}, e.Aliases...), addrs...)
		}
		z.read, z.fixed = st.ModTime(), now.Sub(st.ModTime()) > tick
	}
	z.table = table
	return table
}
