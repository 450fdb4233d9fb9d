package fakedriver

import (
	"cmp"
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
)

// maxViolations bounds the list of violations: a broken pool in a stress test
// breaks the same rule at every turn.
const maxViolations = 100

// Server is an in-memory database server. Connections to it come from
// [Server.Connector] or [Server.Driver].
//
// The scripts (OnDial, OnQuery and the others) may be set at any time, also
// while calls run, and a nil script removes the one before. They are called
// with no lock held, on the goroutine of the call, and may block, return any
// error, or panic. A script's error becomes the call's error as it stands.
//
// All methods are safe for concurrent use.
type Server struct {
	onDial     script[func(context.Context) error]
	onPrepare  script[func(context.Context, *Conn, string) error]
	onQuery    script[func(context.Context, *Conn, string, []driver.NamedValue) error]
	onNext     script[func(*Conn, int) error]
	onBegin    script[func(context.Context, *Conn, driver.TxOptions) error]
	onCommit   script[func(*Conn) error]
	onRollback script[func(*Conn) error]
	onPing     script[func(context.Context, *Conn) error]
	onReset    script[func(context.Context, *Conn) error]
	onValid    script[func(*Conn)]
	onClose    script[func(*Conn) error]

	rows atomic.Int64

	ids             atomic.Int64
	dials           atomic.Int64
	closed          atomic.Int64
	prepares        atomic.Int64
	queries         atomic.Int64
	pings           atomic.Int64
	resets          atomic.Int64
	connectorCloses atomic.Int64
	open            gauge
	dialing         gauge
	stmts           gauge
	openRows        gauge

	mu         sync.Mutex
	conns      map[int64]*Conn // guarded by mu
	dsns       []string        // guarded by mu
	violations []string        // guarded by mu
	unlisted   int             // guarded by mu; violations beyond maxViolations
}

// New returns a server on which every call succeeds at once and every query
// has one row.
func New() *Server {
	s := &Server{conns: make(map[int64]*Conn)}
	s.rows.Store(1)
	return s
}

// OnDial scripts the dialling of a connection. Nil means that it succeeds at
// once.
func (s *Server) OnDial(f func(ctx context.Context) error) { s.onDial.set(f) }

// OnPrepare scripts the preparation of statements.
func (s *Server) OnPrepare(f func(ctx context.Context, c *Conn, query string) error) {
	s.onPrepare.set(f)
}

// OnQuery scripts Exec and Query, of connections and of prepared statements.
func (s *Server) OnQuery(f func(ctx context.Context, c *Conn, query string, args []driver.NamedValue) error) {
	s.onQuery.set(f)
}

// OnNext scripts the fetching of a row; row counts from 1 and reaches one more
// than there are rows, at the fetch that finds the end.
func (s *Server) OnNext(f func(c *Conn, row int) error) { s.onNext.set(f) }

// OnBegin scripts the beginning of transactions.
func (s *Server) OnBegin(f func(ctx context.Context, c *Conn, opts driver.TxOptions) error) {
	s.onBegin.set(f)
}

// OnCommit scripts commits. The transaction is over also when it fails.
func (s *Server) OnCommit(f func(c *Conn) error) { s.onCommit.set(f) }

// OnRollback scripts rollbacks. The transaction is over also when it fails.
func (s *Server) OnRollback(f func(c *Conn) error) { s.onRollback.set(f) }

// OnPing scripts Ping.
func (s *Server) OnPing(f func(ctx context.Context, c *Conn) error) { s.onPing.set(f) }

// OnReset scripts ResetSession.
func (s *Server) OnReset(f func(ctx context.Context, c *Conn) error) { s.onReset.set(f) }

// OnValid scripts IsValid, which answers after it.
func (s *Server) OnValid(f func(c *Conn)) { s.onValid.set(f) }

// OnClose scripts the closing of a connection, which is closed also when the
// script fails.
func (s *Server) OnClose(f func(c *Conn) error) { s.onClose.set(f) }

// Rows sets how many rows a query gets that does not say so itself, as
// "rows 100" does. The default is 1. Row i has one column, the int64 i,
// counted from 1.
func (s *Server) Rows(n int) { s.rows.Store(int64(n)) }

// Dials is how many times a connection was dialled, successfully or not.
func (s *Server) Dials() int { return int(s.dials.Load()) }

// Dialing is how many dials are under way.
func (s *Server) Dialing() int { return s.dialing.now() }

// MaxDialing is the most dials that were under way at one time.
func (s *Server) MaxDialing() int { return s.dialing.most() }

// Open is how many connections are open.
func (s *Server) Open() int { return s.open.now() }

// MaxOpen is the most connections that were open at one time.
func (s *Server) MaxOpen() int { return s.open.most() }

// Closed is how many connections were closed. Killed ones count when their
// owner closes them.
func (s *Server) Closed() int { return int(s.closed.Load()) }

// Queries is how many times Exec or Query was called, prepared statements
// included.
func (s *Server) Queries() int { return int(s.queries.Load()) }

// Prepares is how many times a statement was prepared.
func (s *Server) Prepares() int { return int(s.prepares.Load()) }

// Stmts is how many prepared statements are open.
func (s *Server) Stmts() int { return s.stmts.now() }

// OpenRows is how many result sets are open.
func (s *Server) OpenRows() int { return s.openRows.now() }

