package lifeguard

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"

	"github.com/lib/pq"
)

const poolerHint = "; prepared statements do not survive a pooler in transaction mode: " +

	"if there is one, such as PgBouncer, add pgbouncer=true to the DSN"

// explain adds to an error that is a riddle to whoever meets it for the first time. lib/pq's errors keep their type.
func (s *session) explain(err error) error {
	c := &s.kept
	switch {
	case c.kind != libPQ && c.kind != pgxStdlib, c.forgot:
		return err
	case statementUnknown(err):
	case c.pooler == poolerRaw && serverCode(err) == "08P01": // another client's, with another number of arguments
	default:
		return err
	}
	if e, ok := err.(*pq.Error); ok { // lib/pq's own, as it comes from there
		explained := *e
		explained.Message += poolerHint
		return &explained
	}
	return &lostStatementError{err}
}

// explainQuery is explain for queries that lib/pq runs on a statement without a name, which can be lost, too.
func (s *session) explainQuery(err error, args []driver.NamedValue) error {
	if len(args) == 0 || s.kept.kind != libPQ {
		return err
	}
	return s.explain(err)
}

// lostStatementError is an explained error of a driver whose own type is not known here.
type lostStatementError struct{ error }

func (e *lostStatementError) Error() string { return e.error.Error() + poolerHint }

func (e *lostStatementError) Unwrap() error { return e.error }

// poolerState is what is known about what stands between a session and its server.
type poolerState uint8

const (
	poolerUnknown poolerState = iota
	poolerNone                // the server itself, or nothing that can be told from it
	poolerNames               // a pooler that keeps the statements of its clients apart
	poolerRaw                 // one that does not, or of which it is not known
)

// trusted says whether statements may be kept: that those prepared on the session will be found there again.
//
// A pooler in transaction mode that knows nothing of prepared statements would give each transaction another server
// connection, on which a name stands for nothing, or for a statement of another client: lib/pq numbers them from 1 on
// every connection. The wrong statement would run. So it is looked for before the first statement: PostgreSQL gives
// its process number to each client for cancelling queries, and a pooler has to give another.
func (s *session) trusted(ctx context.Context) (bool, error) {
	c := &s.kept
	if c.pooler != poolerUnknown {
		return true, nil
	}
	if c.kind != libPQ { // pgx names statements after their text, MySQL's protocol does not let clients name them
		c.pooler = poolerNone
		return true, nil
	}
	told, ok := cancelProcess(s.conn)
	if !ok {
		c.pooler = poolerNone
		return true, nil
	}
	pid, err := s.ask(ctx, "SELECT pg_backend_pid()")
	if err != nil {
		return false, s.ignorable(ctx, err)
	}
	if pid == told {
		c.pooler = poolerNone
		return true, nil
	}
	verdict := poolerState(s.pool.pooler.Load())
	if verdict == poolerUnknown {
		if s.inTransaction() {
			return false, nil // which trying out might spoil
		}
		if verdict, err = s.tryNames(ctx); err != nil {
			return false, s.ignorable(ctx, err)
		}
		if s.pool.pooler.Swap(int32(verdict)) == int32(poolerUnknown) && verdict == poolerRaw {
			s.pool.log.Warn("lifeguard: a connection pooler stands before PostgreSQL that may not keep prepared statements: "+
				"the statement cache is off; if the pooler is in transaction mode, add pgbouncer=true to the DSN",
				slog.String("pool", s.pool.name))
		}
	}
	c.pooler = verdict
	if verdict == poolerRaw {
		c.max = 0
		return false, nil
	}
	return true, nil
}

// ignorable keeps the errors of a look at the server to itself, unless the connection did not survive it: the caller's
// own statement will meet the cause.
func (s *session) ignorable(ctx context.Context, err error) error {
	if errors.Is(err, driver.ErrBadConn) || ctx.Err() != nil || !s.valid() {
		return err
	}
	return nil
}

// tryNames finds out whether a pooler translates the names of statements, as PgBouncer does since 1.21: it prepares one
// and looks it up under the name that the server has for it. All of it in a transaction, which no pooler distributes.
func (s *session) tryNames(ctx context.Context) (verdict poolerState, err error) {
	tx, err := s.begin(ctx, driver.TxOptions{ReadOnly: true})
	if err != nil {
		return poolerUnknown, err
	}
	defer func() {
		if e := tx.Rollback(); err == nil {
			err = e
		}
	}()
	const text = "SELECT count(*) FROM pg_prepared_statements WHERE statement = $1 AND name !~ '^[0-9]+$'"
	st, err := s.prepare(ctx, text)
	if statementUnknown(err) {
		return poolerRaw, nil // another client has the name
	}
	if err != nil {
		return poolerUnknown, err
	}
	k := &prepared{parent: st}
	k.queryer, _ = st.(driver.StmtQueryContext)
	rows, err := k.query(ctx, []driver.NamedValue{{Ordinal: 1, Value: text}})
	if err != nil {
		return poolerUnknown, err
	}
	translated, err := number(rows)
	if err != nil {
		return poolerUnknown, err
	}
	if err := st.Close(); err != nil {
		return poolerUnknown, err
	}
	if translated > 0 {
		return poolerNames, nil
	}
	return poolerRaw, nil
}

// ask runs a query of lifeguard's own that gives a number.
func (s *session) ask(ctx context.Context, query string) (int64, error) {
	rows, err := s.queryDirect(ctx, query, nil)
	if err != nil {
		return 0, err
	}
	return number(rows)
}

// number reads the one number of a result and closes it.
func number(rows driver.Rows) (int64, error) {
	value := make([]driver.Value, 1)
	err := rows.Next(value)
	if e := rows.Close(); err == nil {
		err = e
	}
	if err != nil {
		return 0, err
	}
	n, ok := value[0].(int64)
	if !ok {
		return 0, fmt.Errorf("lifeguard: the server answered with %T where a number was expected", value[0])
	}
	return n, nil
}
