//go:build linux

package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// process is a running process, by its number, as /proc tells of it.
type process int

// memory is a line of its status, such as VmRSS, in megabytes.
func (p process) memory(line string) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p))
	if err != nil {
		return 0, err
	}
	for l := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(l, line+":"); ok {
			kb, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 64)
			return kb / 1024, err
		}
	}
	return 0, fmt.Errorf("process %d: no %s", p, line)
}

// forgetPeak makes its VmHWM begin anew at what is in memory now.
func (p process) forgetPeak() error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", p), []byte("5"), 0)
}

// clockTick is the unit of process times in /proc, in seconds (USER_HZ is 100
// on every Linux that Go runs on).
const clockTick = 0.01

// cpu is the processor time it has used, in seconds.
func (p process) cpu() (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p))
	if err != nil {
		return 0, err
	}
	// The fields behind the command's closing parenthesis begin with the third.
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	const utime, stime = 14 - 3, 15 - 3
	u, err := strconv.ParseFloat(fields[utime], 64)
	if err != nil {
		return 0, err
	}
	s, err := strconv.ParseFloat(fields[stime], 64)
	return (u + s) * clockTick, err
}
