package libpq

import (
	"io"
	"net"
	"sync/atomic"
	"syscall"
)

// countingSocket counts the calls that may have sent something.
type countingSocket struct {
	net.Conn
	writes atomic.Int64
}

func (c *countingSocket) Write(b []byte) (int, error) {
	c.writes.Add(1) // before: one that fails may have sent a part
	return c.Conn.Write(b)
}

// Sent counts the writes to a socket that NewConnector opened with CountSent; false for others.
func Sent(socket net.Conn) (writes int64, ok bool) {
	if c, ok := socket.(*countingSocket); ok {
		return c.writes.Load(), true
	}
	return 0, false
}

// Ended says whether the other side has closed a socket on which nothing is expected. It does not wait, and takes nothing
// from the socket. What it cannot see counts as open.
func Ended(socket net.Conn) bool {
	if c, ok := socket.(*countingSocket); ok {
		socket = c.Conn
	}
	sc, ok := socket.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	ended := false
	err = raw.Read(func(fd uintptr) bool {
		ended = peek(fd) == io.EOF
		return true // without waiting
	})
	return ended || err != nil
}
