package libpq

import "syscall"

// unreachable are the errors of a network, or of a server, that is not there at present: Winsock's numbers for what other
// systems call ENETDOWN, ENETUNREACH, ECONNABORTED, ECONNRESET, ETIMEDOUT, ECONNREFUSED, EHOSTDOWN and EHOSTUNREACH.
var unreachable = []error{
	syscall.Errno(10050), syscall.Errno(10051), syscall.Errno(10053), syscall.Errno(10054), syscall.Errno(10060),
	syscall.Errno(10061), syscall.Errno(10064), syscall.Errno(10065),
}
