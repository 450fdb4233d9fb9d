package faultproxy

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	readSize = 32 << 10

	// maxUnderWay bounds what a connection has under way in one direction. 64 MiB is more than a gigabit per second at
	// half a second.
	maxUnderWay = 64 << 20

	// readsPerSecond is into how many parts of a second a limited rate is cut: each read takes at most what the line carries in
	// one of them.
	readsPerSecond = 50
)

// link is one connection of a client, and the one to the server that belongs to it.
type link struct {
	proxy     *Proxy
	admission Admission
	client    *net.TCPConn
	pumps     [2]*pump // to the server, to the client
	streams   streams
	garbled   atomic.Bool
	done      chan struct{} // closed by reset

	mu     sync.Mutex
	server *net.TCPConn // guarded by mu; nil unless Forward, and until it is connected
	over   bool         // guarded by mu; done is closed

	// Guarded by proxy.mu.
	session, ready bool
	record         *client
}

// pump carries the bytes of one direction: a reader that takes them in and a writer that delivers them, with those under
// way between the two.
type pump struct {
	link  *link
	index int // 0 to the server, 1 to the client
	from  *net.TCPConn
	to    *net.TCPConn
	lost  atomic.Bool // nothing is delivered any more
	fuse  atomic.Pointer[fuse]
	queue queue
}

// fuse is a cut that was asked for. Only the writer counts down.
type fuse struct {
	left int
	how  Ending
}

func newLink(p *Proxy, c *net.TCPConn, a Admission) *link {
	l := &link{proxy: p, admission: a, client: c, done: make(chan struct{}), record: new(client)}
	l.streams.link = l
	for i := range l.pumps {
		l.pumps[i] = &pump{link: l, index: i, queue: newQueue()}
	}
	return l
}

// run serves the client until both sides have ended.
func (l *link) run() {
	defer l.proxy.ended(l)
	defer l.client.Close()
	switch l.admission {
	case Forward:
		l.forward()
	case Garbage:
		l.discard(func() {
			l.client.Write(greeting())
			if rand.IntN(2) == 0 {
				// In the other cases a client that waits for more has to notice by itself that nothing comes.
				l.client.CloseWrite()
			}
		})
	default:
		l.discard(func() {})
	}
}

// discard reads what the client sends, for the counts, until it leaves. It calls first when something has come in.
func (l *link) discard(first func()) {
	buf := make([]byte, readSize)
	for heard := false; ; {
		n, err := l.client.Read(buf)
		l.streams.fromClient(buf[:n])
		if n > 0 && !heard {
			heard = true
			first()
		}
		if err != nil {
			return
		}
	}
}

func (l *link) forward() {
	var d net.Dialer
	c, err := d.DialContext(l.proxy.ctx, "tcp", l.proxy.server)
	if err != nil {
		l.reset()
		return
	}
	server := c.(*net.TCPConn)
	defer server.Close()
	l.mu.Lock()
	l.server = server
	over := l.over
	l.mu.Unlock()
	if over {
		return
	}
	l.proxy.connected(l, server.LocalAddr().(*net.TCPAddr).Port)
	l.pumps[0].from, l.pumps[0].to = l.client, server
	l.pumps[1].from, l.pumps[1].to = server, l.client
	var both sync.WaitGroup
	for _, p := range l.pumps {
		both.Go(p.read)
		both.Go(p.write)
	}
	both.Wait()
}

// reset ends the connection on both sides at once.
func (l *link) reset() {
	l.proxy.left(l)
	l.mu.Lock()
	if !l.over {
		l.over = true
		close(l.done)
	}
	server := l.server
	l.mu.Unlock()
	abort(l.client)
	if server != nil {
		abort(server)
	}
}

// abort closes c with a reset in place of an end.
func abort(c *net.TCPConn) {
	c.SetLinger(0)
	c.Close()
}

func (l *link) cut(how Ending) {
	if how == RST {
		l.reset()
		return
	}
	l.lose(Both)
	// Only the writing half: closing a socket on which something is left to read resets it.
	l.client.CloseWrite()
	l.mu.Lock()
	server := l.server
	l.mu.Unlock()
	if server != nil {
		server.Close()
	}
}

func (l *link) lose(d Direction) {
	for _, i := range d.indexes() {
		l.pumps[i].lost.Store(true)
	}
}

func (l *link) lost() bool { return l.pumps[0].lost.Load() || l.pumps[1].lost.Load() }

// read takes in what from sends until it ends.
func (p *pump) read() {
	l := p.link
	buf := make([]byte, readSize)
	var free, last time.Time // when the line is free again, and when what it carries last arrives
	for {
		size := len(buf)
		if rate := p.shape().BytesPerSecond; rate > 0 {
			size = min(max(rate/readsPerSecond, 1), size)
		}
		n, err := p.from.Read(buf[:size])
		now := time.Now()
		if n > 0 {
			if p.index == 0 {
				l.streams.fromClient(buf[:n])
			}
			shape := p.shape() // as it is now, not as it was before the wait
			free = later(free, now)
			if shape.BytesPerSecond > 0 {
				free = free.Add(time.Duration(n) * time.Second / time.Duration(shape.BytesPerSecond))
				if !sleepUntil(free, l.done) {
					return
				}
			}
			due := free.Add(shape.Delay)
			if shape.Jitter > 0 {
				due = due.Add(rand.N(shape.Jitter))
			}
			last = later(last, due)
			if !p.queue.push(packet{data: bytes.Clone(buf[:n]), due: last}, l.done) {
				return
			}
		}
		if err != nil {
			if p.index == 0 {
				l.proxy.left(l)
				if l.lost() && !l.proxy.isDark() {
					l.reset() // see Heal
				}
			}
			end := RST
			if errors.Is(err, io.EOF) {
				end = FIN
			}
			p.queue.push(packet{end: end, due: later(last, now.Add(p.shape().Delay))}, l.done)
			return
		}
	}
}

func (p *pump) shape() *Shape { return p.link.proxy.shapes[p.index].Load() }

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// write delivers what is due until from has ended.
func (p *pump) write() {
	var c clock
	defer c.close()
	for {
		pk, ok := p.queue.pop(p.link.done)
		if !ok || !c.sleepUntil(pk.due, p.link.done) {
			return
		}
		switch {
		case pk.data != nil:
			p.deliver(pk.data)
		case p.lost.Load():
			return
		case pk.end == RST:
			p.link.reset()
			return
		default:
			p.to.CloseWrite()
			return
		}
	}
}

func (p *pump) deliver(data []byte) {
	l := p.link
	if p.lost.Load() {
		return
	}
	replaced := false
	if p.index == 1 && l.garbled.Load() {
		// What the client has a part of comes to its end first: a message whose last bytes are garbage is a forged answer,
		// and nothing in the protocol would tell it from a true one.
		end := l.streams.endOfMessage(data)
		replaced = end < len(data)
		data = data[:end]
	}
	f := p.fuse.Load()
	burnt := f != nil && len(data) >= f.left
	switch {
	case burnt:
		data = data[:f.left]
	case f != nil:
		f.left -= len(data)
	}
	n, err := p.to.Write(data)
	l.proxy.bytes[p.index].Add(int64(n))
	if p.index == 1 {
		l.streams.toClient(data[:n])
	}
	switch {
	case burnt:
		l.cut(f.how)
	case err != nil:
		p.lost.Store(true) // the other pump hears of it from the same socket
	case replaced:
		l.garbled.Store(false)
		l.client.Write(garbage())
		if rand.IntN(2) == 0 {
			l.cut(FIN)
		} else {
			l.lose(Both)
		}
	}
}
