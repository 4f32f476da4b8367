package config

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
)

// Host is what the configuration depends on.
type Host struct {
	// System is the operating system, as runtime.GOOS has it.
	System string
	// Root: the process runs as root.
	Root bool
	// UID of the process's user.
	UID int
	// Getenv looks up environment variables, as os.LookupEnv does.
	Getenv func(string) (string, bool)
	// ReadFile reads a file, as os.ReadFile does.
	ReadFile func(string) ([]byte, error)
}

// ThisHost is the host that the process runs on.
func ThisHost() Host {
	return Host{System: runtime.GOOS, Root: os.Geteuid() == 0, UID: os.Getuid(), Getenv: os.LookupEnv, ReadFile: os.ReadFile}
}

func (h Host) env(name string) string {
	v, _ := h.Getenv(name)
	return v
}

func (h Host) macOS() bool { return h.System == "darwin" }

// systemData is the data folder of a daemon that runs as root.
func (h Host) systemData() string {
	if h.macOS() {
		return "/Library/Application Support/sandboxd"
	}
	return "/var/lib/sandboxd"
}

// systemSocket is where a daemon that runs as root listens.
func (h Host) systemSocket() string {
	if h.macOS() {
		return "/var/run/sandboxd/sandboxd.sock"
	}
	return "/run/sandboxd/sandboxd.sock"
}

// dataHome is the user's data folder (XDG base directory specification), or what
// macOS has for it.
func (h Host) dataHome() string {
	if dir := h.env("XDG_DATA_HOME"); filepath.IsAbs(dir) {
		return dir
	}
	if h.macOS() {
		return filepath.Join(h.env("HOME"), "Library", "Application Support")
	}
	return filepath.Join(h.env("HOME"), ".local", "share")
}

// userSocket is where a daemon that runs as an ordinary user listens.
func (h Host) userSocket() string {
	dir := h.env("XDG_RUNTIME_DIR")
	switch {
	case filepath.IsAbs(dir):
	case h.macOS():
		dir = filepath.Join(h.env("HOME"), "Library", "Application Support")
	default:
		dir = fmt.Sprintf("/run/user/%d", h.UID)
	}
	return filepath.Join(dir, "sandboxd", "sandboxd.sock")
}

// maxSocket is what the path in a sockaddr_un holds, its end excepted, less what
// the temporary name takes under which a socket is prepared.
func (h Host) maxSocket() int {
	const temporary = 13
	if h.macOS() {
		return 103 - temporary
	}
	return 107 - temporary
}
