package faultproxy

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"syscall"
	"time"
)

// hungUp says whether the other end of c has been closed, also when there is something left to read before the end.
func hungUp(c *net.TCPConn) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return true
	}
	var info int
	var failed error
	err = raw.Control(func(fd uintptr) {
		// As much of the kernel's struct tcp_info as fits into an int: its first byte is the state.
		info, failed = syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_INFO)
	})
	if err != nil || failed != nil {
		return true
	}
	const (
		timeWait  = 6
		closed    = 7
		closeWait = 8
		lastACK   = 9
		closing   = 11
	)
	switch binary.NativeEndian.AppendUint32(nil, uint32(info))[0] {
	case timeWait, closed, closeWait, lastACK, closing:
		return true
	}
	return false
}

const canFillBacklog = true

// backlog is a listener's queue of connections that nobody has accepted, full: then the kernel drops every packet that
// would open another one, and dialling hangs.
type backlog struct{ conns []net.Conn }

// fillBacklog fills the queue of l, on which nobody accepts. Those that it fills it with are told to filler first.
func fillBacklog(l *net.TCPListener, filler func(net.Addr)) (*backlog, error) {
	if err := setBacklog(l, 1); err != nil {
		return nil, err
	}
	b := &backlog{}
	const most = 8 // one more than the length, plus what a kernel may round it up to
	for range most {
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", l.Addr().String())
		cancel()
		if errors.Is(err, context.DeadlineExceeded) || isTimeout(err) {
			return b, nil
		}
		if err != nil {
			b.close()
			return nil, err
		}
		filler(c.LocalAddr())
		b.conns = append(b.conns, c)
	}
	b.close()
	return nil, errors.New("the kernel goes on accepting connections though its queue is full")
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// drain gives the queue its usual length again.
func (b *backlog) drain(l *net.TCPListener) error {
	b.close()
	return setBacklog(l, 4096)
}

func (b *backlog) close() {
	for _, c := range b.conns {
		c.Close()
	}
}

func setBacklog(l *net.TCPListener, n int) error {
	raw, err := l.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = syscall.Listen(int(fd), n) })
	return errors.Join(err, failed)
}
