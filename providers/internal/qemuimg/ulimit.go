package qemuimg

import "strconv"

// limited sets the limits of its first two arguments, where they are not 0, and
// becomes the program that the others are.
const limited = `[ "$1" = 0 ] || ulimit -t "$1" || exit; [ "$2" = 0 ] || ulimit -f "$2" || exit; shift 2; exec "$@"`

// ulimitBlock is the unit of ulimit -f, in bytes.
const ulimitBlock = 512

// underLimits are the arguments of a POSIX shell that runs qemu-img with a job's
// limits of CPU and file size, for systems on which one process cannot set
// another's. They do not limit its memory, which not every such system can.
func underLimits(path string, j job) []string {
	size := j.size / ulimitBlock
	if j.size > 0 {
		size = max(1, size)
	}
	return append([]string{"-c", limited, "sh", strconv.FormatUint(j.cpu, 10), strconv.FormatUint(size, 10), path}, j.args...)
}
