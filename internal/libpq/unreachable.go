//go:build !windows

package libpq

import "syscall"

// unreachable are the errors of a network, or of a server, that is not there at present.
var unreachable = []error{
	syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.ECONNABORTED, syscall.EPIPE, syscall.ETIMEDOUT,
	syscall.ENETUNREACH, syscall.ENETDOWN, syscall.EHOSTUNREACH, syscall.EHOSTDOWN,
}
