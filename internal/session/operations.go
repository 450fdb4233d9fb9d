package session

import (
	"context"
	"database/sql/driver"
	"errors"

	"github.com/go-lifeguard/lifeguard/internal/fallback"
	"github.com/go-lifeguard/lifeguard/internal/stmtcache"
)

// Result is a query's, open until CloseResult.
type Result struct {
	Rows driver.Rows

	kept    *stmtcache.Statement // that gave the rows; nil for a text that the driver ran
	direct  bool                 // the user ran a text, not a statement
	watched bool
	bound   *bound
}

// Exec runs a text.
func (s *Session) Exec(ctx context.Context, query string, args []driver.NamedValue) (res driver.Result, err error) {
	inner, b := s.bound(ctx)
	before := s.writes()
	if s.chain != nil {
		res, err = s.chain.ExecContext(inner, query, args)
	} else {
		res, err = s.exec(inner, query, args)
	}
	return res, b.end(s.once(before, err))
}

// Query runs a text. Without an error, CloseResult has to follow.
func (s *Session) Query(ctx context.Context, query string, args []driver.NamedValue, to *Result) (err error) {
	inner, b := s.bound(ctx)
	before := s.writes()
	if s.chain != nil {
		to.Rows, err = s.chain.QueryContext(inner, query, args)
		to.kept = statementOf(to.Rows)
	} else {
		to.Rows, to.kept, err = s.query(inner, query, args)
	}
	if err != nil {
		to.Rows = nil
		return b.end(s.once(before, err))
	}
	s.opened(to, true, b)
	return nil
}

func (s *Session) opened(r *Result, direct bool, b *bound) {
	r.direct, r.bound, r.watched = direct, b, s.watched
	s.watched = false
	s.cache.Opened(r.kept)
}

// CloseResult closes the rows of a query whose caller's context was ctx.
func (s *Session) CloseResult(ctx context.Context, r *Result) error {
	err := r.Rows.Close()
	if err != nil {
		s.Judge(ctx, err) // first, so that nothing more is tried on a connection that does not answer
		err = s.Explain(r, err)
	}
	s.cache.Closed(r.kept)
	cancelled := r.watched && s.unwatch()
	if cancelled || r.kept != nil {
		s.ended(ctx, r.direct)
	}
	err = r.bound.end(err)
	*r = Result{} // no request outlives its use
	return err
}

// Explain says what an error of reading rows means if socket_timeout caused it.
func (s *Session) Explain(r *Result, err error) error {
	_ = s.cache.Explain(err) // which notes that an operation failed
	err, _ = r.bound.explain(err)
	return err
}

// exec and query run a text behind the interceptors.

func (s *Session) exec(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	inner, watched := s.watch(ctx)
	res, handled, err := s.cache.Exec(inner, query, args)
	if !handled {
		res, err = s.execDirect(inner, query, args)
		err = s.explainDirect(err, args)
	}
	if watched && s.unwatch() || handled && err != nil {
		s.ended(ctx, true)
	}
	return res, err
}

func (s *Session) query(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, *stmtcache.Statement, error) {
	inner, watched := s.watch(ctx)
	rows, kept, handled, err := s.cache.Query(inner, query, args)
	if !handled {
		rows, err = s.queryDirect(inner, query, args)
		err = s.explainDirect(err, args)
	}
	if err == nil {
		s.watched = watched // until the rows are closed
		return rows, kept, nil
	}
	if watched && s.unwatch() || handled {
		s.ended(ctx, true)
	}
	return nil, nil, err
}

// explainDirect has the cache look at an error. That of a text with arguments it explains: lib/pq runs it on a statement
// without a name, which a pooler can lose as well.
func (s *Session) explainDirect(err error, args []driver.NamedValue) error {
	if err == nil {
		return nil
	}
	explained := s.cache.Explain(err)
	if len(args) == 0 {
		return err
	}
	return explained
}

// watch has the canceller look after ctx.
func (s *Session) watch(ctx context.Context) (context.Context, bool) { return s.cancel.Watch(ctx) }

// unwatch ends that, and says whether the server was asked to cancel.
func (s *Session) unwatch() bool {
	cancelled, arrived := s.cancel.Unwatch()
	if cancelled && !arrived {
		s.spoiled = true // the request may still arrive, and meet another operation
	}
	return cancelled
}

