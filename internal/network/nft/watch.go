package nft

import (
	"encoding/binary"
	"os"

	"golang.org/x/sys/unix"
)

const groupNftables = 7 // NFNLGRP_NFTABLES

// Watch returns a socket that becomes readable when somebody has removed a table, a chain or a rule in the calling thread's network
// namespace. What is read from it has no meaning: a full socket (ENOBUFS) is a sign, too. Elements that come and go wake nobody:
// the kernel asks a filter about the first message of each transaction, and removes the rules of a table first.
func Watch() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	filter := removals()
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	err = os.NewSyscallError("setsockopt", unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program))
	if err == nil {
		err = os.NewSyscallError("bind", unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (groupNftables - 1)}))
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "nftables"), nil
}

// removals lets messages pass that say that a rule, a chain or a table is gone. Such a program loads in network order what
// netlink has in the machine's.
func removals() []unix.SockFilter {
	const typeOffset = 4 // in struct nlmsghdr
	kinds := [...]uint16{unix.NFT_MSG_DELRULE, unix.NFT_MSG_DELCHAIN, unix.NFT_MSG_DELTABLE}
	program := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: typeOffset}}
	for i, kind := range kinds {
		seen := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.NFNL_SUBSYS_NFTABLES<<8|kind))
		program = append(program, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: uint8(len(kinds) - i), K: uint32(seen)})
	}
	return append(program,
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K},
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 1 << 16})
}
