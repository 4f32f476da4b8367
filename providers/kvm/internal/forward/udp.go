package forward

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"
)

// maxDatagram is the largest payload of a UDP datagram over IPv4, in bytes.
const maxDatagram = 65507

// udpPort serves one UDP port. Each client gets a socket of its own towards
// the guest, so that answers find their way back.
type udpPort struct {
	socket *net.UDPConn
	dest   func() (string, bool)
	used   func() (end func())
	work   sync.WaitGroup
	conns  connections

	mu      sync.Mutex
	clients map[netip.AddrPort]net.Conn
}

func listenUDP(at string, dest func() (string, bool), used func() (end func())) (*udpPort, error) {
	addr, err := net.ResolveUDPAddr("udp", at)
	if err != nil {
		return nil, err
	}
	s, err := net.ListenUDP("udp", addr)
	if err != nil {
		return nil, err
	}
	p := &udpPort{socket: s, dest: dest, used: used, clients: map[netip.AddrPort]net.Conn{}}
	p.work.Go(p.read)
	return p, nil
}

func (p *udpPort) Addr() net.Addr { return p.socket.LocalAddr() }

func (p *udpPort) Close() {
	_ = p.socket.Close()
	p.conns.close()
	p.work.Wait()
}

// read passes datagrams from clients to the guest. What cannot be passed on is
// dropped, as a network does.
func (p *udpPort) read() {
	buf := make([]byte, maxDatagram)
	for {
		n, client, err := p.socket.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // of the moment, such as a lack of memory
			time.Sleep(acceptPause)
			continue
		}
		if guest := p.association(client); guest != nil {
			_ = guest.SetReadDeadline(time.Now().Add(udpIdle))
			_, _ = guest.Write(buf[:n])
		}
	}
}

// association returns the client's socket towards the guest, made if need be.
func (p *udpPort) association(client netip.AddrPort) net.Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	if guest := p.clients[client]; guest != nil {
		return guest
	}
	to, ok := p.dest()
	if !ok || len(p.clients) >= maxConnections {
		return nil
	}
	guest, err := net.Dial("udp", to)
	if err != nil || !p.conns.add(guest) {
		return nil
	}
	p.clients[client] = guest
	p.work.Go(func() { p.answer(client, guest) })
	return guest
}

// answer passes datagrams from the guest back, until nobody has used the
// association for a while.
func (p *udpPort) answer(client netip.AddrPort, guest net.Conn) {
	defer p.conns.end(guest)
	defer p.used()()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.clients, client)
	}()
	_ = guest.SetReadDeadline(time.Now().Add(udpIdle))
	buf := make([]byte, maxDatagram)
	for {
		n, err := guest.Read(buf)
		if err != nil {
			return
		}
		_ = guest.SetReadDeadline(time.Now().Add(udpIdle))
		if _, err := p.socket.WriteToUDPAddrPort(buf[:n], client); err != nil {
			return
		}
	}
}
