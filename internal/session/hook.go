package session

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-lifeguard/lifeguard/internal/fallback"
)

// AfterConnect is called on every new connection, before anybody gets it.
type AfterConnect func(ctx context.Context, conn *sql.Conn) error

// run runs the hook on a new session, and says why the session must not be used. The hook gets a *sql.Conn of a
// throw-away *sql.DB: that of the inner one could not be closed while the hook has rows open. The connection under it is
// cut off when the hook returns, panics or has no time left, so that nothing it keeps can reach the session.
func (hook AfterConnect) run(ctx context.Context, s *Session, patience time.Duration) error {
	bounded, cancel := context.WithTimeout(ctx, hookTime(patience))
	defer cancel()
	cut := &detachable{session: s}
	db := sql.OpenDB(cut)
	db.SetMaxOpenConns(1)
	defer func() { _ = db.Close() }()
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	err = callHook(bounded, "WithAfterConnect", func() error { return hook(bounded, conn) })
	if errors.As(err, new(*HangError)) {
		s.Cut() // ends what it runs
	}
	if open := cut.detach(); err == nil && open != "" {
		err = fmt.Errorf("lifeguard: the hook of WithAfterConnect left %s open", open)
	}
	if err == nil {
		err = conn.Close()
	}
	return err
}

// callHook runs a hook on a goroutine of its own, and says how it failed. One that has not returned when ctx ends is left alone.
func callHook(ctx context.Context, name string, hook func() error) error {
	who, began := "the hook of "+name, time.Now()
	ended := make(chan error, 1)
	go func() { ended <- contain(who, "", hook) }() // ends with the hook
	select {
	case err := <-ended:
		if _, panicked := err.(*PanicError); err != nil && !panicked { // the hook's own, not one that it passes on
			err = fmt.Errorf("lifeguard: %s failed: %w", who, err)
		}
		return err
	case <-ctx.Done():
		return &HangError{Hook: name, For: time.Since(began)}
	}
}

// hookTime is how long a hook may take. Its error has to reach the caller before pool_timeout ends the wait.
func hookTime(patience time.Duration) time.Duration {
	if patience <= 0 {
		return time.Minute
	}
	return patience - patience/10
}

// HangError says that a hook did not return. It matches no end of a context: another dial would not mend it.
type HangError struct {
	Hook string
	For  time.Duration
}

func (e *HangError) Error() string {
	return fmt.Sprintf("lifeguard: the hook of %s has not returned within %v", e.Hook, e.For.Round(time.Millisecond))
}

// detachable is a session as the throw-away *sql.DB has it.
type detachable struct {
	session *Session

	off  atomic.Bool
	mu   sync.Mutex // held during calls
	rows int        // guarded by mu; open ones
	inTx bool       // guarded by mu
}

var (
	_ driver.Connector          = (*detachable)(nil)
	_ driver.ConnPrepareContext = (*detachable)(nil)
	_ driver.ConnBeginTx        = (*detachable)(nil)
	_ driver.ExecerContext      = (*detachable)(nil)
	_ driver.QueryerContext     = (*detachable)(nil)
	_ driver.NamedValueChecker  = (*detachable)(nil)
)

// detach cuts the connection off, and names what was left open on it.
func (d *detachable) detach() string {
	d.off.Store(true)
	if !d.mu.TryLock() {
		return "an operation"
	}
	defer d.mu.Unlock()
	switch {
	case d.rows > 0:
		return "rows"
	case d.inTx:
		return "a transaction"
	}
	return ""
}

// call runs f on the session, unless it is cut off.
func (d *detachable) call(f func(*Session) error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.off.Load() {
		return driver.ErrBadConn
	}
	return f(d.session)
}

func (d *detachable) Connect(context.Context) (driver.Conn, error) { return d, nil }
func (d *detachable) Driver() driver.Driver                        { return nil }
func (d *detachable) Close() error                                 { return nil }

func (d *detachable) Prepare(query string) (driver.Stmt, error) {
	return d.PrepareContext(context.Background(), query)
}

func (d *detachable) PrepareContext(ctx context.Context, query string) (st driver.Stmt, err error) {
	err = d.call(func(s *Session) error {
		if st, err = s.prepareDirect(ctx, query); err == nil {
			st = hookStmt{st, d}
		}
		return err
	})
	return st, err
}

func (d *detachable) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (res driver.Result, err error) {
	err = d.call(func(s *Session) error { res, err = s.execDirect(ctx, query, args); return err })
	return res, err
}

func (d *detachable) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (rows driver.Rows, err error) {
	return d.query(func(s *Session) (driver.Rows, error) { return s.queryDirect(ctx, query, args) })
}

func (d *detachable) query(run func(*Session) (driver.Rows, error)) (rows driver.Rows, err error) {
	err = d.call(func(s *Session) error {
		if rows, err = run(s); err == nil {
			rows = &hookRows{Rows: rows, of: d}
			d.rows++
		}
		return err
	})
	return rows, err
}

// hookStmt runs through the detachable, too.
type hookStmt struct {
	driver.Stmt
	of *detachable
}

func (st hookStmt) ExecContext(ctx context.Context, args []driver.NamedValue) (res driver.Result, err error) {
	err = st.of.call(func(*Session) error { res, err = fallback.Stmt{Stmt: st.Stmt}.ExecContext(ctx, args); return err })
	return res, err
}

func (st hookStmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	return st.of.query(func(*Session) (driver.Rows, error) { return fallback.Stmt{Stmt: st.Stmt}.QueryContext(ctx, args) })
}

func (st hookStmt) Close() error { return st.of.call(func(*Session) error { return st.Stmt.Close() }) }

func (d *detachable) Begin() (driver.Tx, error) {
	return d.BeginTx(context.Background(), driver.TxOptions{})
}

func (d *detachable) BeginTx(ctx context.Context, opts driver.TxOptions) (tx driver.Tx, err error) {
	err = d.call(func(s *Session) error {
		if tx, err = s.begin(ctx, opts); err == nil {
			tx = hookTx{tx, d}
			d.inTx = true
		}
		return err
	})
	return tx, err
}

func (d *detachable) CheckNamedValue(v *driver.NamedValue) error {
	return d.call(func(s *Session) error {
		if s.can.checker == nil {
			return driver.ErrSkip
		}
		return s.can.checker.CheckNamedValue(v)
	})
}

// Unwrapped is how lifeguard.Unwrap finds the wrapped driver's connection, within Raw.
func (d *detachable) Unwrapped() any { return d.session.Raw() }

// hookRows count as open until they are closed.
type hookRows struct {
	driver.Rows
	of     *detachable
	closed bool
}

func (r *hookRows) Next(dest []driver.Value) error {
	return r.of.call(func(*Session) error { return r.Rows.Next(dest) })
}

func (r *hookRows) Close() error {
	return r.of.call(func(*Session) error {
		if !r.closed {
			r.closed = true
			r.of.rows--
		}
		return r.Rows.Close()
	})
}

// hookTx counts as open until its end.
type hookTx struct {
	tx driver.Tx
	of *detachable
}

func (t hookTx) Commit() error {
	return t.of.call(func(*Session) error { t.of.inTx = false; return t.tx.Commit() })
}

func (t hookTx) Rollback() error {
	return t.of.call(func(*Session) error { t.of.inTx = false; return t.tx.Rollback() })
}
