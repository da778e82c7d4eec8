package main

import (
	"runtime/debug"
)

// limitMemory sets when the garbage collector runs (docs/decisions/0008-uplink.md has the measurements).
func limitMemory() {
	debug.SetGCPercent(100)
}
