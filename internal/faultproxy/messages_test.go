package faultproxy

import (
	"bytes"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// message is one of PostgreSQL's, without a type if t is 0.
func message(t byte, payload ...byte) []byte {
	var b []byte
	if t != 0 {
		b = append(b, t)
	}
	b = binary.BigEndian.AppendUint32(b, uint32(4+len(payload)))
	return append(b, payload...)
}

func code(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

const version3 = 3 << 16

// postgres answers a startup message when told to, and then every Sync.
func postgres(admit <-chan struct{}) func(*net.TCPConn) {
	return func(c *net.TCPConn) {
		header := make([]byte, 8)
		for {
			if _, err := io.ReadFull(c, header); err != nil {
				return
			}
			if binary.BigEndian.Uint32(header[4:]) != sslRequest {
				break
			}
			c.Write([]byte("N"))
		}
		if binary.BigEndian.Uint32(header[4:]) == cancelRequest {
			io.ReadFull(c, header)
			return
		}
		<-admit
		c.Write(append(message('R', code(0)...), message('Z', 'I')...))
		io.Copy(io.Discard, c)
	}
}

func TestCountsSessions(t *testing.T) {
	admit := make(chan struct{}, 10)
	p := start(t, serve(t, postgres(admit)))
	session := func() *net.TCPConn {
		c := dial(t, p)
		_, err := c.Write(message(0, code(version3)...))
		require.NoError(t, err)
		return c
	}
	ready := func(c *net.TCPConn) {
		_, err := io.ReadFull(c, make([]byte, 9+6))
		require.NoError(t, err)
	}
	a, b := session(), session()
	eventually(t, func() bool { return p.Counts().Dialing == 2 }, "two dials")
	admit <- struct{}{}
	admit <- struct{}{}
	ready(a)
	ready(b)
	eventually(t, func() bool { return p.Counts().Dialing == 0 }, "both are ready")

	cancel := dial(t, p)
	_, err := cancel.Write(message(0, append(code(cancelRequest), 1, 2, 3, 4, 5, 6, 7, 8)...))
	require.NoError(t, err)
	_, err = cancel.Read(make([]byte, 1))
	require.Equal(t, io.EOF, err)

	// One that replaces another does not count beside it, be the end of the other still unread, as it is when the
	// line is slow.
	p.SetShape(ToServer, Shape{BytesPerSecond: 10})
	_, err = a.Write(make([]byte, 100_000))
	require.NoError(t, err)
	require.NoError(t, a.Close())
	c := session()
	if runtime.GOOS == "linux" {
		eventually(t, func() bool { counts := p.Counts(); return counts.Sessions == 2 && counts.Dialing == 1 }, "c beside b")
		assert.Equal(t, 2, p.Counts().MostSessions)
	}
	p.SetShape(ToServer, Shape{})
	require.NoError(t, b.Close())
	require.NoError(t, c.Close())
	eventually(t, func() bool { return p.Counts().Sessions == 0 }, "all have left")
	counts := p.Counts()
	assert.Zero(t, counts.Dialing)
	assert.Equal(t, []int{4, 2, 1}, []int{counts.Accepted, counts.MostDialing, counts.Cancels})
}

func TestClientLeft(t *testing.T) {
	ports := make(chan int, 1)
	p := start(t, serve(t, func(c *net.TCPConn) {
		ports <- c.RemoteAddr().(*net.TCPAddr).Port
		echo(c)
	}))
	c := dial(t, p)
	port := <-ports
	assert.False(t, p.ClientLeft(port))
	assert.False(t, p.ClientLeft(1), "nobody knows")
	p.Lose(Both)
	require.NoError(t, c.Close())
	eventually(t, func() bool { return p.ClientLeft(port) }, "the client has left, though the server does not know")
}

func TestFrontend(t *testing.T) {
	admit := make(chan struct{}, 1)
	admit <- struct{}{}
	p := start(t, serve(t, postgres(admit)))
	type seen struct {
		messageType byte
		payload     string
	}
	all := make(chan seen, 100)
	p.SetFrontend(func(messageType byte, payload []byte) { all <- seen{messageType, string(payload)} })
	c := dial(t, p)
	_, err := c.Write(message(0, code(sslRequest)...))
	require.NoError(t, err)
	_, err = c.Read(make([]byte, 1))
	require.NoError(t, err)
	large := bytes.Repeat([]byte("long "), 20_000)
	stream := slices.Concat(message(0, append(code(version3), "user\x00me\x00\x00"...)...),
		message('P', []byte("one\x00SELECT 1")...), message('S'), message('Q', large...), message('X'))
	want := []seen{{0, string(code(sslRequest))}, {0, string(code(version3)) + "user\x00me\x00\x00"},
		{'P', "one\x00SELECT 1"}, {'S', ""}, {'Q', string(large)}, {'X', ""}}
	// In pieces that have nothing to do with the messages.
	for len(stream) > 0 {
		n := min(1+rand.IntN(3000), len(stream))
		if len(stream) > 90_000 {
			n = min(1+rand.IntN(3), len(stream))
		}
		_, err := c.Write(stream[:n])
		require.NoError(t, err)
		stream = stream[n:]
	}
	for _, w := range want {
		assert.Equal(t, w, <-all)
	}
	eventually(t, func() bool { return p.Counts().Dialing == 0 }, "the answer to the request for TLS is no message")
	p.SetFrontend(nil)
	_, err = c.Write(message('Q', []byte("unseen")...))
	require.NoError(t, err)
	p.SetFrontend(func(messageType byte, payload []byte) { all <- seen{messageType, string(payload)} })
	_, err = c.Write(message('H'))
	require.NoError(t, err)
	for s := range all {
		if s.messageType == 'H' {
			break
		}
		assert.Equal(t, seen{'Q', "unseen"}, s) // if it was read only now
	}
}

func TestStreamsOfAnythingElse(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	p := start(t, serve(t, echo))
	p.SetFrontend(func(byte, []byte) {})
	for range 30 {
		c := dial(t, p)
		b := make([]byte, 1+r.IntN(100_000))
		for i := range b {
			b[i] = byte(r.Uint32() >> r.IntN(25))
		}
		roundTrip(t, c, string(b))
		c.Close()
	}
}

// TestGarbageForgesNoMessage has garbage strike while the client has a part of a message, at each of its bytes. The rest of
// it has to come: a row that ends in garbage is a wrong answer, and no client could know.
func TestGarbageForgesNoMessage(t *testing.T) {
	row := message('D', append([]byte{0, 1, 0, 0, 0, 8}, code(7)...)...)
	row = append(row, code(8)...)
	binary.BigEndian.PutUint32(row[1:], uint32(len(row)-1))
	for _, more := range [][]byte{nil, message('C', []byte("SELECT 1\x00")...)} {
		for part := range len(row) {
			said := make(chan []byte)
			hush := sync.OnceFunc(func() { close(said) })
			p := start(t, serve(t, func(c *net.TCPConn) {
				if _, err := io.ReadFull(c, make([]byte, 8)); err != nil {
					return
				}
				for b := range said {
					c.Write(b)
				}
				io.Copy(io.Discard, c)
			}))
			t.Cleanup(hush) // before serve's, which waits
			c := dial(t, p)
			_, err := c.Write(message(0, code(version3)...))
			require.NoError(t, err)
			login := message('Z', 'I')
			said <- append(login, row[:part]...)
			_, err = io.ReadFull(c, make([]byte, len(login)+part))
			require.NoError(t, err)

			p.Garble()
			said <- append(slices.Clone(row[part:]), more...)
			want := row[part:]
			if part == 0 {
				want = want[:0] // it is the next message, and the garbage comes in its place
			}
			got := make([]byte, len(want))
			_, err = io.ReadFull(c, got)
			require.NoError(t, err)
			require.Equal(t, want, got, "cut at byte %d of %d", part, len(row))
			if more == nil && part > 0 {
				said <- message('C', []byte("SELECT 1\x00")...)
			}
			next := make([]byte, 1)
			_, err = io.ReadFull(c, next)
			require.NoError(t, err)
			assert.NotContains(t, "DC", string(next), "garbage")
			hush()
			require.NoError(t, p.Close())
		}
	}
}
