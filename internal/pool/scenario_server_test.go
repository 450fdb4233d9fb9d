package pool_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"

	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
)

// rule says how the server behaves from now on in one operation.
type rule struct {
	op    string // dial, query, ping, reset, close, begin, commit, rollback; or restart, break, stop, start
	conns span   // of these connections, by their number
	every bool   // of all connections
	left  int    // for that many operations more; -1 for all

	takes time.Duration
	hangs bool
	fault string // "" if it works
}

var serverOps = []string{"dial", "query", "ping", "reset", "close", "begin", "commit", "rollback"}

// parseRule reads "OP [next N] [of RANGE] works | takes D | hangs | fails FAULT [after D]", or "restarts", "stops",
// "starts", "breaks RANGE".
func parseRule(words []string) (rule, error) {
	r := rule{every: true, left: -1}
	next := func() (word string) {
		if len(words) > 0 {
			word, words = words[0], words[1:]
		}
		return word
	}
	var err error
	r.op = next()
	switch r.op {
	case "restarts", "stops", "starts":
		return r, atEnd(words)
	case "breaks":
		r.every = false
		if r.conns, err = parseSpan(next()); err != nil {
			return r, err
		}
		return r, atEnd(words)
	}
	if !slices.Contains(serverOps, r.op) {
		return r, fmt.Errorf("a server has no %q: it restarts, stops, starts, breaks RANGE, or has %s", r.op, strings.Join(serverOps, ", "))
	}
	how := next()
	if how == "next" {
		if r.left, err = strconv.Atoi(next()); err != nil || r.left < 1 {
			return r, fmt.Errorf("next takes a number")
		}
		how = next()
	}
	if how == "of" {
		r.every = false
		if r.conns, err = parseSpan(next()); err != nil {
			return r, err
		}
		how = next()
	}
	switch how {
	case "works":
	case "hangs":
		r.hangs = true
	case "takes":
		r.takes, err = time.ParseDuration(next())
	case "fails":
		if r.fault = next(); !isFault(r.fault) {
			return r, fmt.Errorf("%q is no fault", r.fault)
		}
		if len(words) > 0 && words[0] == "after" {
			next()
			r.takes, err = time.ParseDuration(next())
		}
	default:
		err = fmt.Errorf("%q is not how an operation goes: works, takes D, hangs, fails FAULT", how)
	}
	if err != nil {
		return r, err
	}
	return r, atEnd(words)
}

func atEnd(words []string) error {
	if len(words) > 0 {
		return fmt.Errorf("%q is too much", strings.Join(words, " "))
	}
	return nil
}

// MySQLError looks like the error of go-sql-driver/mysql, which this module does not need otherwise.
type MySQLError struct {
	Number  uint16
	Message string
}

func (e *MySQLError) Error() string { return fmt.Sprintf("Error %d: %s", e.Number, e.Message) }

// messages are the server's own words for some SQLSTATEs.
var messages = map[string]string{
	"08P01": `unsupported startup parameter: search_path`,
	"28P01": `password authentication failed for user "app"`,
	"3D000": `database "shop" does not exist`,
	"53300": `sorry, too many clients already`,
	"57P03": `the database system is starting up`,
}

var dialed = &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 5432}

func dialError(err error) error {
	return &net.OpError{Op: "dial", Net: "tcp", Addr: dialed, Err: err}
}

// faults are the errors that have a word in the format, besides SQLSTATEs and mysql-1040.
var faults = map[string]error{
	"refused":        dialError(os.NewSyscallError("connect", syscall.ECONNREFUSED)),
	"unreachable":    dialError(os.NewSyscallError("connect", syscall.EHOSTUNREACH)),
	"timed-out":      dialError(os.ErrDeadlineExceeded),
	"connection-cut": &net.OpError{Op: "read", Net: "tcp", Addr: dialed, Err: os.NewSyscallError("read", syscall.ECONNRESET)},
	"no-socket": &net.OpError{Op: "dial", Net: "unix", Addr: &net.UnixAddr{Name: "/run/postgresql/.s.PGSQL.5432", Net: "unix"},
		Err: os.NewSyscallError("connect", syscall.ENOENT)},
	"eof":            io.EOF,
	"dns-timeout":    dialError(&net.DNSError{Err: "i/o timeout", Name: "db.example", IsTimeout: true, IsTemporary: true}),
	"unknown-host":   dialError(&net.DNSError{Err: "no such host", Name: "db.example", IsNotFound: true}),
	"tls-alert":      &net.OpError{Op: "remote error", Err: tls.AlertError(112)}, // unrecognized name
	"certificate":    &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}},
	"no-key-file":    &fs.PathError{Op: "open", Path: "/etc/app/client.key", Err: syscall.ENOENT},
	"bad-connection": driver.ErrBadConn,
	"error":          errors.New("the server does not say why"),
	"panic":          nil, // these three are no errors
	"goexit":         nil,
	"nothing":        nil,
}

