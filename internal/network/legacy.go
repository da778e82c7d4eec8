package network

import (
	"encoding/binary"
	"os"

	"golang.org/x/sys/unix"
)

// Of linux/netfilter_ipv4/ip_tables.h and linux/netfilter/x_tables.h.
const (
	getInfo, getEntries = 64, 65 // IPT_SO_GET_INFO, IPT_SO_GET_ENTRIES
	tableName           = 32     // XT_TABLE_MAXNAMELEN
	// struct ipt_getinfo: name, valid_hooks, hook_entry[5], underflow[5], num_entries, size. An underflow is where a chain's policy is.
	underflowForward = tableName + 4 + 5*4 + 2*4
	sizeOfEntries    = tableName + 4 + 5*4 + 5*4 + 4
	infoBytes        = sizeOfEntries + 4
	// struct ipt_get_entries: name, size, and the entries on the boundary of a 64-bit number.
	entriesStart = tableName + 8
	// struct ipt_entry: where its target is; of the target the verdict.
	targetOffset  = 88
	verdictOffset = 32
	verdictDrop   = -1 // -NF_DROP - 1
	maxEntries    = 64 << 20
)

// legacyFilter reads the entries of the table "filter" of iptables-legacy, and where among them the policy of FORWARD is.
func legacyFilter() (entries []byte, forward uint32, err error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return nil, 0, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	info := make([]byte, infoBytes)
	copy(info, "filter")
	if err := getsockopt(fd, getInfo, info); err != nil {
		return nil, 0, err
	}
	size := binary.NativeEndian.Uint32(info[sizeOfEntries:])
	if size > maxEntries {
		return nil, 0, errLegacyTable
	}
	b := make([]byte, entriesStart+int(size))
	copy(b, "filter")
	binary.NativeEndian.PutUint32(b[tableName:], size)
	if err := getsockopt(fd, getEntries, b); err != nil { // EAGAIN: somebody has changed it just now
		return nil, 0, err
	}
	return b[entriesStart:], binary.NativeEndian.Uint32(info[underflowForward:]), nil
}

// legacyDrops reports whether the entry at an offset is the verdict to drop.
func legacyDrops(entries []byte, at uint32) bool {
	n := uint64(len(entries))
	if uint64(at)+targetOffset+2 > n {
		return false
	}
	verdict := uint64(at) + uint64(binary.NativeEndian.Uint16(entries[at+targetOffset:])) + verdictOffset
	return verdict+4 <= n && int32(binary.NativeEndian.Uint32(entries[verdict:])) == verdictDrop
}
