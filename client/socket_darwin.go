package client

import (
	"os"
	"path/filepath"
)

// SystemSocket is where a daemon that runs as a system service listens.
const SystemSocket = "/var/run/sandboxd/sandboxd.sock"

// userDir is where users' daemons have a folder for their socket.
func userDir() string { return filepath.Join(os.Getenv("HOME"), "Library", "Application Support") }
