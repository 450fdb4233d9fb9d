package faultproxy

import (
	"fmt"
	"time"
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

func (p *Proxy) isDark() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dark
}
