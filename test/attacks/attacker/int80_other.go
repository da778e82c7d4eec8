//go:build !amd64

package main

import "errors"

// int80Sockets is for x86.
func int80Sockets() error { return errors.New("only x86 has int 0x80") }
