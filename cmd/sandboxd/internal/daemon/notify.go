package daemon

import (
	"net"
	"os"
	"strings"
)

// Notifier tells the service manager that started this process of its state
// (the protocol of sd_notify). Without one it does nothing.
func Notifier() func(state string) {
	address := os.Getenv("NOTIFY_SOCKET")
	if address == "" {
		return func(string) {}
	}
	if strings.HasPrefix(address, "@") { // an abstract socket
		address = "\x00" + address[1:]
	}
	return func(state string) {
		conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: address, Net: "unixgram"})
		if err != nil {
			return // nobody listens any more
		}
		defer func() { _ = conn.Close() }()
		_, _ = conn.Write([]byte(state))
	}
}
