package proxy

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"testing"
	"time"
)

// echo is a server that sends back what it is sent.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() { // ends with the listener
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { // ends with the client
				defer c.Close()
				io.Copy(c, c)
			}()
		}
	}()
	return l.Addr().String()
}

func start(t *testing.T, o Options) *Proxy {
	t.Helper()
	p, err := Start(echo(t), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func dial(t *testing.T, p *Proxy) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn)
}

func TestCarriesEverythingInOrder(t *testing.T) {
	for name, o := range map[string]Options{"at once": {}, "delayed": {Delay: 2 * time.Millisecond}} {
		t.Run(name, func(t *testing.T) {
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			rng := rand.New(rand.NewPCG(seed, 0))
			sent := make([]byte, 1<<20)
			for i := range sent {
				sent[i] = byte(rng.Uint32())
			}
			c := dial(t, start(t, o))
			go func() {
				c.Write(sent)
				c.CloseWrite()
			}()
			got, err := io.ReadAll(c)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, sent) {
				t.Errorf("%d bytes came back, which are not the %d that were sent", len(got), len(sent))
			}
		})
	}
}

func TestDelaysBothDirections(t *testing.T) {
	const delay = 20 * time.Millisecond
	c := dial(t, start(t, Options{Delay: delay}))
	began := time.Now()
	if _, err := c.Write([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < 2*delay {
		t.Errorf("there and back took %v, want at least %v", took, 2*delay)
	}
}

func TestDelaysConnectingAndCounts(t *testing.T) {
	const wait = 50 * time.Millisecond
	p := start(t, Options{Connect: wait})
	for i := range 3 {
		began := time.Now()
		c := dial(t, p)
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took < wait {
			t.Errorf("the first answer came after %v, want at least %v", took, wait)
		}
		if n := p.Accepted(); n != i+1 {
			t.Errorf("%d connections counted, want %d", n, i+1)
		}
	}
}

func TestCloseEndsConnections(t *testing.T) {
	for name, o := range map[string]Options{
		"at once": {}, "delayed": {Delay: time.Millisecond}, "connecting": {Connect: time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			p := start(t, o)
			c := dial(t, p)
			if o.Connect == 0 {
				if _, err := c.Write([]byte("x")); err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
					t.Fatal(err)
				}
			}
			if err := p.Close(); err != nil {
				t.Error(err)
			}
			if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("reading after Close: %v, want the end of the connection", err)
			}
		})
	}
}
