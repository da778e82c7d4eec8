// Package network makes the networks of containers: bridges and macvlan interfaces, addresses, published ports, and the rules
// that keep networks apart. It keeps the networks of one instance of berth on disk, and what each container holds of them.
//
// It starts no process, and answers no names (that is network/dns). It works in the network namespace of the thread that
// calls it: a caller who works elsewhere than in the process's own locks the thread. It needs CAP_NET_ADMIN over that
// namespace, CAP_SYS_ADMIN to enter a container's, and nothing of root's else.
//
// Words: a lease is an address that a container holds, a symbolic link from the address to the container's ID; an endpoint is
// all that a container holds in one network. What an endpoint holds is written down before it is taken:
//
//	Attach                                     Release, from the record alone
//	  endpoints/ID written: names, addresses     elements of published ports, where they are still this endpoint's
//	  leases/ADDRESS -> ID                       the interface
//	  interface                                  leases/ADDRESS that lead to ID
//	  addresses and routes inside                endpoints/ID
//	  elements of published ports
//
// Attach may be killed anywhere; Release may be, too, and is repeated. docs/state.md lists the files.
//
// There is one lock, RUN/networks/.lock, held for a moment by whoever changes anything here; nobody who holds it waits for
// another lock.
package network
