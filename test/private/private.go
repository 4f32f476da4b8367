// Package private keeps tests from hypervisors that are not their own.
package private

import (
	"os"
	"testing"
)

// Require skips a test where there is no private hypervisor of that name, LIBVIRT or
// VIRTUALBOX, or fails where that is not allowed (SANDBOXD_REQUIRE_NAME=1).
func Require(t testing.TB, name, reason string) {
	t.Helper()
	switch {
	case os.Getenv("SANDBOXD_PRIVATE_"+name) == "1":
	case os.Getenv("SANDBOXD_REQUIRE_"+name) == "1":
		t.Fatal(reason)
	default:
		t.Skip(reason)
	}
}
