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
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-lifeguard/lifeguard/internal/localserver"
)

// Direction says which bytes a fault is about.
type Direction int

// The directions; Both is the two of them.
const (
	ToServer Direction = 1 << iota
	ToClient
	Both = ToServer | ToClient
)

// indexes gives the places of d's directions in arrays of two.
func (d Direction) indexes() []int {
	switch d {
	case ToServer:
		return []int{0}
	case ToClient:
		return []int{1}
	case Both:
		return []int{0, 1}
	default:
		panic(fmt.Sprintf("faultproxy: direction %d is neither ToServer nor ToClient nor Both", d))
	}
}

// Shape is the quality of a line in one direction. The zero Shape is a perfect one.
type Shape struct {
	// Delay is how long a byte is under way. It delays, it does not throttle: up to 64 MiB can be under way at once
	// on each connection.
	Delay time.Duration
	// Jitter is the most by which a byte is later than Delay, evenly distributed. Bytes keep their order.
	Jitter time.Duration
	// BytesPerSecond is what each connection can send, 0 for no limit.
	BytesPerSecond int
}

// Ending is how a connection is cut.
type Ending int

const (
	// FIN ends the connection in good order, as a server does that stops: the client reads what has arrived, and then
	// the end.
	FIN Ending = iota
	// RST resets it on both sides, as a firewall or a crashed machine does.
	RST
)

// Admission is what becomes of new connections.
type Admission int

const (
	// Forward connects them to the server. If the server refuses, the client's connection is reset.
	Forward Admission = iota
	// Refuse makes dialling fail at once, as if nobody listened.
	Refuse
	// Unreachable makes dialling hang until the client gives up, or until another admission is set and the client's
	// system tries again, which it does after one second, three, and seven. On systems other than Linux it is Silent.
	Unreachable
	// Silent accepts them and never sends anything.
	Silent
	// Garbage accepts them and answers the first bytes with something that no PostgreSQL would send.
	Garbage
)

// Counts is what a proxy has seen. The client is connected as long as it has not closed its end, whatever became of the
// other end.
type Counts struct {
	Accepted      int   // connections accepted
	Sessions      int   // clients connected now that have begun a PostgreSQL session, requests to cancel not among them
	MostSessions  int   // most Sessions at the same time
	Dialing       int   // of Sessions, those to whom the server has not said yet that it is ready
	MostDialing   int   // most Dialing at the same time
	Cancels       int   // connections that asked the server to cancel a query
	BytesToServer int64 // delivered
	BytesToClient int64 // delivered
}

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

// client is what is remembered of a client after its connection has ended.
type client struct{ left bool }

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

// SetShape changes the line in direction d, for connections that are open and for those to come. Bytes under way arrive
// as they would have.
func (p *Proxy) SetShape(d Direction, s Shape) {
	if s.Delay < 0 || s.Jitter < 0 || s.BytesPerSecond < 0 {
		panic(fmt.Sprintf("faultproxy: no part of a shape can be negative: %+v", s))
	}
	for _, i := range d.indexes() {
		p.shapes[i].Store(&s)
	}
}

// Cut ends all connections that are open.
func (p *Proxy) Cut(how Ending) { p.each(func(l *link) { l.cut(how) }) }

// CutAfter ends each of the connections that are open as soon as n more bytes have been delivered on it in direction d,
// ToServer or ToClient: in the middle of a message as a rule. A further call replaces what an earlier one asked for.
func (p *Proxy) CutAfter(d Direction, n int, how Ending) {
	for _, i := range d.indexes() {
		p.each(func(l *link) { l.pumps[i].fuse.Store(&fuse{left: n, how: how}) })
	}
}

// Garble puts garbage in the place of the next thing that the server says on each of the open connections; in a session, of
// the next message. After it comes either the end of the connection or nothing.
func (p *Proxy) Garble() { p.each(func(l *link) { l.garbled.Store(true) }) }

// Lose makes all bytes in direction d vanish on the connections that are open, also the end of the connection, so that
// neither side hears of what the other does. Such a connection is lost for good: TCP delivers nothing after a gap, and
// who waits for an answer has to find out by itself.
func (p *Proxy) Lose(d Direction) {
	d.indexes() // panics though there may be no connection
	p.mu.Lock()
	p.dark = true
	p.mu.Unlock()
	p.each(func(l *link) { l.lose(d) })
}

// LoseNew is Lose for connections to come, until Heal.
func (p *Proxy) LoseNew(d Direction) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dark = true
	for _, i := range d.indexes() {
		p.loseNew[i] = true
	}
}

// Heal ends all faults, also those that were asked for and have not happened yet. Connections on which bytes were lost
// stay dead for their clients; the server hears of the end of those whose clients have left.
func (p *Proxy) Heal() error {
	p.SetShape(Both, Shape{})
	p.mu.Lock()
	p.dark = false
	p.loseNew = [2]bool{}
	p.mu.Unlock()
	p.each(func(l *link) {
		l.garbled.Store(false)
		for _, pump := range l.pumps {
			pump.fuse.Store(nil)
		}
		if l.lost() && p.hasLeft(l) {
			l.reset()
		}
	})
	return p.Admit(Forward)
}

// each calls f for the open connections, without the lock.
func (p *Proxy) each(f func(*link)) {
	p.mu.Lock()
	all := make([]*link, 0, len(p.links))
	for l := range p.links {
		all = append(all, l)
	}
	p.mu.Unlock()
	for _, l := range all {
		f(l)
	}
}

