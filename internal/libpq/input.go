package libpq

import (
	"net"
	"syscall"
)

// Tells says whether AwaitInput can wait on a socket.
func Tells(socket net.Conn) bool {
	_, ok := socket.(syscall.Conn)
	return ok && peeks
}

// AwaitInput waits until there is something to read from a socket that tells, or its end, and takes nothing of it. False:
// the socket's read deadline has passed. Nobody may read from it meanwhile.
func AwaitInput(socket net.Conn) bool {
	raw, err := socket.(syscall.Conn).SyscallConn()
	if err != nil {
		return false
	}
	err = raw.Read(func(fd uintptr) bool {
		err := peek(fd)
		return err != syscall.EAGAIN && err != syscall.EINTR
	})
	return err == nil
}
