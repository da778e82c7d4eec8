// Command greet prints a greeting.
package main

import (
	"fmt"

	"rsc.io/quote"
)

var version = "unknown"

func main() { fmt.Println(version, quote.Hello()) }