// Pings is how many times Ping was called.
func (s *Server) Pings() int { return int(s.pings.Load()) }

// Resets is how many times ResetSession was called.
func (s *Server) Resets() int { return int(s.resets.Load()) }

// ConnectorCloses is how many times a connector made with [WithClose] was
// closed.
func (s *Server) ConnectorCloses() int { return int(s.connectorCloses.Load()) }

// Conns lists the connections that are open, oldest first, killed ones
// included until their owner closes them.
func (s *Server) Conns() []*Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]*Conn, 0, len(s.conns))
	for _, c := range s.conns {
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b *Conn) int { return cmp.Compare(a.id, b.id) })
	return list
}

// Kill drops every open connection, as a restart of the server does, and says
// how many there were.
func (s *Server) Kill() int {
	conns := s.Conns()
	for _, c := range conns {
		c.Kill()
	}
	return len(conns)
}

// DSNs lists the data source names that [Server.Driver] was opened with, in
// order.
func (s *Server) DSNs() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.dsns)
}

// Violations lists the breaches of the driver contract so far: a connection
// used by two goroutines at once; a connection, statement, rows or transaction
// used after its end; a second Close; a session reset or a transaction begun
// while a transaction or rows are still open on the connection.
func (s *Server) Violations() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := slices.Clone(s.violations)
	if s.unlisted > 0 {
		list = append(list, fmt.Sprintf("and %d more", s.unlisted))
	}
	return list
}

func (s *Server) violation(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.violations) == maxViolations {
		s.unlisted++
		return
	}
	s.violations = append(s.violations, fmt.Sprintf(format, args...))
}

func (s *Server) dial(ctx context.Context) (driver.Conn, error) {
	s.dials.Add(1)
	s.dialing.add(1)
	defer s.dialing.add(-1)
	if f := s.onDial.load(); f != nil {
		switch err := f(ctx); err {
		case nil:
		case ErrNothing:
			return nil, nil
		default:
			return nil, err
		}
	}
	c := &Conn{server: s, id: s.ids.Add(1), gone: make(chan struct{})}
	s.mu.Lock()
	s.conns[c.id] = c
	s.mu.Unlock()
	s.open.add(1)
	return c, nil
}

// ErrNothing, returned by a script of OnDial, makes the dial return neither a
// connection nor an error, as a driver with a mistake does.
var ErrNothing = errors.New("fakedriver: no connection and no error")

// A ConnectorOption changes what [Server.Connector] returns.
type ConnectorOption func(*connectorOptions)

type connectorOptions struct{ close, withoutReset bool }

// WithClose makes the connector an io.Closer, which database/sql closes with
// its handle. [Server.ConnectorCloses] counts the calls.
func WithClose() ConnectorOption { return func(o *connectorOptions) { o.close = true } }

// WithoutReset hides ResetSession and IsValid of the connections, which some
// drivers lack.
func WithoutReset() ConnectorOption { return func(o *connectorOptions) { o.withoutReset = true } }

// Connector returns a connector to the server.
func (s *Server) Connector(opts ...ConnectorOption) driver.Connector {
	var o connectorOptions
	for _, opt := range opts {
		opt(&o)
	}
	c := connector{server: s, withoutReset: o.withoutReset}
	if o.close {
		return closingConnector{c}
	}
	return c
}

// Driver returns a driver whose Open dials the server. It is not a
// driver.DriverContext.
func (s *Server) Driver() driver.Driver { return serverDriver{s} }

type serverDriver struct{ server *Server }

func (d serverDriver) Open(dsn string) (driver.Conn, error) {
	d.server.mu.Lock()
	d.server.dsns = append(d.server.dsns, dsn)
	d.server.mu.Unlock()
	return d.server.dial(context.Background())
}

type connector struct {
	server       *Server
	withoutReset bool
}

func (c connector) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.server.dial(ctx)
	if c.withoutReset && conn != nil {
		return bareConn{conn.(*Conn)}, err
	}
	return conn, err
}

func (c connector) Driver() driver.Driver { return c.server.Driver() }

// bareConn is a Conn without ResetSession and IsValid.
type bareConn struct{ bareMethods }

type bareMethods interface {
	driver.Conn
	driver.Pinger
	driver.ExecerContext
	driver.QueryerContext
	driver.ConnPrepareContext
	driver.ConnBeginTx
	driver.NamedValueChecker
}

type closingConnector struct{ connector }

func (c closingConnector) Close() error {
	c.server.connectorCloses.Add(1)
	return nil
}

// script holds a function that may be replaced while others call it.
type script[F any] struct{ p atomic.Pointer[F] }

func (s *script[F]) set(f F) { s.p.Store(&f) }

// load returns the function, or its zero value when none was set.
func (s *script[F]) load() (f F) {
	if p := s.p.Load(); p != nil {
		f = *p
	}
	return f
}

// gauge counts what is there now and remembers the most there was.
type gauge struct{ n, peak atomic.Int64 }

func (g *gauge) add(d int64) {
	n := g.n.Add(d)
	for {
		peak := g.peak.Load()
		if n <= peak || g.peak.CompareAndSwap(peak, n) {
			return
		}
	}
}

func (g *gauge) now() int  { return int(g.n.Load()) }
func (g *gauge) most() int { return int(g.peak.Load()) }
