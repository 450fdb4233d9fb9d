package lifeguard

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"sync/atomic"

	"github.com/lib/pq"
)

// session is a physical connection. To the inner pool it is a driver.Conn; whoever takes it out of there, a lease as a
// rule, uses the wrapped connection through it, alone.
type session struct {
	pool   *Pool
	conn   driver.Conn // the wrapped driver's
	socket net.Conn    // under it, nil where the pool does not open it

	// What the wrapped connection can do, found once.
	pinger driver.Pinger
	execer driver.ExecerContext
	//lint:ignore SA1019 what a driver has must go on working
	oldExecer driver.Execer
	queryer   driver.QueryerContext
	//lint:ignore SA1019 what a driver has must go on working
	oldQueryer driver.Queryer
	preparer   driver.ConnPrepareContext
	beginner   driver.ConnBeginTx
	resetter   driver.SessionResetter
	validator  driver.Validator
	checker    driver.NamedValueChecker

	// Queries go to the wrapped connection as they are: there is nothing to keep, to cancel or to explain.
	plain bool

	intercepted *intercepted // the way to the wrapped connection through the interceptors; nil if there are none

	reset   int64 // Pool.resets when it was opened
	expires int64 // pool clock; fixed at birth, 0 for never

	// Owned by whoever took the session; handed on through Pool.mu or a compare-and-swap of lease.state.
	taken      *sql.Conn // the inner pool's hold on this session
	breaks     int64     // Pool.breaks when it was last known to be alive
	adopted    bool      // it has been taken out of the inner pool before
	used       bool      // the wrapped driver must reset it before the next holder
	bad        bool      // it must not be used again
	sawEnd     bool      // an operation of this holder met the end of its context
	spoiled    bool      // lib/pq would have given the connection up: nothing may run on it any more
	statements []*stmt   // those of the present lease that are prepared on it
	rows       *rows     // for the next query; nil while they are out, so that only their user refers to them
	kept       statementCache
	cancels    canceller

	hits, misses atomic.Uint64 // of kept, written by the owner alone

	stored atomic.Bool // it is idle in the inner pool; written under Pool.mu
	lease  atomic.Pointer[lease]
}

var (
	_ driver.Conn      = (*session)(nil)
	_ driver.Validator = (*session)(nil)
	// Not driver.SessionResetter: a session is made ready by the pool, in the time of the caller it is for.
)

func newSession(p *Pool, conn driver.Conn, socket net.Conn) *session {
	s := &session{pool: p, conn: conn, socket: socket, reset: p.resets.Load(), breaks: p.breaks.Load()}
	if life := int64(p.cfg.MaxConnectionLifetime); life > 0 {
		// Connections opened together must not all have to be replaced together.
		s.expires = p.now() + life - rand.Int64N(life/10+1)
	}
	s.pinger, _ = conn.(driver.Pinger)
	s.execer, _ = conn.(driver.ExecerContext)
	s.queryer, _ = conn.(driver.QueryerContext)
	if s.execer == nil {
		//lint:ignore SA1019 what a driver has must go on working
		s.oldExecer, _ = conn.(driver.Execer)
	}
	if s.queryer == nil {
		//lint:ignore SA1019 what a driver has must go on working
		s.oldQueryer, _ = conn.(driver.Queryer)
	}
	s.preparer, _ = conn.(driver.ConnPrepareContext)
	s.beginner, _ = conn.(driver.ConnBeginTx)
	s.resetter, _ = conn.(driver.SessionResetter)
	s.validator, _ = conn.(driver.Validator)
	s.checker, _ = conn.(driver.NamedValueChecker)
	s.kept = newStatementCache(p, conn)
	s.cancels = newCanceller(p, conn, socket)
	s.intercepted = intercept(s, p.interceptors)
	s.plain = s.kept.kind == otherDriver && s.intercepted == nil && p.cfg.SocketTimeout <= 0 && s.execer != nil && s.queryer != nil
	return s
}

// fit says whether the session may be handed to another holder as far as the pool's rules go.
func (s *session) fit(now int64) bool {
	return !s.bad && (s.expires == 0 || now < s.expires) && s.reset == s.pool.resets.Load()
}

// valid asks the wrapped driver whether the connection can be used again.
func (s *session) valid() bool { return s.validator == nil || s.validator.IsValid() }

// suspect says whether the connection may be dead, because another broke since it was last known to be alive.
func (s *session) suspect() bool { return s.breaks != s.pool.breaks.Load() }

// broke notes that the server, or the network, ended a connection: the idle ones have probably gone the same way.
// A connection that its driver gave up because a context ended says nothing about the others.
func (s *session) broke() {
	s.bad = true
	if !s.sawEnd {
		s.pool.breaks.Add(1)
	}
}

// outOfStep gives a connection up on which lib/pq has stopped in the middle of a reply. lib/pq itself takes it for good: the
// rest of the reply would be the answer to the next question, or be read as what it is not, without end.
func (s *session) outOfStep(err error) {
	if err == nil || s.kept.kind != libPQ || s.spoiled || !midReply(err) {
		return
	}
	s.bad, s.spoiled = true, true
	// On a socket that is closed, lib/pq's Close notes that the connection is bad, and rows that are still to be closed
	// do not read on.
	s.cut()
	_ = s.conn.Close()
}

// midReply recognises the errors with which lib/pq 1.12 leaves a part of a reply unread and the connection in use: an error
// of the server's that is longer than the 30,000 bytes it reads, a message that it does not expect among rows (such as
// those of COPY TO STDOUT after another statement), and two that only follow from such a one.
func midReply(err error) bool {
	var whole *pq.Error
	if errors.As(err, &whole) {
		return false
	}
	text := err.Error()
	for _, part := range []string{
		"pq: server error: ", "pq: unexpected message after execute: ", "unexpected ReadyForQuery", "unexpected command tag ",
	} {
		if strings.Contains(text, part) {
			return true
		}
	}
	return false
}

