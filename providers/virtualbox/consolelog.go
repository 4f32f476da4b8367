package virtualbox

import (
	"errors"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers/internal/consolelog"
)

// VirtualBox begins the file of a serial port anew whenever it opens it: at each start
// of the machine and each time nobody types any more. So what is there is put aside
// before:
//
//	console.log  ──keepConsole──▶ console.log.0 ──the next one──▶ end of console.log.1
//
// and a log is read from console.log.1 on. Of each file only the latest output is kept.

const (
	// consoleKeeps is how much of a console's log is kept, and consoleTrims how
	// much more makes it be trimmed, in bytes.
	consoleKeeps = 4 << 20
	consoleTrims = 4 << 20
)

// consoleParts are the files of a console's log, oldest first.
func consoleParts(path string) []string { return []string{path + ".1", path + ".0", path} }

// keepConsole puts the log of a console aside that VirtualBox does not write to. It
// may be repeated.
func keepConsole(path string) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Size() == 0:
		return os.Remove(path)
	}
	before, oldest := path+".0", path+".1"
	if err := appendData(oldest, before); err != nil {
		return err
	}
	if err := os.Rename(path, before); err != nil {
		return err
	}
	if err := trimConsole(oldest); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// appendData appends what a file has, but for a hole at its beginning, to another.
func appendData(to, from string) error {
	in, err := os.Open(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	begin, _, err := consolelog.Extent(in)
	if err != nil {
		return err
	}
	if _, err := in.Seek(begin, io.SeekStart); err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_APPEND|os.O_CREATE, consoleMode)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// gap is what the log says where output may be missing.
const gap = "\r\n[sandboxd was ended while somebody typed here: what was shown until it was back is missing]\r\n"

// noteGap writes so to the end of what was kept of a log.
func noteGap(log string) error {
	f, err := os.OpenFile(consoleParts(log)[1], os.O_WRONLY|os.O_APPEND|os.O_CREATE, consoleMode)
	if err != nil {
		return err
	}
	_, err = io.WriteString(f, gap)
	return errors.Join(err, f.Close())
}

// consoleMode is VirtualBox's for the files of serial ports.
const consoleMode = 0o600

// trimConsoles frees the space of old console output, so that a guest cannot fill
// the host's disk with it. VirtualBox writes on where it was, so the log becomes
// a file with a hole at its beginning.
func (p *Provider) trimConsoles(on map[types.UID]bool) {
	for id := range on {
		for _, path := range consoleParts(p.data.console(id)) {
			if err := trimConsole(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				p.log.Info("a console's log cannot be trimmed", "machine", id, "error", err.Error())
			}
		}
	}
}

func trimConsole(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	if st.Blocks*512 < consoleKeeps+consoleTrims {
		return nil
	}
	const block = 1 << 16
	return punchHole(f, (st.Size-consoleKeeps)&^(block-1))
}
