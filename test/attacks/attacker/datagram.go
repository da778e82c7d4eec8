package main

import (
	"net"
	"os"
	"strings"
)

// datagram sends lines to a socket, in one message.
func datagram(path string, lines []string) error {
	c, err := net.Dial("unixgram", path)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write([]byte(strings.Join(lines, "\n")))
	return err
}

// datagrams writes what comes to a socket to a file, message after message.
func datagrams(path, file string) error {
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer c.Close()
	all, message := "", make([]byte, 4096)
	for {
		n, err := c.Read(message)
		if err != nil {
			return err
		}
		all += "message:\n" + string(message[:n])
		if err := os.WriteFile(file, []byte(all), 0o666); err != nil {
			return err
		}
	}
}
