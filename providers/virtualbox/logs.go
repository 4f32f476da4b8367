package virtualbox

import (
	"io"
	"maps"
	"os"
	"regexp"
	"sync"

	"k8s.io/apimachinery/pkg/types"
)

// logs follows the logs of machines that are on. What is in them only tells when
// to ask VirtualBox: a guest has a say in it.
type logs struct {
	mu sync.Mutex
	of map[types.UID]*machineLog
}

// machineLog is what was read of a machine's log.
type machineLog struct {
	path string
	file os.FileInfo // as it was read last
	// announced: the Guest Additions have said which they are.
	announced bool
}

func newLogs() *logs { return &logs{of: map[types.UID]*machineLog{}} }

// The words of VirtualBox 7.0 to 7.2.
var (
	stateChanged       = regexp.MustCompile(`(?m)^[0-9:.]+ Console: Machine state changed to '`)
	additionsAnnounced = regexp.MustCompile(`(?m)^[0-9:.]+ VMMDev: Guest Additions information report`)
)

// maxLogRead is how much of a log is read at once, in bytes: its end.
const maxLogRead = 256 << 10

// read reads what machines have logged since the last time. It tells whether one
// has changed its state, and those in which the Guest Additions may be up since.
func (l *logs) read(on map[types.UID]bool, path func(types.UID) string) (turned bool, spoke map[types.UID]bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	maps.DeleteFunc(l.of, func(id types.UID, _ *machineLog) bool { return !on[id] })
	spoke = map[types.UID]bool{}
	for id := range on {
		m, known := l.of[id]
		if !known {
			m = &machineLog{}
			l.of[id] = m
		}
		if m.path == "" {
			m.path = path(id)
		}
		news := m.read()
		// At first all that the machine has gone through is in it.
		turned = turned || known && stateChanged.Match(news)
		m.announced = m.announced || additionsAnnounced.Match(news)
		if m.announced && len(news) > 0 {
			spoke[id] = true
		}
	}
	return turned, spoke
}

// read returns what came to a log since the last time; nothing when it cannot be
// read.
func (m *machineLog) read() []byte {
	f, err := os.Open(m.path)
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil
	}
	var at int64
	if m.file != nil && os.SameFile(m.file, info) && m.file.Size() <= info.Size() {
		at = m.file.Size()
	} else { // another run's
		m.announced = false
	}
	m.file = info
	from := max(at, info.Size()-maxLogRead)
	news, err := io.ReadAll(io.NewSectionReader(f, from, info.Size()-from))
	if err != nil {
		return nil
	}
	return news
}
