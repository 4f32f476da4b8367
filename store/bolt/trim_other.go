//go:build !linux

package bolt

// unmapPages leaves the pages to the kernel.
func unmapPages(_, _ uintptr) error { return nil }
