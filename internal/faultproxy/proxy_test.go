package faultproxy

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// far is a time that nothing here waits for unless it is broken.
const far = 20 * time.Second

// server accepts connections and serves each in a goroutine.
type server struct {
	net.Listener
	running sync.WaitGroup
	mu      sync.Mutex
	conns   []*net.TCPConn
}

func serve(t *testing.T, each func(*net.TCPConn)) *server {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	s := &server{Listener: l}
	s.running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns = append(s.conns, c.(*net.TCPConn))
			s.mu.Unlock()
			s.running.Go(func() {
				defer c.Close()
				each(c.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		s.mu.Lock()
		for _, c := range s.conns {
			c.Close()
		}
		s.mu.Unlock()
		s.running.Wait()
	})
	return s
}

func echo(c *net.TCPConn) { io.Copy(c, c) }

// start starts a proxy and closes it at the end of the test.
func start(t *testing.T, s *server) *Proxy {
	t.Helper()
	p, err := New(s.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, p.Close()) })
	return p
}

func dial(t *testing.T, p *Proxy) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", p.Addr())
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	require.NoError(t, c.SetDeadline(time.Now().Add(far)))
	return c.(*net.TCPConn)
}

// roundTrip sends text to an echoing server and reads it back.
func roundTrip(t *testing.T, c net.Conn, text string) {
	t.Helper()
	_, err := c.Write([]byte(text))
	require.NoError(t, err)
	got := make([]byte, len(text))
	_, err = io.ReadFull(c, got)
	require.NoError(t, err)
	require.Equal(t, text, string(got))
}

func connect(t *testing.T, p *Proxy) *net.TCPConn {
	t.Helper()
	c := dial(t, p)
	roundTrip(t, c, "hello")
	return c
}

// silent checks that nothing comes for a while, neither bytes nor the end.
func silent(t *testing.T, c net.Conn) {
	t.Helper()
	require.NoError(t, c.SetReadDeadline(time.Now().Add(100*time.Millisecond)))
	n, err := c.Read(make([]byte, 1))
	require.Zero(t, n)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.NoError(t, c.SetReadDeadline(time.Now().Add(far)))
}

func eventually(t *testing.T, ok func() bool, what string) {
	t.Helper()
	require.Eventually(t, ok, far, time.Millisecond, what)
}

func TestForwardsUnchanged(t *testing.T) {
	p := start(t, serve(t, echo))
	c := dial(t, p)
	sent := make([]byte, 3<<20)
	r := rand.NewChaCha8([32]byte{1})
	r.Read(sent)
	go func() {
		c.Write(sent)
		c.CloseWrite() // must come after the bytes, and let the other direction go on
	}()
	got, err := io.ReadAll(c)
	require.NoError(t, err)
	require.True(t, bytes.Equal(sent, got))
	counts := p.Counts()
	assert.Equal(t, int64(len(sent)), counts.BytesToServer)
	assert.Equal(t, int64(len(sent)), counts.BytesToClient)
	assert.Equal(t, 1, counts.Accepted)
	assert.Zero(t, counts.MostSessions, "this is not PostgreSQL's protocol")
}

func TestServerUnreachableResetsClient(t *testing.T) {
	s := serve(t, echo)
	p := start(t, s)
	require.NoError(t, s.Close())
	c, err := net.Dial("tcp", p.Addr())
	if err == nil { // else the reset was quicker
		defer c.Close()
		_, err = c.Read(make([]byte, 1))
	}
	require.ErrorIs(t, err, syscall.ECONNRESET)
}

// measure takes the durations of round trips through p, shortest first.
func measure(t *testing.T, p *Proxy, n int) []time.Duration {
	t.Helper()
	c := connect(t, p)
	took := make([]time.Duration, n)
	for i := range took {
		begin := time.Now()
		roundTrip(t, c, "x")
		took[i] = time.Since(begin)
	}
	slices.Sort(took)
	return took
}

func TestDelayIsExact(t *testing.T) {
	p := start(t, serve(t, echo))
	const n, rounds = 100, 5
	best := time.Duration(far)
	for range rounds { // the best counts: what a busy machine adds says nothing about the proxy
		p.SetShape(Both, Shape{})
		plain := measure(t, p, n)
		p.SetShape(Both, Shape{Delay: time.Millisecond})
		delayed := measure(t, p, n)
		assert.GreaterOrEqual(t, delayed[0], 2*time.Millisecond, "nothing arrives early")
		late := (delayed[n/2] - plain[n/2] - 2*time.Millisecond) / 2
		t.Logf("round trips: %v without delay, %v with one of 1ms each way (medians): %v late each way",
			plain[n/2], delayed[n/2], late)
		best = min(best, late)
	}
	if runtime.GOOS == "linux" && !raceEnabled {
		assert.LessOrEqual(t, best, 75*time.Microsecond)
	}
}

