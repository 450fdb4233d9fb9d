package libpq

import (
	"context"
	"database/sql/driver"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"
)

// Retryable says whether a later dial may well succeed where this one failed with err: the server is down, starting, full
// or out of reach. All else (certificates, key files, passwords, names that do not exist) has to be told at once.
//
// A driver that has tried several addresses joins their errors. One of them that no retry can mend decides: where
// "localhost" is two addresses, the first refuses the connection and the second the password.
func Retryable(err error) bool { return judge(err) == mendable }

// verdict is what an error says about the next dial.
type verdict uint8

const (
	unclear  verdict = iota
	mendable         // by a retry
	final
)

// passing are the ends of chains that a retry can mend, beside the network's.
var passing = []error{
	io.EOF, io.ErrUnexpectedEOF,
	os.ErrDeadlineExceeded, context.DeadlineExceeded, // the latter is also net's own error of a dial that took too long
	driver.ErrBadConn,
}

// judge goes down to the end of a chain. What stands above it may not be asked: a *net.OpError is a net.Error also where
// it carries a TLS alert, and crypto/tls wraps what its socket met.
func judge(err error) verdict {
	for err != nil {
		err = SentNothing(err)
		if code := codeOf(err); code != "" {
			return judgeCode(code)
		}
		switch e := err.(type) {
		case *net.DNSError:
			if !e.IsNotFound && (e.IsTimeout || e.IsTemporary) {
				return mendable
			}
			return unclear
		case *net.OpError:
			if e.Op == "dial" && strings.HasPrefix(e.Net, "unix") &&
				(errors.Is(e.Err, syscall.ENOENT) || errors.Is(e.Err, syscall.EAGAIN)) {
				return mendable // no socket file yet, or its queue is full
			}
		case *fs.PathError:
			return final // a key or certificate that cannot be read
		case interface{ Unwrap() []error }:
			return judgeAll(e.Unwrap())
		}
		inside := errors.Unwrap(err)
		if inside == nil {
			return judgeEnd(err)
		}
		err = inside
	}
	return unclear
}

// judgeAll judges the errors of several attempts.
func judgeAll(errs []error) verdict {
	all := unclear
	for _, err := range errs {
		all = max(all, judge(err))
	}
	return all
}

// judgeCode judges what a server answered: SQLSTATE classes for trouble with the connection, for lack of resources and
// for a server that comes or goes, and MySQL's numbers for too many connections and for a shutdown. 08P01 is PgBouncer's
// answer to a parameter that it does not know.
func judgeCode(code string) verdict {
	switch {
	case code == "08P01":
	case len(code) == 5 && (code[:2] == "08" || code[:2] == "53" || code[:3] == "57P"):
		return mendable
	case code == "1040", code == "1203", code == "1053":
		return mendable
	}
	return final
}

// judgeEnd judges an error that wraps nothing.
func judgeEnd(err error) verdict {
	for _, list := range [][]error{passing, unreachable} {
		for _, e := range list {
			if errors.Is(err, e) {
				return mendable
			}
		}
	}
	text := err.Error()
	switch path := packageOf(err); {
	case path == "crypto/tls", strings.HasPrefix(path, "crypto/x509"),
		strings.HasPrefix(text, "tls: "), strings.HasPrefix(text, "x509: "):
		return final // an alert, a certificate, a key
	case text == "invalid connection": // all that go-sql-driver/mysql says of a server that hangs up
		return mendable
	case strings.HasPrefix(text, "pq: server error: "): // in plain text, from a server that cannot start a process
		return mendable
	}
	return unclear
}