// makeReady brings a session into the state in which a new connection would be, and makes sure that it is alive if it
// may not be, or if verify asks for it. An error means that it is dead, or that ctx is over.
func (s *session) makeReady(ctx context.Context, patience int64, verify bool) error {
	if !s.fit(s.pool.now()) {
		return driver.ErrBadConn
	}
	if s.suspect() || verify && s.used {
		if err := s.verify(ctx, patience); err != nil {
			return err
		}
	}
	if s.used && s.resetter != nil {
		if err := s.resetter.ResetSession(ctx); errors.Is(err, driver.ErrBadConn) {
			s.broke()
			return err // other errors are ignored, as database/sql does
		}
	}
	return nil
}

// verify pings a connection that may be dead.
func (s *session) verify(ctx context.Context, patience int64) error {
	if s.pinger == nil {
		s.bad = true
		return driver.ErrBadConn
	}
	breaks := s.pool.breaks.Load()
	if err := s.ping(ctx, patience); err != nil {
		if ctx.Err() == nil {
			s.broke()
		}
		s.bad = true
		return err
	}
	s.breaks = breaks
	return nil
}

// IsValid is asked by the inner pool when a session is returned to it.
func (s *session) IsValid() bool { return s.fit(s.pool.now()) }

// Close is called by the inner pool, once.
func (s *session) Close() (err error) {
	s.pool.closedSession(s)
	// A panic must not pass through the inner pool, which would count the connection as open for ever.
	finished := false
	defer func() {
		if finished {
			return
		}
		v := recover()
		s.pool.log.Error("lifeguard: the driver panicked while it closed a connection",
			slog.String("pool", s.pool.name), slog.Any("panic", v))
		err = fmt.Errorf("lifeguard: the driver panicked while it closed a connection: %v", v)
	}()
	err = s.conn.Close()
	finished = true
	return err
}

// errInner answers what nobody asks of a session: the inner pool hands out connections and runs nothing on them.
var errInner = errors.New("lifeguard: sessions are used through leases")

func (s *session) Prepare(string) (driver.Stmt, error) { return nil, errInner }
func (s *session) Begin() (driver.Tx, error)           { return nil, errInner }

// idle says whether nobody holds the session.
func (s *session) idle() bool {
	if l := s.lease.Load(); l != nil {
		return l.state.load() == leaseIdle
	}
	return s.stored.Load()
}

// prepare, exec, query and begin run on the wrapped connection what database/sql would have run, with the fallbacks it
// has for connections that lack the methods with a context.

func (s *session) prepare(ctx context.Context, query string) (driver.Stmt, error) {
	if s.preparer != nil {
		return s.preparer.PrepareContext(ctx, query)
	}
	st, err := s.conn.Prepare(query)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		_ = st.Close()
		return nil, err
	}
	return st, nil
}

func (s *session) exec(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	if s.kept.max > 0 {
		if k, err := s.forQuery(ctx, query, args); err != nil {
			return nil, err
		} else if k != nil {
			return s.execPrepared(ctx, k, args, true)
		}
	}
	if s.execer != nil {
		inner, watched := s.watch(ctx)
		res, err := s.execer.ExecContext(inner, query, args)
		if watched && s.unwatch() {
			s.ended(ctx, true)
		}
		if err != nil {
			err = s.explainQuery(err, args)
		}
		return res, err
	}
	values, err := positional(ctx, args)
	if err != nil {
		return nil, err
	}
	return s.oldExecer.Exec(query, values)
}

// query also gives the kept statement that it ran on, if it did.
func (s *session) query(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, *prepared, error) {
	if s.kept.max > 0 {
		if k, err := s.forQuery(ctx, query, args); err != nil {
			return nil, nil, err
		} else if k != nil {
			rows, err := s.queryPrepared(ctx, k, args, true)
			return rows, k, err
		}
	}
	inner, watched := s.watch(ctx)
	rows, err := s.queryDirect(inner, query, args)
	switch {
	case err == nil:
		s.cancels.fresh = watched
	case watched && s.unwatch():
		s.ended(ctx, true)
	}
	if err != nil {
		err = s.explainQuery(err, args)
	}
	return rows, nil, err
}

func (s *session) queryDirect(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	if s.queryer != nil {
		return s.queryer.QueryContext(ctx, query, args)
	}
	values, err := positional(ctx, args)
	if err != nil {
		return nil, err
	}
	return s.oldQueryer.Query(query, values)
}

func (s *session) begin(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	s.kept.inHand = false
	s.settle()
	if s.beginner != nil {
		return s.beginner.BeginTx(ctx, opts)
	}
	if opts.Isolation != driver.IsolationLevel(sql.LevelDefault) {
		return nil, errors.New("sql: driver does not support non-default isolation level")
	}
	if opts.ReadOnly {
		return nil, errors.New("sql: driver does not support read-only transactions")
	}
	//lint:ignore SA1019 all that this connection has
	tx, err := s.conn.Begin()
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		_ = tx.Rollback()
		return nil, err
	}
	return tx, nil
}

// positional turns arguments into what the driver methods without a context take.
func positional(ctx context.Context, args []driver.NamedValue) ([]driver.Value, error) {
	values := make([]driver.Value, len(args))
	for i, a := range args {
		if a.Name != "" {
			return nil, errors.New("sql: driver does not support the use of Named Parameters")
		}
		values[i] = a.Value
	}
	return values, ctx.Err()
}
