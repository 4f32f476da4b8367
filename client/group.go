package client

import (
	"fmt"
	"os"
	"os/user"
	"runtime"
	"strconv"
	"syscall"
)

// permissionAdvice says how to get access to a socket.
func permissionAdvice(socket string) string {
	const otherwise = "ask its owner for access, or run the command as root"
	if runtime.GOOS != "linux" { // usermod is Linux's
		return otherwise
	}
	info, err := os.Stat(socket)
	if err != nil {
		return otherwise
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || info.Mode()&0o020 == 0 || st.Gid == 0 {
		return otherwise
	}
	gid := strconv.FormatUint(uint64(st.Gid), 10)
	group, err := user.LookupGroupId(gid)
	if err != nil {
		return otherwise
	}
	name := "YOU"
	if me, err := user.Current(); err == nil {
		name = me.Username
	}
	return fmt.Sprintf("join the group %s (sudo usermod -aG %s %s, then log in again)", group.Name, group.Name, name)
}
