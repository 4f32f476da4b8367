package agent

import (
	"fmt"
	"strconv"
	"strings"

	"sandboxd.dev/sandboxd/providers/internal/guestcall"
)

// report is run.sh's.
type report struct {
	refused    string
	code       int
	sizes      [2]int64
	inline     bool
	out, stdER []byte
}

func parseReport(s status) (report, error) {
	line, rest := cutLine(s.Out)
	f := strings.Fields(line)
	if len(f) == 2 && f[0] == "refused" {
		return report{refused: f[1]}, nil
	}
	bad := fmt.Errorf("the guest's report on the command is not understood: %q", guestcall.Printable(line))
	if len(f) != 5 || f[0] != "done" || (f[4] != "inline" && f[4] != "files") {
		return report{}, bad
	}
	code, err := strconv.ParseUint(f[1], 10, 8)
	if err != nil {
		return report{}, bad
	}
	r := report{code: int(code), inline: f[4] == "inline", out: rest, stdER: s.Err}
	for i := range r.sizes {
		n, err := strconv.ParseUint(f[2+i], 10, 62)
		if err != nil {
			return report{}, bad
		}
		r.sizes[i] = int64(n)
	}
	return r, nil
}
