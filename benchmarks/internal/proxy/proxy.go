// Package proxy stands between a client and a TCP server: it delays what they say to each other by a fixed time, delays
// connecting, and counts connections.
package proxy

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Proxy is a proxy that is running.
type Proxy struct {
	listener net.Listener
	target   string
	options  Options
	accepted atomic.Int64
	ctx      context.Context
	cancel   context.CancelFunc
	running  sync.WaitGroup
}

// Options are the delays.
type Options struct {
	// Delay is added to everything on its way, in both directions, as distance does: what is sent in quick succession
	// arrives in quick succession. 0 adds none.
	Delay time.Duration
	// Connect is how long a new connection gets no answer. 0 adds none.
	Connect time.Duration
}

// Start starts a proxy in front of the server at target, on a free port of the loopback interface.
func Start(target string, o Options) (*Proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &Proxy{listener: l, target: target, options: o}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.running.Go(p.accept) // ends with Close, which closes the listener
	return p, nil
}

// Addr is where the proxy listens.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Accepted is how many connections were opened to the proxy since its start.
func (p *Proxy) Accepted() int { return int(p.accepted.Load()) }

// Close ends the proxy with all of its connections.
func (p *Proxy) Close() error {
	p.cancel()
	err := p.listener.Close()
	p.running.Wait()
	return err
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			time.Sleep(time.Millisecond) // out of descriptors, say: a loop that does not wait would not help
			continue
		}
		p.accepted.Add(1)
		p.running.Go(func() { p.serve(client) }) // ends with either side's connection, or with Close
	}
}

func (p *Proxy) serve(client net.Conn) {
	defer client.Close()
	if p.options.Connect > 0 {
		select {
		case <-time.After(p.options.Connect):
		case <-p.ctx.Done():
			return
		}
	}
	var d net.Dialer
	server, err := d.DialContext(p.ctx, "tcp", p.target)
	if err != nil {
		return // the client sees its connection closed
	}
	defer server.Close()
	stop := context.AfterFunc(p.ctx, func() { client.Close(); server.Close() })
	defer stop()
	var both sync.WaitGroup
	both.Go(func() { p.carry(server, client) })
	both.Go(func() { p.carry(client, server) })
	both.Wait()
}

// chunk is what was read at once, and when it is due on the other side.
type chunk struct {
	data []byte
	due  time.Time
}

// inFlight is how many chunks may be on their way in one direction; more would wait to be read.
const inFlight = 256

// carry takes what from sends to the other side until either of them ends.
func (p *Proxy) carry(to, from net.Conn) {
	if p.options.Delay == 0 {
		buf := make([]byte, 32<<10)
		for {
			n, err := from.Read(buf)
			if n > 0 {
				if _, err := to.Write(buf[:n]); err != nil {
					from.Close()
					return
				}
			}
			if err != nil {
				closeWrite(to)
				return
			}
		}
	}
	chunks := make(chan chunk, inFlight)
	var writer sync.WaitGroup
	writer.Go(func() {
		for c := range chunks {
			time.Sleep(time.Until(c.due))
			if _, err := to.Write(c.data); err != nil {
				from.Close()
				for range chunks {
					// The reader may be waiting to send; it ends with from.
				}
				return
			}
		}
		closeWrite(to)
	})
	for {
		buf := make([]byte, 32<<10)
		n, err := from.Read(buf)
		if n > 0 {
			chunks <- chunk{buf[:n], time.Now().Add(p.options.Delay)}
		}
		if err != nil {
			break
		}
	}
	close(chunks)
	writer.Wait()
}

// closeWrite passes on that one side has nothing more to say; it may still be listening.
func closeWrite(c net.Conn) {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite() // fails if the connection has ended altogether, which is as good
	}
}
