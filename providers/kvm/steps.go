//go:build linux

package kvm

import "sync/atomic"

// steps lets a test cut a call off before each change that it makes to the
// world, as the death of the process would. Nobody listens otherwise.
type steps struct{ hook atomic.Pointer[func()] }

// next is called before each change, by the goroutine of the call.
func (s *steps) next() {
	if hook := s.hook.Load(); hook != nil {
		(*hook)()
	}
}
