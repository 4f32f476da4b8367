package apiserver

import (
	"context"
	"net"
	"os/user"
	"strconv"
)

// The users of connections that carry no account.
var (
	// loopbackUser is the daemon itself, on the in-process connection.
	loopbackUser = User{Name: "system:sandboxd", Groups: []string{groupMasters, groupAuthenticated}}
	// anonymousUser is anybody whose connection tells nothing of him.
	anonymousUser = User{Name: "system:anonymous", Groups: []string{groupUnauthenticated}}
)

// contextKey is the type of the keys of this package in contexts.
type contextKey int

const (
	userKey contextKey = iota
	drainingKey
	impersonatorKey
	trailKey
	remoteKey // *visitor: the connection came through a door
)

// UserFrom tells who makes a request, given its context.
func UserFrom(ctx context.Context) User {
	if u, ok := ctx.Value(userKey).(User); ok {
		return u
	}
	return anonymousUser
}

// draining is closed when the server that got a request stops: streams end
// then.
func draining(ctx context.Context) <-chan struct{} {
	c, _ := ctx.Value(drainingKey).(<-chan struct{})
	return c
}

// peer tells who is at the other end of a connection. It is asked once for
// each connection.
func peer(c net.Conn) User {
	switch c := c.(type) {
	case *member:
		return peer(c.Conn)
	case *pipeConn:
		return loopbackUser
	case *net.UnixConn:
		if u, err := socketPeer(c); err == nil {
			return u
		}
	}
	return anonymousUser
}

// socketPeer reads the account of the process that connected to a unix socket,
// as the kernel recorded it. Whoever may connect may do everything.
func socketPeer(c *net.UnixConn) (User, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return User{}, err
	}
	var number uint32
	var credErr error
	if err := raw.Control(func(fd uintptr) { number, credErr = peerUID(int(fd)) }); err != nil {
		return User{}, err
	}
	if credErr != nil {
		return User{}, credErr
	}
	uid := strconv.FormatUint(uint64(number), 10)
	account, err := user.LookupId(uid)
	if err != nil {
		return User{Name: uid, Groups: loopbackUser.Groups}, nil // the host knows no name for it
	}
	return User{Name: account.Username, Groups: loopbackUser.Groups}, nil
}
