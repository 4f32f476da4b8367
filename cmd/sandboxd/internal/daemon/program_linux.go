package daemon

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// releaseProgram takes the pages of the program's file out of this process's memory.
// Starting runs through much of it that is not needed again; what is gets mapped
// again from the kernel's cache, where the pages stay. Only what was never written
// to may be dropped so, and can be had back from the file.
func releaseProgram() error {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	maps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return err
	}
	unwritten, err := unwrittenParts(bytes.NewReader(maps), program)
	if err != nil {
		return err
	}
	for _, p := range unwritten {
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, p.from, p.to-p.from, unix.MADV_DONTNEED); errno != 0 {
			return fmt.Errorf("release the program's pages: %w", errno)
		}
	}
	return nil
}

// part is a range of addresses.
type part struct{ from, to uintptr }

// unwrittenParts finds where a file is mapped so that it can only be read or run, and
// where nothing was written either before that was so, in a process's smaps. What was
// written, as a loader does before it makes a part read-only, is Anonymous while it is
// in memory, and otherwise in Swap, from where it could not be had back:
//
//	00400000-01e51000 r-xp 00000000 fe:00 10010659     /usr/bin/sandboxd
//	Rss:               20480 kB
//	Anonymous:             0 kB
//	Swap:                  0 kB
func unwrittenParts(smaps io.Reader, path string) ([]part, error) {
	var parts []part
	var at *part // that the lines are of, if it may be one
	lines := bufio.NewScanner(smaps)
	for lines.Scan() {
		name, rest, _ := strings.Cut(lines.Text(), " ")
		switch {
		case !strings.HasSuffix(name, ":"):
			var p part
			var perms string
			if _, err := fmt.Sscanf(name+" "+rest, "%x-%x %s", &p.from, &p.to, &perms); err != nil {
				return nil, fmt.Errorf("line %q of the memory map: %w", lines.Text(), err)
			}
			at = nil
			if strings.HasSuffix(rest, " "+path) && (perms == "r-xp" || perms == "r--p") {
				at = &p
			}
		case (name == "Anonymous:" || name == "Swap:") && at != nil:
			kb, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(rest), " kB"))
			switch {
			case err != nil:
				return nil, fmt.Errorf("line %q of the memory map: %w", lines.Text(), err)
			case kb != 0:
				at = nil
			case name == "Swap:": // which comes after the other
				parts = append(parts, *at)
			}
		}
	}
	return parts, lines.Err()
}
