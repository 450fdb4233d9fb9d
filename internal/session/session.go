package session

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"log/slog"
	"net"
	"time"

	"github.com/go-lifeguard/lifeguard/internal/intercept"
	"github.com/go-lifeguard/lifeguard/internal/libpq"
	"github.com/go-lifeguard/lifeguard/internal/stmtcache"
)

// Session is one physical connection. It has one owner at a time, who alone may call its methods, but for Cut and PID.
type Session struct {
	cfg    *Config
	raw    driver.Conn // the wrapped driver's
	socket net.Conn    // under it; nil where it cannot be reached
	held   *sql.Conn   // the inner *sql.DB's hold, for life
	kind   libpq.Kind
	can    abilities
	cache  *stmtcache.Cache
	cancel *libpq.Canceller
	pgx    libpq.PgxConn   // pgx's own connection; nil if it is not pgx's
	chain  *intercept.Conn // the way through the interceptors; nil if there are none

	statements map[*Stmt]struct{} // open ones that are not kept
	spoiled    bool               // it must not be used again
	silenced   bool               // nothing more may run on it
	sawEnd     bool               // an operation met the end of its context since Reset
	closeErr   error              // the driver's answer to Close
	watched    bool               // the next result ends the canceller's watch
	pid        int64              // of the server's process; 0 if it is not known

	Spare any // room for the next result: of whoever has the session, who alone looks at it
}

// abilities are what the wrapped connection can do, found once.
type abilities struct {
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
}

var _ driver.Conn = (*Session)(nil) // of the inner *sql.DB, which runs nothing on it

func newSession(cfg *Config, conn driver.Conn, socket net.Conn) *Session {
	s := &Session{cfg: cfg, raw: conn, socket: socket, kind: libpq.KindOf(conn)}
	s.pid, _ = libpq.BackendPID(conn)
	if own := libpq.PgxOf(conn); own != nil {
		s.pgx, s.socket, s.pid = own, own.Conn(), int64(own.PID())
	} else if s.kind == libpq.PgxStdlib {
		cfg.strangePgx.Do(func() {
			cfg.Log.Warn("lifeguard: this version of pgx is not known: socket_timeout does not reach its sockets", slog.String("pool", cfg.Name))
		})
	}
	c := &s.can
	c.pinger, _ = conn.(driver.Pinger)
	c.execer, _ = conn.(driver.ExecerContext)
	c.queryer, _ = conn.(driver.QueryerContext)
	if c.execer == nil {
		//lint:ignore SA1019 what a driver has must go on working
		c.oldExecer, _ = conn.(driver.Execer)
	}
	if c.queryer == nil {
		//lint:ignore SA1019 what a driver has must go on working
		c.oldQueryer, _ = conn.(driver.Queryer)
	}
	c.preparer, _ = conn.(driver.ConnPrepareContext)
	c.beginner, _ = conn.(driver.ConnBeginTx)
	c.resetter, _ = conn.(driver.SessionResetter)
	c.validator, _ = conn.(driver.Validator)
	c.checker, _ = conn.(driver.NamedValueChecker)
	s.cache = cfg.Statements.New(s.kind, conn, unobserved{s}, libpq.BinaryParameters(conn, cfg.DSN))
	s.chain = intercept.New(behind{s}, cfg.Interceptors)
	if s.chain == nil { // an interceptor may close rows without the session's notice
		s.cancel = libpq.NewCanceller(conn, socket, libpq.SocketOptions{SocketTimeout: cfg.SocketTimeout})
	}
	return s
}

// PID is the server's process behind the session; 0 if it is not known. It never changes, so anybody may ask.
func (s *Session) PID() int64 { return s.pid }

// Raw gives the wrapped driver's connection to the session's owner.
func (s *Session) Raw() driver.Conn {
	s.cache.Shown()
	return s.raw
}

// CanExec and CanQuery say whether the connection runs a text without preparing it.
func (s *Session) CanExec() bool  { return s.can.execer != nil || s.can.oldExecer != nil }
func (s *Session) CanQuery() bool { return s.can.queryer != nil || s.can.oldQueryer != nil }

// CanPing says whether the connection can be asked for an answer.
func (s *Session) CanPing() bool { return s.can.pinger != nil }

// SurvivesRollback says whether database/sql would keep the wrapped connection after a rollback at the end of a context.
// It does so for drivers that can reset a connection and say whether it is valid.
func (s *Session) SurvivesRollback() bool { return s.can.resetter != nil && s.can.validator != nil }

// Checker is the connection's own look at arguments; nil if it has none.
func (s *Session) Checker() driver.NamedValueChecker { return s.can.checker }

// Spoiled says whether the session must be closed at its return.
func (s *Session) Spoiled() bool { return s.spoiled }

// Silenced says whether nothing more may run on it: lib/pq would have given the connection up.
func (s *Session) Silenced() bool { return s.silenced }

// SawEnd says whether an operation met the end of its context. A connection that its driver gave up for that says
// nothing about others.
func (s *Session) SawEnd() bool { return s.sawEnd }

// NoteEnd notes that the context of what runs has ended.
func (s *Session) NoteEnd() { s.sawEnd = true }

// Takeover makes the session another lease's: what the one before prepared and did not close is closed.
func (s *Session) Takeover() {
	s.sawEnd = false
	s.cache.TakeOver(s.closeStatements)
}