func TestDelayDoesNotThrottle(t *testing.T) {
	p := start(t, serve(t, func(c *net.TCPConn) {
		n, _ := io.Copy(io.Discard, c)
		binary.Write(c, binary.BigEndian, n)
	}))
	const size = 32 << 20
	send := func() time.Duration {
		c := dial(t, p)
		begin := time.Now()
		go func() {
			c.Write(make([]byte, size))
			c.CloseWrite()
		}()
		var n int64
		require.NoError(t, binary.Read(c, binary.BigEndian, &n))
		require.EqualValues(t, size, n)
		return time.Since(begin)
	}
	plain := send()
	p.SetShape(ToServer, Shape{Delay: 300 * time.Millisecond})
	delayed := send()
	t.Logf("%d MiB: %v without delay, %v with 300ms", size>>20, plain, delayed)
	assert.GreaterOrEqual(t, delayed, 300*time.Millisecond)
	// One window of a few hundred kilobytes at a time would take half a minute.
	assert.Less(t, delayed, 300*time.Millisecond+10*plain+time.Second)
}

func TestDelayIsOfOneDirection(t *testing.T) {
	arrived := make(chan time.Time, 1)
	p := start(t, serve(t, func(c *net.TCPConn) {
		c.Read(make([]byte, 1))
		arrived <- time.Now()
		c.Write([]byte("x"))
	}))
	p.SetShape(ToClient, Shape{Delay: 200 * time.Millisecond})
	c := dial(t, p)
	begin := time.Now()
	_, err := c.Write([]byte("x"))
	require.NoError(t, err)
	_, err = c.Read(make([]byte, 1))
	require.NoError(t, err)
	back := time.Now()
	assert.Less(t, (<-arrived).Sub(begin), 150*time.Millisecond)
	assert.GreaterOrEqual(t, back.Sub(begin), 200*time.Millisecond)
}

func TestJitterKeepsOrder(t *testing.T) {
	p := start(t, serve(t, echo))
	p.SetShape(Both, Shape{Delay: time.Millisecond, Jitter: 4 * time.Millisecond})
	c := dial(t, p)
	const n = 100
	go func() {
		for i := range n {
			c.Write([]byte{byte(i)})
			time.Sleep(100 * time.Microsecond) // so that the bytes travel one by one
		}
	}()
	for i := range n {
		var b [1]byte
		_, err := io.ReadFull(c, b[:])
		require.NoError(t, err)
		require.Equal(t, byte(i), b[0])
	}
	took := measure(t, p, 40)
	assert.GreaterOrEqual(t, took[0], 2*time.Millisecond)
	assert.Greater(t, took[len(took)-1]-took[0], 2*time.Millisecond, "it jitters")
}

func TestBandwidth(t *testing.T) {
	p := start(t, serve(t, echo))
	c := connect(t, p) // also connections that are open
	p.SetShape(ToClient, Shape{BytesPerSecond: 1000})
	begin := time.Now()
	roundTrip(t, c, string(make([]byte, 500)))
	took := time.Since(begin)
	assert.GreaterOrEqual(t, took, 480*time.Millisecond)
	assert.Less(t, took, 1500*time.Millisecond)
	p.SetShape(Both, Shape{})
	begin = time.Now()
	roundTrip(t, c, string(make([]byte, 5000)))
	assert.Less(t, time.Since(begin), time.Second)
}

func TestCut(t *testing.T) {
	ends := make(chan error, 2)
	p := start(t, serve(t, func(c *net.TCPConn) {
		_, err := io.Copy(c, c)
		ends <- err
	}))
	c := connect(t, p)
	p.Cut(FIN)
	_, err := c.Read(make([]byte, 1))
	assert.Equal(t, io.EOF, err)
	<-ends

	c = connect(t, p)
	p.Cut(RST)
	_, err = c.Read(make([]byte, 1))
	assert.ErrorIs(t, err, syscall.ECONNRESET)
	assert.ErrorIs(t, <-ends, syscall.ECONNRESET)
	connect(t, p)
}

func TestCutInTheMiddle(t *testing.T) {
	for how, want := range map[Ending]error{FIN: io.EOF, RST: syscall.ECONNRESET} {
		p := start(t, serve(t, echo))
		c := connect(t, p)
		p.CutAfter(ToClient, 7, how)
		later := connect(t, p)
		_, err := c.Write([]byte("0123456789"))
		require.NoError(t, err)
		got, err := io.ReadAll(c)
		if want == io.EOF {
			assert.NoError(t, err)
		} else {
			assert.ErrorIs(t, err, want)
		}
		assert.Equal(t, "0123456", string(got))
		roundTrip(t, later, "a connection that came later is not cut")
	}
}

