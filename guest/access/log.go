package access

import (
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"sandboxd.dev/sandboxd/guest/wire"
	"sandboxd.dev/sandboxd/providers"
)

// maxTailLines bounds how many lines from the end can be asked for.
const maxTailLines = 1 << 20

// Log streams the log of the serial console. What a guest prints there is its
// own word, terminal escapes included: whoever shows it makes it harmless.
func (h *Handlers) Log(w http.ResponseWriter, r *http.Request, parent *unstructured.Unstructured) {
	h.serve(w, parent, func(m machine) error {
		q := r.URL.Query()
		limit, err := parseLog(q)
		if err != nil {
			return err
		}
		follow, err := parseBool(q, wire.ParamFollow)
		if err != nil {
			return err
		}
		tailBytes, err := parseCount(q.Get(wire.ParamTailBytes), wire.ParamTailBytes, 1<<62)
		if err != nil {
			return err
		}
		lines, err := parseCount(q.Get(wire.ParamTailLines), wire.ParamTailLines, maxTailLines)
		if err != nil {
			return err
		}
		if lines >= 0 {
			if tailBytes >= 0 {
				return badRequestf("tailBytes and tailLines exclude one another")
			}
			if tailBytes, err = bytesOfLines(r, m, lines); err != nil {
				return err
			}
		}
		console, err := m.provider.Console(r.Context(), m.id, providers.ConsoleOptions{Follow: follow, TailBytes: tailBytes})
		if err != nil {
			return err
		}
		defer func() { _ = console.Close() }()
		out := newStream(w, r, "text/plain; charset=utf-8")
		out.flushed = true
		if follow {
			out.begin()
			_ = http.NewResponseController(w).Flush()
		}
		if limit >= 0 {
			_, err = io.Copy(out, io.LimitReader(console, limit))
		} else {
			_, err = io.Copy(out, console)
		}
		return h.finish(out, m, err)
	})
}

// parseLog refuses what kubectl may ask for and the log of a console cannot tell.
// It returns the most bytes to send; -1 when there is no bound.
func parseLog(q url.Values) (limit int64, err error) {
	if _, err := parseWanted(url.Values{wire.ParamContainer: q[wire.ParamContainer]}); err != nil {
		return 0, err
	}
	for name, why := range map[string]string{
		wire.ParamPrevious:   "there is no log of a previous machine: a console's log goes on over restarts, so leave out --previous",
		wire.ParamTimestamps: "a console's log has no times, so leave out --timestamps",
	} {
		switch asked, err := parseBool(q, name); {
		case err != nil:
			return 0, err
		case asked:
			return 0, badRequestf("%s", why)
		}
	}
	if q.Get(wire.ParamSinceSeconds) != "" || q.Get(wire.ParamSinceTime) != "" {
		return 0, badRequestf("a console's log has no times, so --since and --since-time cannot be told: use --tail")
	}
	return parseCount(q.Get(wire.ParamLimitBytes), wire.ParamLimitBytes, 1<<62)
}

// parseCount reads a number that is not negative; -1 when there is none.
func parseCount(text, name string, most int64) (int64, error) {
	if text == "" {
		return -1, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 || n > most {
		return 0, badRequestf("%s %q is not a number from 0 to %d", name, text, most)
	}
	return n, nil
}

// bytesOfLines finds out how many bytes the last lines take. It reads the log
// once, in constant memory but for the starts of those lines.
func bytesOfLines(r *http.Request, m machine, lines int64) (int64, error) {
	console, err := m.provider.Console(r.Context(), m.id, providers.ConsoleOptions{TailBytes: -1})
	if err != nil {
		return 0, err
	}
	defer func() { _ = console.Close() }()
	return tailSize(console, lines)
}

// tailSize is how many bytes the last lines of a text take. A last line without
// its end counts too.
func tailSize(text io.Reader, lines int64) (int64, error) {
	if lines == 0 {
		return 0, nil
	}
	// starts is a ring of where the last lines begin.
	starts, count := make([]int64, 0, min(lines, 1024)), int64(0)
	begin := func(at int64) {
		if int64(len(starts)) < lines {
			starts = append(starts, at)
		} else {
			starts[count%lines] = at
		}
		count++
	}
	var size int64
	fresh := true // the next byte begins a line
	buf := make([]byte, 64<<10)
	for {
		n, err := text.Read(buf)
		for i, c := range buf[:n] {
			if fresh {
				begin(size + int64(i))
			}
			fresh = c == '\n'
		}
		size += int64(n)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return 0, err
		}
	}
	switch {
	case count == 0:
		return 0, nil
	case count <= lines:
		return size - starts[0], nil
	default:
		return size - starts[count%lines], nil
	}
}
