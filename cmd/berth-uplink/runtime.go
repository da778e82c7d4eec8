package main

import (
	"runtime"
	"runtime/debug"
)

// tuneRuntime sets what Go's runtime may use; docs/decisions/0008-uplink.md has the measurements.
func tuneRuntime() {
	// A packet goes through three goroutines. On one processor that is three calls; between two, threads are woken for it, which takes half
	// as much again of the machine and carries less.
	const cpusForEach = 4
	runtime.GOMAXPROCS(max(1, min(runtime.NumCPU()/cpusForEach, 4)))
	debug.SetGCPercent(100)
}