// ended looks after a connection on which an operation met the end of its context. lib/pq's statements keep the
// connection, its texts give it up; so do texts that ran on kept statements.
func (s *Session) ended(ctx context.Context, direct bool) {
	if direct && ctx.Err() != nil {
		s.sawEnd = true
		s.silence()
	}
}

// execDirect and queryDirect run a text on the driver, as database/sql would.

func (s *Session) execDirect(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	if s.can.execer != nil {
		return s.can.execer.ExecContext(ctx, query, args)
	}
	if s.can.oldExecer == nil {
		return nil, driver.ErrSkip // only an interceptor can have asked
	}
	values, err := fallback.Positional(ctx, args)
	if err != nil {
		return nil, err
	}
	return s.can.oldExecer.Exec(query, values)
}

func (s *Session) queryDirect(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	if s.can.queryer != nil {
		return s.can.queryer.QueryContext(ctx, query, args)
	}
	if s.can.oldQueryer == nil {
		return nil, driver.ErrSkip
	}
	values, err := fallback.Positional(ctx, args)
	if err != nil {
		return nil, err
	}
	return s.can.oldQueryer.Query(query, values)
}

// ask runs a query on the connection itself and gives the first value of its first row.
func (s *Session) ask(ctx context.Context, query string) (driver.Value, error) {
	rows, err := s.queryDirect(ctx, query, nil)
	if err != nil {
		return nil, err
	}
	values := make([]driver.Value, len(rows.Columns()))
	err = rows.Next(values)
	var value driver.Value
	if err == nil {
		value = values[0]
		if b, ok := value.([]byte); ok {
			value = string(b) // the driver's buffer ends with the rows
		}
	}
	if e := rows.Close(); err == nil {
		err = e
	}
	return value, err
}

func (s *Session) prepareDirect(ctx context.Context, query string) (driver.Stmt, error) {
	if s.can.preparer != nil {
		return s.can.preparer.PrepareContext(ctx, query)
	}
	return fallback.Prepare(ctx, s.raw, query)
}

// unobserved is the connection as the statement cache uses it.
type unobserved struct{ s *Session }

var _ stmtcache.Conn = unobserved{}

func (u unobserved) Prepare(ctx context.Context, query string) (driver.Stmt, error) {
	return u.s.prepareDirect(ctx, query)
}

func (u unobserved) Query(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	return u.s.queryDirect(ctx, query, args)
}

func (u unobserved) Exec(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	return u.s.execDirect(ctx, query, args)
}

// BeginTx begins a transaction.
func (s *Session) BeginTx(ctx context.Context, opts driver.TxOptions) (tx driver.Tx, err error) {
	b := s.boundSocket(ctx) // the driver keeps ctx for longer than this
	if s.chain != nil {
		tx, err = s.chain.BeginTx(ctx, opts)
	} else {
		tx, err = s.begin(ctx, opts)
	}
	return tx, b.end(err)
}

func (s *Session) begin(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	s.cache.Begins()
	if s.can.beginner != nil {
		return s.can.beginner.BeginTx(ctx, opts)
	}
	return fallback.Begin(ctx, s.raw, opts)
}

// EndTx commits or rolls back a transaction of this session.
func (s *Session) EndTx(tx driver.Tx, commit bool) (err error) {
	b := s.boundSocket(context.Background())
	if commit {
		before := s.writes()
		err = s.once(before, tx.Commit())
	} else {
		err = tx.Rollback()
	}
	s.cache.Ended()
	return b.end(err)
}

// Ping asks the connection for an answer on the user's behalf.
func (s *Session) Ping(ctx context.Context) (err error) {
	inner, b := s.bound(ctx)
	if s.chain != nil {
		err = s.chain.Ping(inner)
	} else {
		err = s.can.pinger.Ping(inner)
	}
	return b.end(err)
}

// PrepareStmt prepares a statement.
func (s *Session) PrepareStmt(ctx context.Context, query string) (st *Stmt, err error) {
	inner, b := s.bound(ctx)
	st = &Stmt{session: s, query: query}
	if s.chain != nil {
		st.chain, err = s.chain.PrepareContext(inner, query)
		if err == nil && st.chain == nil {
			err = errors.New("lifeguard: an interceptor returned neither a statement nor an error")
		}
	} else {
		st.kept, err = s.cache.Prepare(inner, query)
	}
	if err = b.end(err); err != nil {
		return nil, err
	}
	if s.statements == nil {
		s.statements = map[*Stmt]struct{}{}
	}
	s.statements[st] = struct{}{}
	return st, nil
}
