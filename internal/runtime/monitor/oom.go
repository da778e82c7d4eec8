package monitor

import "time"

// oomSettles is how long after the word that memory has run out the kernel may take to kill somebody; and how long is waited at least
// between two looks.
const oomSettles = 100 * time.Millisecond

// watchOOM notes each time that the kernel kills a process of a container with a limit because its memory has run out, until the function that
// it returns is called.
func (m *monitor) watchOOM() (end func()) {
	m.oomNoted.Store(false)
	g := m.group()
	if g == nil || m.c.Config.Resources.MemoryBytes == 0 {
		return func() {}
	}
	watch, err := g.WatchOOM()
	if err != nil {
		return func() {} // the end is noted all the same
	}
	over, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		seen := g.OOMKills() // those before are their monitor's
		for watch.Wait() {
			select {
			case <-over:
				return
			case <-time.After(oomSettles):
			}
			if kills := g.OOMKills(); kills > seen {
				seen = kills
				m.oomNoted.Store(true)
				m.Store.Note(m.current(), "oom")
			}
		}
	}()
	return func() {
		close(over)
		_ = watch.Close()
		<-done
	}
}
