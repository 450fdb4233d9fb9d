package faultproxy

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

// client is what is remembered of a client after its connection has ended.
type client struct{ left bool }

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
