package apiserver

import (
	"errors"

	"golang.org/x/sys/unix"
)

// peerUID is the user of the process that connected to a unix socket.
func peerUID(fd int) (uint32, error) {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return 0, err
	}
	if cred == nil {
		return 0, errors.New("the kernel tells no peer")
	}
	return cred.Uid, nil
}
