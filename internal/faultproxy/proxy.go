// Package faultproxy is a TCP proxy on the loopback interface that behaves like a bad network between a client and a
// PostgreSQL server: slow, narrow, cut off, silent, or answering with garbage. Every fault can be switched while
// connections are open, from any goroutine.
//
// It understands enough of PostgreSQL's protocol to count sessions, the moments at which they become usable, and, for
// tests of round trips, the client's messages. It works for any other protocol on TCP as well, with those counts at
// zero. It sees nothing of what is said inside TLS.
//
// It does not decide when to do what: that, and the seed for it, is the test's business.
package faultproxy

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"

	"github.com/go-lifeguard/lifeguard/internal/localserver"
)

// Proxy forwards connections to one server. All its methods are safe for concurrent use.
type Proxy struct {
	server   string
	addr     *net.TCPAddr
	frontend atomic.Pointer[func(byte, []byte)]
	shapes   [2]atomic.Pointer[Shape] // toServer, toClient
	bytes    [2]atomic.Int64          // likewise
	ctx      context.Context          // ends with Close; for dials to the server
	stop     context.CancelFunc
	running  sync.WaitGroup // goroutines of links

	switching sync.Mutex // serialises Admit and Close; held while mu is taken, never the other way round
	listener  *net.TCPListener
	accepting chan struct{} // closed when the goroutine that accepts has ended
	backlog   *backlog      // while Unreachable

	mu        sync.Mutex // guards everything below
	closed    bool
	admission Admission
	loseNew   [2]bool
	dark      bool // Lose was called, and Heal has not been since
	links     map[*link]struct{}
	ports     map[int]*client // by the proxy's port towards the server, the latest client that came through it
	fillers   map[string]bool // addresses of connections that fill the backlog
	counts    Counts
}

// New starts a proxy for the server at a TCP address such as 127.0.0.1:5432, without any fault. Whoever started it calls
// Close.
func New(server string) (*Proxy, error) {
	if _, _, err := net.SplitHostPort(server); err != nil {
		return nil, fmt.Errorf("faultproxy: the server's address has to be host:port: %w", err)
	}
	p := &Proxy{server: server, links: map[*link]struct{}{}, ports: map[int]*client{}, fillers: map[string]bool{}}
	p.ctx, p.stop = context.WithCancel(context.Background())
	for i := range p.shapes {
		p.shapes[i].Store(&Shape{})
	}
	// Not port 0: while dials are refused the port is free, and an outgoing connection could get it.
	err := localserver.OnFreePort(func(port int) error {
		p.addr = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port}
		return p.listen(1)
	})
	if err != nil {
		p.stop()
		return nil, fmt.Errorf("faultproxy: %w", err)
	}
	return p, nil
}

// Addr returns the host:port that clients dial.
func (p *Proxy) Addr() string { return p.addr.String() }

// Port returns the port of Addr.
func (p *Proxy) Port() int { return p.addr.Port }

// SetFrontend has f called with each message of the clients as it comes in, before any delay, or no longer if f is nil.
// The type is PostgreSQL's, such as 'Q', 'P' or 'S', and 0 for those that begin a connection; the payload is what
// follows the length. f is called from one goroutine for each connection and must not keep the payload.
func (p *Proxy) SetFrontend(f func(messageType byte, payload []byte)) {
	if f == nil {
		p.frontend.Store(nil)
		return
	}
	p.frontend.Store(&f)
}

// Close ends all connections and returns when no goroutine of the proxy is left. Further calls do nothing.
func (p *Proxy) Close() error {
	p.switching.Lock()
	defer p.switching.Unlock()
	p.mu.Lock()
	was := p.closed
	p.closed = true
	p.mu.Unlock()
	if was {
		return nil
	}
	p.stop()
	var err error
	if p.backlog != nil {
		p.backlog.close()
		err = p.listener.Close()
	} else if p.listener != nil {
		err = p.deafen()
	}
	p.each((*link).reset)
	p.running.Wait()
	return err
}
