package session

import (
	"context"
	"database/sql/driver"

	"github.com/go-lifeguard/lifeguard/internal/fallback"
	"github.com/go-lifeguard/lifeguard/internal/libpq"
	"github.com/go-lifeguard/lifeguard/internal/stmtcache"
)

// Stmt is a statement that a user prepared on a session.
type Stmt struct {
	session *Session
	query   string
	kept    *stmtcache.Statement // nil behind interceptors
	chain   driver.Stmt          // through the interceptors; nil if there are none
}

// NumInput is the number of placeholders, -1 if it is not known.
func (st *Stmt) NumInput() int {
	if st.chain != nil {
		return st.chain.NumInput()
	}
	return st.kept.NumInput()
}

// driver gives the statement that says how arguments are converted. After an operation it may be another.
func (st *Stmt) driver() driver.Stmt {
	if st.chain != nil {
		return statementBehind(st.chain)
	}
	return st.kept.Driver()
}

// Checker is the statement's own look at arguments; nil if it has none.
func (st *Stmt) Checker() driver.NamedValueChecker {
	c, _ := st.driver().(driver.NamedValueChecker)
	return c
}

// Converter is how the statement converts arguments; nil if it does not.
//
//lint:ignore SA1019 what a driver has must go on working
func (st *Stmt) Converter() driver.ColumnConverter {
	//lint:ignore SA1019 what a driver has must go on working
	c, _ := st.driver().(driver.ColumnConverter)
	return c
}

// Exec runs the statement.
func (st *Stmt) Exec(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	s := st.session
	inner, b := s.bound(ctx)
	before := s.writes()
	if st.chain != nil {
		res, err := fallback.Stmt{Stmt: st.chain}.ExecContext(inner, args)
		return res, b.end(s.once(before, err))
	}
	watched := false
	if !st.kept.Copying() { // which is not cancelled like a query
		inner, watched = s.watch(inner)
	}
	res, err := st.kept.Exec(inner, args)
	if watched {
		s.unwatch()
	}
	return res, b.end(s.once(before, err))
}

// Query runs the statement. Without an error, CloseResult has to follow.
func (st *Stmt) Query(ctx context.Context, args []driver.NamedValue, to *Result) (err error) {
	s := st.session
	inner, b := s.bound(ctx)
	before := s.writes()
	watched := false
	if st.chain != nil {
		to.Rows, err = fallback.Stmt{Stmt: st.chain}.QueryContext(inner, args)
	} else {
		if !st.kept.Copying() { // which is not cancelled like a query
			inner, watched = s.watch(inner)
		}
		to.Rows, err = st.kept.Query(inner, args)
		to.kept = st.kept
	}
	if err != nil {
		if watched {
			s.unwatch()
		}
		*to = Result{}
		return b.end(s.once(before, err))
	}
	s.watched = watched
	s.opened(to, false, b)
	return nil
}

// Close closes the statement. On a session that is spoiled it goes with the connection.
func (st *Stmt) Close() error {
	s := st.session
	if _, open := s.statements[st]; !open {
		return nil
	}
	delete(s.statements, st)
	return st.release()
}

func (st *Stmt) release() error {
	s := st.session
	if st.chain != nil {
		return st.chain.Close()
	}
	if s.socket == nil {
		return st.kept.Close()
	}
	if s.spoiled && s.kind == libpq.LibPQ {
		return driver.ErrBadConn // as lib/pq says of a connection that it has given up; one that is silent it asks
	}
	b := s.boundSocket(context.Background())
	return b.end(st.kept.Close())
}
