package faultproxy

import (
	"errors"
	"net"
	"time"
)

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
