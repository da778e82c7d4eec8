package main

import (
	"testing"

	"rsc.io/quote"
)

func TestGreeting(t *testing.T) {
	if quote.Hello() == "" {
		t.Error("no greeting")
	}
}
