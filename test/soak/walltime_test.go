package soak

import (
	"syscall"
	"time"
)

// wallTime is the real time, also where time is simulated.
func wallTime() time.Time {
	var tv syscall.Timeval
	if err := syscall.Gettimeofday(&tv); err != nil {
		return time.Time{}
	}
	return time.Unix(tv.Unix())
}
