package fetch

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"

	"sandboxd.dev/sandboxd/providers/internal/files"
)

// state says of which version of which file a part was received.
type state struct {
	URL          string `json:"url"`
	ETag         string `json:"etag,omitempty"`
	LastModified string `json:"lastModified,omitempty"`
	// Size of the whole file; 0 when the server does not say.
	Size int64 `json:"size,omitempty"`
	// Synced is how many bytes are known to be on disk. A file may be longer after a
	// power failure, and what lies beyond may be zeros that nobody sent.
	Synced int64 `json:"synced,omitempty"`
}

// validator is what a server can be asked with whether a part is of the version
// that it has now (RFC 9110, 13.1.5: a weak ETag is none).
func (s state) validator() string {
	switch {
	case s.ETag != "" && !strings.HasPrefix(s.ETag, "W/"):
		return s.ETag
	case s.ETag == "":
		return s.LastModified
	}
	return ""
}

func statePath(dir string) string { return filepath.Join(dir, "state") }

// maxState bounds what is read of a state, in bytes.
const maxState = 64 << 10

// readState is empty when there is none that can be read.
func readState(dir string) state {
	f, err := os.Open(statePath(dir))
	if err != nil {
		return state{}
	}
	defer func() { _ = f.Close() }()
	var s state
	if err := json.NewDecoder(io.LimitReader(f, maxState)).Decode(&s); err != nil {
		return state{}
	}
	return s
}

func (s state) write(dir string) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return files.Write(statePath(dir), b, 0o600)
}

// Resumable tells whether a folder holds something that a Get can go on from.
func Resumable(dir string) bool {
	return readState(dir).URL != "" && files.Exists(filepath.Join(dir, "file"))
}