var sqlstate = regexp.MustCompile(`^[0-9A-Z]{5}$`)

func isFault(word string) bool {
	_, known := faults[word]
	_, isMySQL := mysqlNumber(word)
	return known || isMySQL || sqlstate.MatchString(word)
}

func mysqlNumber(word string) (uint16, bool) {
	number, ok := strings.CutPrefix(word, "mysql-")
	n, err := strconv.ParseUint(number, 10, 16)
	return uint16(n), ok && err == nil
}

// faultError makes the error that a word stands for.
func faultError(word string) error {
	if err := faults[word]; err != nil {
		return err
	}
	if n, ok := mysqlNumber(word); ok {
		return &MySQLError{Number: n, Message: "Too many connections"}
	}
	message := messages[word]
	if message == "" {
		message = "an error of class " + word[:2]
	}
	return &pq.Error{Severity: "FATAL", Code: pqerror.Code(word), Message: message}
}

// server plays the server of a scenario on a fake one.
type server struct {
	*fakedriver.Server
	over chan struct{} // closed at the end, for what hangs

	mu    sync.Mutex
	rules map[string][]*rule // guarded by mu; the last that applies counts
}

func newServer() *server {
	s := &server{Server: fakedriver.New(), over: make(chan struct{}), rules: map[string][]*rule{}}
	s.OnDial(func(ctx context.Context) error { return s.act(ctx, "dial", nil, 0) })
	s.OnQuery(func(ctx context.Context, c *fakedriver.Conn, query string, _ []driver.NamedValue) error {
		return s.act(ctx, "query", c, sleeps(query))
	})
	s.OnPing(func(ctx context.Context, c *fakedriver.Conn) error { return s.act(ctx, "ping", c, 0) })
	s.OnReset(func(ctx context.Context, c *fakedriver.Conn) error { return s.act(ctx, "reset", c, 0) })
	s.OnBegin(func(ctx context.Context, c *fakedriver.Conn, _ driver.TxOptions) error {
		return s.act(ctx, "begin", c, 0)
	})
	s.OnCommit(func(c *fakedriver.Conn) error { return s.act(context.Background(), "commit", c, 0) })
	s.OnRollback(func(c *fakedriver.Conn) error { return s.act(context.Background(), "rollback", c, 0) })
	s.OnClose(func(c *fakedriver.Conn) error { return s.act(context.Background(), "close", c, 0) })
	return s
}

// apply changes how the server behaves.
func (s *server) apply(r rule) {
	switch r.op {
	case "restarts":
		s.Kill()
	case "stops":
		s.set(rule{op: "dial", every: true, left: -1, fault: "refused"})
		s.Kill()
	case "starts":
		s.set(rule{op: "dial", every: true, left: -1})
	case "breaks":
		for _, c := range s.Conns() {
			if r.conns.has(c.ID()) {
				c.Kill()
			}
		}
	default:
		s.set(r)
	}
}

func (s *server) set(r rule) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.every && r.left < 0 {
		s.rules[r.op] = nil
	}
	s.rules[r.op] = append(s.rules[r.op], &r)
}

// heal has everything work from now on.
func (s *server) heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.rules)
	close(s.over)
}

// behaviour is the rule for one operation on c, which is nil for a dial.
func (s *server) behaviour(op string, c *fakedriver.Conn) rule {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range slices.Backward(s.rules[op]) {
		if r.left == 0 || !r.every && (c == nil || !r.conns.has(c.ID())) {
			continue
		}
		if r.left > 0 {
			r.left--
		}
		return *r
	}
	return rule{}
}

// act goes through one operation, which takes at least the given time.
func (s *server) act(ctx context.Context, op string, c *fakedriver.Conn, takes time.Duration) error {
	r := s.behaviour(op, c)
	takes = max(takes, r.takes)
	if r.hangs || takes > 0 {
		var gone <-chan struct{}
		if c != nil && op != "close" {
			gone = c.Gone()
		}
		var timer <-chan time.Time
		if !r.hangs {
			timer = time.After(takes)
		}
		select {
		case <-timer:
		case <-ctx.Done():
			return ctx.Err()
		case <-gone:
			return driver.ErrBadConn
		case <-s.over:
			return nil
		}
	}
	switch r.fault {
	case "":
		return nil
	case "panic":
		panic("the driver panics in " + op)
	case "goexit":
		runtime.Goexit()
	case "nothing":
		return fakedriver.ErrNothing
	}
	return faultError(r.fault)
}

var sleep = regexp.MustCompile(`pg_sleep\(([0-9.]+)\)`)

// sleeps is how long a query says that it takes.
func sleeps(query string) time.Duration {
	m := sleep.FindStringSubmatch(query)
	if m == nil {
		return 0
	}
	seconds, _ := strconv.ParseFloat(m[1], 64)
	return time.Duration(seconds * float64(time.Second))
}