// Reset prepares the session for its next user. Errors that database/sql ignores are nil here.
func (s *Session) Reset(ctx context.Context) error {
	s.sawEnd = false
	if s.can.resetter == nil {
		return nil
	}
	var b *bound
	if s.kind != libpq.LibPQ { // which asks the server nothing; pgx pings
		ctx, b = s.bound(ctx)
	}
	err := s.can.resetter.ResetSession(ctx)
	_ = b.end(err) // nobody sees what it says: another attempt follows
	if errors.Is(err, driver.ErrBadConn) {
		return driver.ErrBadConn
	}
	return nil
}

// Valid asks the driver whether the connection can be used again.
func (s *Session) Valid() bool { return s.can.validator == nil || s.can.validator.IsValid() }

// Validates says whether the driver has an answer to that.
func (s *Session) Validates() bool { return s.can.validator != nil }

// Probe asks the connection for an answer on the pool's behalf, not through the interceptors. ErrBadConn without a
// Pinger. When ctx ends, the socket ends with it: the end of a context alone does not end lib/pq's ping.
func (s *Session) Probe(ctx context.Context) error {
	if s.can.pinger == nil {
		return driver.ErrBadConn
	}
	stop := context.AfterFunc(ctx, func() { s.setDeadline(time.Unix(1, 0)) })
	err := contain(theDriver, "answered a ping", func() error { return s.can.pinger.Ping(ctx) })
	if !stop() {
		return ctx.Err()
	}
	return err
}

// Judge looks at the error of an operation for what it says about the connection, and says whether the connection broke
// by itself.
func (s *Session) Judge(ctx context.Context, err error) (broke bool) {
	if err == nil {
		return false
	}
	if ctx.Err() != nil {
		s.sawEnd = true
	}
	if s.kind == libpq.LibPQ && !s.silenced && libpq.OutOfStep(err) {
		// The rest of the reply would be the answer to the next question. On a socket that is closed, lib/pq's Close
		// notes that the connection is bad, and rows that are still to be closed do not read on.
		s.silence()
		s.Cut()
		_ = s.raw.Close()
		return false
	}
	if errors.Is(err, driver.ErrBadConn) || errors.Is(err, ErrOutcomeUnknown) {
		s.spoiled = true
		return !s.sawEnd
	}
	return false
}

// Demoted says whether an error outside of read-only transactions means that the server has become read-only. PostgreSQL
// gives the same error where a program has set its session so; it is asked, which a failed transaction does not allow.
func (s *Session) Demoted(ctx context.Context, err error) bool {
	if s.cfg.standby || !libpq.ReadOnly(err) {
		return false
	}
	if libpq.Code(err) != "25006" {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	standby, err := s.ask(ctx, "SELECT pg_is_in_recovery()")
	return err == nil && standby == true
}

func (s *Session) silence() { s.spoiled, s.silenced = true, true }

// Cut closes the socket from outside, which ends what runs. It says whether there was one to close.
func (s *Session) Cut() bool { return s.socket != nil && s.socket.Close() == nil }

func (s *Session) setDeadline(t time.Time) {
	if s.socket != nil {
		// A socket that cannot take a deadline is closed already, which the operation finds out by itself.
		_ = s.socket.SetDeadline(t)
	}
}

// writes is how often something was sent, for once; -1 if nobody counts.
func (s *Session) writes() int64 {
	if !s.cfg.AtMostOnce {
		return 0
	}
	if n, ok := libpq.Sent(s.socket); ok {
		return n
	}
	return -1
}

// once is the error of an operation that must not be sent twice. before is what writes said before it. Where the writes
// are not counted, every ErrBadConn counts as sent.
func (s *Session) once(before int64, err error) error {
	if !s.cfg.AtMostOnce || !errors.Is(err, driver.ErrBadConn) {
		return err
	}
	if now := s.writes(); before >= 0 && now == before {
		return err
	}
	s.spoiled = true
	return &outcomeUnknownError{text: err.Error()}
}

// Ended says whether the server has closed the connection while nothing ran, as far as its socket shows.
func (s *Session) Ended() bool { return s.socket != nil && libpq.Ended(s.socket) }

// AtMostOnce says whether a statement must not be sent twice.
func (s *Session) AtMostOnce() bool { return s.cfg.AtMostOnce }

// Close is called by the inner *sql.DB, once. It keeps the error for CloseSession, to which database/sql does not give it.
func (s *Session) Close() error {
	if s.socket != nil {
		// PostgreSQL forgets them with the connection. To close them takes a round trip each, and one that is half open
		// would keep its slot for socket_timeout.
		s.spoiled = true
	}
	err := contain(theDriver, "closed a connection", func() error {
		s.closeStatements()
		s.cache.Close()
		return s.raw.Close()
	})
	if crash, ok := err.(*PanicError); ok {
		s.cfg.Log.Error("lifeguard: the driver did not close a connection", slog.String("pool", s.cfg.Name),
			slog.Any("error", err), slog.String("stack", string(crash.Stack)))
		s.Cut()
	}
	s.closeErr = err
	return err
}

// closeStatements closes what a user has left open. On a spoiled connection it goes with the connection.
func (s *Session) closeStatements() {
	for st := range s.statements {
		delete(s.statements, st)
		if s.spoiled {
			continue
		}
		if err := contain(theDriver, "closed a statement", st.release); errors.As(err, new(*PanicError)) {
			s.spoiled = true
		}
	}
}

// LeaveStatements leaves open statements to the end of the connection.
func (s *Session) LeaveStatements() { clear(s.statements) }

// errInner answers what nobody asks of a session: the inner *sql.DB hands out connections and runs nothing on them.
var errInner = errors.New("lifeguard: sessions are used through leases")

// Prepare and Begin complete driver.Conn.
func (s *Session) Prepare(string) (driver.Stmt, error) { return nil, errInner }
func (s *Session) Begin() (driver.Tx, error)           { return nil, errInner }
