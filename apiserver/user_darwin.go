package apiserver

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// xucredVersion is the only layout of struct xucred there is (XUCRED_VERSION in
// sys/ucred.h).
const xucredVersion = 0

// peerUID is the user of the process that connected to a unix socket.
func peerUID(fd int) (uint32, error) {
	cred, err := unix.GetsockoptXucred(fd, unix.SOL_LOCAL, unix.LOCAL_PEERCRED)
	if err != nil {
		return 0, err
	}
	if cred.Version != xucredVersion {
		return 0, fmt.Errorf("the kernel tells the peer in the unknown version %d", cred.Version)
	}
	return cred.Uid, nil
}
