//go:build unix

package libpq

import (
	"io"
	"syscall"
)

// peeks says whether peek sees anything.
const peeks = true

// peek looks at the next byte of a socket that does not block. io.EOF: the other side has closed it.
func peek(fd uintptr) error {
	var b [1]byte
	n, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK)
	if n == 0 && err == nil {
		return io.EOF
	}
	if err == syscall.ECONNRESET {
		return io.EOF
	}
	return err
}