func TestLose(t *testing.T) {
	received := make(chan string, 10)
	ended := make(chan struct{}, 10)
	p := start(t, serve(t, func(c *net.TCPConn) {
		defer func() { ended <- struct{}{} }()
		for b := make([]byte, 100); ; {
			n, err := c.Read(b)
			if err != nil {
				return
			}
			if n > 0 {
				received <- string(b[:n])
				c.Write(b[:n])
			}
		}
	}))
	open := func() *net.TCPConn {
		c := connect(t, p)
		require.Equal(t, "hello", <-received)
		return c
	}
	t.Run("to the client", func(t *testing.T) {
		c := open()
		p.Lose(ToClient)
		_, err := c.Write([]byte("request"))
		require.NoError(t, err)
		assert.Equal(t, "request", <-received)
		silent(t, c)
		require.NoError(t, c.Close())
		<-ended // the server hears of the client
	})
	t.Run("to the server", func(t *testing.T) {
		c := open()
		p.Lose(ToServer)
		_, err := c.Write([]byte("request"))
		require.NoError(t, err)
		silent(t, c)
		assert.Empty(t, received)
		require.NoError(t, c.Close())
		eventually(t, func() bool { return p.Counts().Accepted > 0 && p.leftAll() }, "the proxy sees the client leave")
		assert.Empty(t, ended, "the server does not")
		require.NoError(t, p.Heal())
		<-ended
	})
	t.Run("healed before the client leaves", func(t *testing.T) {
		c := open()
		p.Lose(Both)
		roundTrip(t, open(), "a connection that came later")
		<-received
		require.NoError(t, p.Heal())
		_, err := c.Write([]byte("into the void"))
		require.NoError(t, err)
		silent(t, c)
		assert.Empty(t, ended)
		require.NoError(t, c.Close())
		<-ended
	})
	t.Run("new connections", func(t *testing.T) {
		p.LoseNew(ToClient)
		c := dial(t, p)
		_, err := c.Write([]byte("request"))
		require.NoError(t, err)
		assert.Equal(t, "request", <-received)
		silent(t, c)
		require.NoError(t, p.Heal())
		open()
	})
}

// leftAll says whether all clients have left.
func (p *Proxy) leftAll() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		if !l.record.left {
			return false
		}
	}
	return true
}

func TestRefuse(t *testing.T) {
	p := start(t, serve(t, echo))
	c := connect(t, p)
	require.NoError(t, p.Admit(Refuse))
	_, err := net.Dial("tcp", p.Addr())
	assert.ErrorIs(t, err, syscall.ECONNREFUSED)
	roundTrip(t, c, "open connections go on")
	require.NoError(t, p.Admit(Refuse))
	require.NoError(t, p.Heal())
	connect(t, p)
}

func TestUnreachable(t *testing.T) {
	if !canFillBacklog {
		t.Skip("only Linux can be made to ignore who dials")
	}
	p := start(t, serve(t, echo))
	c := connect(t, p)
	require.NoError(t, p.Admit(Unreachable))
	dials := make(chan error)
	for _, timeout := range []time.Duration{150 * time.Millisecond, far} {
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), timeout)
			defer cancel()
			var d net.Dialer
			c, err := d.DialContext(ctx, "tcp", p.Addr())
			if err == nil {
				c.Close()
			}
			dials <- err
		}()
	}
	var timeout net.Error
	err := <-dials
	require.ErrorAs(t, err, &timeout)
	assert.True(t, timeout.Timeout())
	roundTrip(t, c, "open connections go on")
	require.NoError(t, p.Admit(Silent))
	require.NoError(t, p.Admit(Forward))
	assert.NoError(t, <-dials, "a dial that was waiting gets through")
	connect(t, p)
	// The dial that gave up may have got as far as the queue. Those that filled it do not count.
	assert.LessOrEqual(t, p.Counts().Accepted, 4)
	// Closed while unreachable.
	require.NoError(t, p.Admit(Unreachable))
	require.NoError(t, p.Close())
	assert.Error(t, p.Admit(Forward))
}

func TestSilent(t *testing.T) {
	accepted := atomic.Int32{}
	p := start(t, serve(t, func(c *net.TCPConn) { accepted.Add(1); echo(c) }))
	require.NoError(t, p.Admit(Silent))
	c := dial(t, p)
	_, err := c.Write([]byte("hello"))
	require.NoError(t, err)
	silent(t, c)
	assert.Zero(t, accepted.Load())
}