// Counts returns what the proxy has seen so far.
func (p *Proxy) Counts() Counts {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.noticeHangupsLocked()
	c := p.counts
	c.BytesToServer, c.BytesToClient = p.bytes[0].Load(), p.bytes[1].Load()
	return c
}

// ClientLeft says whether the client whose session the server sees coming from that port has closed its end. The server
// may not know it: the news is delayed, or lost.
func (p *Proxy) ClientLeft(port int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.noticeHangupsLocked()
	c, known := p.ports[port]
	return known && c.left
}

var errClosed = errors.New("faultproxy: the proxy is closed")

// Admit sets what becomes of new connections. The error is that of taking the port again after Refuse.
func (p *Proxy) Admit(a Admission) error {
	p.switching.Lock()
	defer p.switching.Unlock()
	p.mu.Lock()
	before, closed := p.admission, p.closed
	p.mu.Unlock()
	if closed {
		return errClosed
	}
	if a != before {
		switch before {
		case Refuse:
			if err := p.listen(relistenAttempts); err != nil {
				return err
			}
		case Unreachable:
			if err := p.reachable(); err != nil {
				return err
			}
		}
	}
	p.mu.Lock()
	p.admission = a
	p.mu.Unlock()
	if a != before {
		switch a {
		case Refuse:
			return p.deafen()
		case Unreachable:
			return p.unreachable()
		}
	}
	return nil
}

// relistenAttempts is how often the port is asked for that was given back: another process may have it for a moment.
const relistenAttempts = 50

func (p *Proxy) listen(attempts int) error {
	for {
		l, err := net.ListenTCP("tcp4", p.addr)
		if err == nil {
			p.listener = l
			p.resume()
			return nil
		}
		if attempts--; attempts == 0 {
			return err
		}
		sleepUntil(time.Now().Add(20*time.Millisecond), p.ctx.Done())
	}
}

// resume starts the goroutine that accepts. It ends with the listener, or when pause asks it to.
func (p *Proxy) resume() {
	ended := make(chan struct{})
	p.accepting = ended
	l := p.listener
	go func() {
		defer close(ended)
		for {
			c, err := l.AcceptTCP()
			if err != nil {
				return
			}
			p.admit(c)
		}
	}()
}

// pause stops accepting, and leaves the port open.
func (p *Proxy) pause() error {
	err := p.listener.SetDeadline(time.Unix(1, 0))
	<-p.accepting
	return errors.Join(err, p.listener.SetDeadline(time.Time{}))
}

// deafen gives the port back.
func (p *Proxy) deafen() error {
	err := p.listener.Close()
	<-p.accepting
	p.listener = nil
	return err
}

func (p *Proxy) unreachable() error {
	if !canFillBacklog {
		return nil // links are silent instead
	}
	if err := p.pause(); err != nil {
		return err
	}
	var err error
	p.backlog, err = fillBacklog(p.listener, func(filler net.Addr) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.fillers[filler.String()] = true
	})
	return err
}

func (p *Proxy) reachable() error {
	if !canFillBacklog {
		return nil
	}
	err := p.backlog.drain(p.listener)
	p.backlog = nil
	p.resume()
	return err
}

// admit takes a new connection in.
func (p *Proxy) admit(c *net.TCPConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	from := c.RemoteAddr().String()
	if p.closed || p.fillers[from] {
		delete(p.fillers, from)
		c.Close()
		return
	}
	p.counts.Accepted++
	l := newLink(p, c, p.admission)
	for i, lose := range p.loseNew {
		l.pumps[i].lost.Store(lose)
	}
	p.links[l] = struct{}{}
	p.running.Go(l.run) // ends with the connection, or with Close
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

// connected notes the port through which a client reaches the server.
func (p *Proxy) connected(l *link, port int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ports[port] = l.record
}

// began notes that a client has begun a session, or asked to cancel a query.
func (p *Proxy) began(l *link, cancel bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if cancel {
		p.counts.Cancels++
		return
	}
	if l.session || l.record.left {
		return
	}
	p.noticeHangupsLocked()
	l.session = true
	p.counts.Sessions++
	p.counts.MostSessions = max(p.counts.MostSessions, p.counts.Sessions)
	if l.ready {
		return // by a server that did not wait for the whole of the message
	}
	p.counts.Dialing++
	p.counts.MostDialing = max(p.counts.MostDialing, p.counts.Dialing)
}

// ready notes that a session can be used.
func (p *Proxy) ready(l *link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l.session && !l.ready && !l.record.left {
		p.counts.Dialing--
	}
	l.ready = true
}

// left notes that a client has closed its end, or that it was closed for it.
func (p *Proxy) left(l *link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.leftLocked(l)
}

func (p *Proxy) leftLocked(l *link) {
	if l.record.left {
		return
	}
	l.record.left = true
	if l.session {
		p.counts.Sessions--
		if !l.ready {
			p.counts.Dialing--
		}
	}
}

func (p *Proxy) hasLeft(l *link) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return l.record.left
}

func (p *Proxy) isDark() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dark
}

// noticeHangupsLocked looks for clients who have closed their end without the proxy having read that far: one session
// that is replaced by another must not count as two.
func (p *Proxy) noticeHangupsLocked() {
	for l := range p.links {
		if !l.record.left && l.session && hungUp(l.client) {
			p.leftLocked(l)
		}
	}
}

// ended forgets a connection.
func (p *Proxy) ended(l *link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.leftLocked(l)
	delete(p.links, l)
}
