package client

import (
	"os"
	"path/filepath"
	"strconv"
)

// SystemSocket is where a daemon that runs as a system service listens.
const SystemSocket = "/run/sandboxd/sandboxd.sock"

// userDir is where users' daemons have a folder for their socket.
func userDir() string { return filepath.Join("/run/user", strconv.Itoa(os.Getuid())) }