func TestGarbage(t *testing.T) {
	p := start(t, serve(t, echo))
	open := connect(t, p)
	require.NoError(t, p.Admit(Garbage))
	var ended, silences int
	for range 40 {
		c := dial(t, p)
		_, err := c.Write([]byte("hello"))
		require.NoError(t, err)
		got := make([]byte, 5)
		_, err = io.ReadFull(c, got)
		require.NoError(t, err)
		assert.NotEqual(t, "hello", string(got))
		require.NoError(t, c.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
		switch _, err := io.Copy(io.Discard, c); {
		case err == nil:
			ended++
		case errors.Is(err, os.ErrDeadlineExceeded):
			silences++
		default:
			t.Error(err)
		}
	}
	assert.Positive(t, ended)
	assert.Positive(t, silences)

	require.NoError(t, p.Heal())
	p.Garble()
	_, err := open.Write([]byte("hello"))
	require.NoError(t, err)
	got := make([]byte, 5)
	_, err = io.ReadFull(open, got)
	require.NoError(t, err)
	assert.NotEqual(t, "hello", string(got))
	connect(t, p)
}

func TestCloseEndsEverything(t *testing.T) {
	before := goleak.IgnoreCurrent()
	s := serve(t, echo)
	p, err := New(s.Addr().String())
	require.NoError(t, err)
	p.SetShape(Both, Shape{Delay: time.Hour})
	var conns []*net.TCPConn
	for range 5 {
		c := dial(t, p)
		_, err := c.Write([]byte("under way for an hour"))
		require.NoError(t, err)
		conns = append(conns, c)
	}
	eventually(t, func() bool { return p.Counts().Accepted == 5 }, "accepted")
	p.Lose(ToServer)
	done := make(chan error, 2)
	for range 2 {
		go func() { done <- p.Close() }()
	}
	for range 2 {
		assert.NoError(t, <-done)
	}
	_, err = conns[0].Read(make([]byte, 1))
	assert.ErrorIs(t, err, syscall.ECONNRESET)
	_, err = net.Dial("tcp", p.Addr())
	assert.Error(t, err)
	s.Close()
	assert.NoError(t, goleak.Find(before, goleak.IgnoreAnyFunction("internal/poll.(*FD).Read")))
}

func TestMisuse(t *testing.T) {
	_, err := New("no port")
	assert.ErrorContains(t, err, "host:port")
	p := start(t, serve(t, echo))
	assert.Panics(t, func() { p.SetShape(Both, Shape{Delay: -1}) })
	assert.Panics(t, func() { p.Lose(0) })
}

// Every switch is thrown at any moment while connections come and go.
func TestSwitchesAtRandom(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	p := start(t, serve(t, echo))
	end := time.Now().Add(time.Second)
	var all sync.WaitGroup
	var worked atomic.Int64
	for range 8 {
		all.Go(func() {
			for time.Now().Before(end) {
				ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
				var d net.Dialer
				c, err := d.DialContext(ctx, "tcp", p.Addr())
				cancel()
				if err != nil {
					continue
				}
				c.SetDeadline(time.Now().Add(30 * time.Millisecond))
				for range 10 {
					if _, err = c.Write([]byte("12345678")); err != nil {
						break
					}
					if _, err = io.ReadFull(c, make([]byte, 8)); err != nil {
						break
					}
					worked.Add(1)
				}
				c.Close()
			}
		})
	}
	for g := range 2 {
		all.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(g)))
			for time.Now().Before(end) {
				switch r.IntN(9) {
				case 0:
					p.Cut(Ending(r.IntN(2)))
				case 1:
					p.CutAfter(ToClient, r.IntN(30), Ending(r.IntN(2)))
				case 2:
					p.Lose(Direction(1 + r.IntN(3)))
				case 3:
					p.LoseNew(Direction(1 + r.IntN(3)))
				case 4:
					p.Garble()
				case 5:
					p.SetShape(Both, Shape{Delay: time.Duration(r.IntN(3)) * time.Millisecond, BytesPerSecond: r.IntN(100_000)})
				case 6:
					assert.NoError(t, p.Admit(Admission(r.IntN(5))))
				case 7:
					p.Counts()
				case 8:
					assert.NoError(t, p.Heal())
				}
				time.Sleep(time.Duration(r.IntN(2000)) * time.Microsecond)
			}
		})
	}
	all.Wait()
	require.NoError(t, p.Heal())
	connect(t, p)
	assert.Positive(t, worked.Load())
	eventually(t, func() bool { return p.Counts().Sessions == 0 }, "all have left")
}
