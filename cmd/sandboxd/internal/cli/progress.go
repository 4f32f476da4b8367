package cli

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"golang.org/x/term"
)

// progress shows what is being waited for: on a terminal as live lines, one for
// each object; elsewhere as plain lines for what has changed, once in a while.
type progress struct {
	w     io.Writer
	live  bool
	start time.Time

	mu    sync.Mutex
	order []string
	why   map[string]string
	told  map[string]string // in plain lines, so far
	lines int               // on the terminal now
	stop  chan struct{}
	ended sync.WaitGroup
}

const (
	// redraw is how often live lines are drawn anew, and retell how often plain
	// ones are added.
	redraw = 150 * time.Millisecond
	retell = time.Second
	// patience is how long a wait may take before anything is shown.
	patience = 300 * time.Millisecond
	// maxLive is the most live lines.
	maxLive = 10
)

// newProgress begins to show. The caller closes it.
func newProgress(w io.Writer) *progress {
	p := &progress{w: w, live: isTerminal(w) && os.Getenv("TERM") != "dumb", start: time.Now(), why: map[string]string{}, told: map[string]string{}, stop: make(chan struct{})}
	if p.live {
		p.ended.Go(p.draw)
	} else {
		p.ended.Go(p.tell)
	}
	return p
}

// set says why an object is still waited for.
func (p *progress) set(ref, why string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, known := p.why[ref]; !known {
		p.order = append(p.order, ref)
	}
	p.why[ref] = why
}

// done says that an object is not waited for any more.
func (p *progress) done(ref string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.why, ref)
	p.order = slices.DeleteFunc(p.order, func(r string) bool { return r == ref })
}

// above prints something that is to stay, without the live lines in its way.
func (p *progress) above(print func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprint(p.w, p.erase())
	print()
}

// close removes the live lines.
func (p *progress) close() {
	close(p.stop)
	p.ended.Wait()
}

// tell prints plain lines.
func (p *progress) tell() {
	tick := time.NewTicker(retell)
	defer tick.Stop()
	for {
		select {
		case <-p.stop:
			return
		case <-tick.C:
		}
		p.mu.Lock()
		for _, ref := range p.order {
			if why := p.why[ref]; why != "" && why != p.told[ref] {
				p.told[ref] = why
				fmt.Fprintf(p.w, "%s: %s\n", ref, printable(why))
			}
		}
		p.mu.Unlock()
	}
}

// draw draws live lines.
func (p *progress) draw() {
	tick := time.NewTicker(redraw)
	defer tick.Stop()
	for frame := 0; ; frame++ {
		select {
		case <-p.stop:
			p.mu.Lock()
			fmt.Fprint(p.w, p.erase())
			p.mu.Unlock()
			return
		case <-tick.C:
		}
		if time.Since(p.start) < patience {
			continue
		}
		p.mu.Lock()
		width, height := size(p.w)
		text := p.frame(frame, width, height)
		erase := p.erase()
		p.lines = strings.Count(text, "\n")
		fmt.Fprint(p.w, erase+text) // at once, so that nothing flickers
		p.mu.Unlock()
	}
}

// erase takes the live lines away.
func (p *progress) erase() string {
	if p.lines == 0 {
		return ""
	}
	n := p.lines
	p.lines = 0
	return fmt.Sprintf("\x1b[%dA\r\x1b[J", n)
}

// size is how many characters and lines a terminal shows.
func size(w io.Writer) (width, height int) {
	if f, ok := w.(*os.File); ok {
		if width, height, err := term.GetSize(int(f.Fd())); err == nil && width > 0 && height > 0 {
			return width, height
		}
	}
	return 80, 24
}

// frame is what a terminal of that size shows now. It leaves the last column
// and the last line free, where the terminal would begin a new line by itself.
func (p *progress) frame(n, width, height int) string {
	spinner := []rune("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏")
	var b strings.Builder
	most := max(1, min(maxLive, height-2))
	for i, ref := range p.order {
		if i == most {
			b.WriteString(shorten(fmt.Sprintf("  … and %d more", len(p.order)-i), width-1) + "\n")
			break
		}
		line := fmt.Sprintf("%c %s  %s", spinner[n%len(spinner)], ref, time.Since(p.start).Round(time.Second))
		if why := printable(p.why[ref]); why != "" {
			line += "  " + why
		}
		b.WriteString(shorten(line, width-1) + "\n")
	}
	return b.String()
}

// shorten cuts a line to a number of characters.
func shorten(line string, most int) string {
	runes := []rune(line)
	switch {
	case len(runes) <= most:
		return line
	case most < 1:
		return ""
	}
	return string(runes[:most-1]) + "…"
}

// printable takes what could steer a terminal out of a text.
func printable(text string) string {
	return strings.Map(func(c rune) rune {
		if steers(c) {
			return ' '
		}
		return c
	}, text)
}

// steers tells whether a terminal does something else with a character than show
// it. Those that turn the direction of writing make a text look like another one.
func steers(c rune) bool {
	return unicode.IsControl(c) || unicode.In(c, unicode.Bidi_Control, unicode.Zl, unicode.Zp)
}
