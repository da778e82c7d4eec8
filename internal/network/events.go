package network

import "berth/internal/event"

// note notes in the journal what has happened to a network. Nobody refrains from anything because that cannot be done.
func (s Store) note(n Network, action string) {
	_ = event.In(s.Run).Append(eventOf(n.ID, n.Name, n.Driver, action))
}

// noteEndpoint notes that a container was connected to a network, or disconnected.
func (s Store) noteEndpoint(e Endpoint, action string) {
	v := eventOf(e.NetworkID, e.Network, e.Driver, action)
	v.Attributes["container"] = e.Container
	_ = event.In(s.Run).Append(v)
}

func eventOf(id, name string, d Driver, action string) event.Event {
	return event.Event{Type: event.Network, Action: action, ID: id, Attributes: map[string]string{"name": name, "type": string(d)}}
}
