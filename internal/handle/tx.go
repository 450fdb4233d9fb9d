package handle

import (
	"context"
	"database/sql"
	"database/sql/driver"

	"github.com/go-lifeguard/lifeguard/internal/observe"
)

// tx is a transaction on a lease. It is used again: database/sql does not touch a transaction after its end.
type tx struct {
	lease  *lease // nil after its end
	parent driver.Tx
	ctx    context.Context // of BeginTx: when it ends, database/sql rolls back
}

var _ driver.Tx = (*tx)(nil)

// BeginTx begins a transaction.
func (l *lease) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	if err := l.begin(ctx, observe.Begin, ""); err != nil {
		return nil, err
	}
	ok := false
	defer l.guard(&ok)
	parent, err := l.s.BeginTx(ctx, opts)
	l.end(ctx, "", err)
	ok = true
	if err != nil {
		return nil, err
	}
	t := &l.tx
	if t.lease != nil {
		t = new(tx) // the driver lets a transaction begin inside another
	}
	t.lease, t.parent, t.ctx = l, parent, ctx
	return t, nil
}

// Begin is not called by database/sql, which prefers BeginTx.
func (l *lease) Begin() (driver.Tx, error) {
	return l.BeginTx(context.Background(), driver.TxOptions{})
}

// Commit commits the transaction.
func (t *tx) Commit() error { return t.end(observe.Commit) }

// Rollback rolls the transaction back. database/sql keeps a connection after a rollback at the end of a context only if
// the driver can reset it and say whether it is valid, which every lease can. Where the wrapped one cannot, the session
// is retired: it is closed at once, as on the plain driver, and what follows on a sql.Conn is sql.ErrConnDone. The answer
// is the driver's own: driver.ErrBadConn would have database/sql close the sql.Conn, and be what the caller gets.
func (t *tx) Rollback() error {
	l := t.lease
	if l == nil || t.ctx.Err() == nil {
		return t.end(observe.Rollback)
	}
	l.s.NoteEnd()
	err := t.end(observe.Rollback)
	if !l.s.SurvivesRollback() {
		l.retire(sql.ErrConnDone)
	}
	return err
}

func (t *tx) end(kind observe.Kind) error {
	l, ctx, parent := t.lease, t.ctx, t.parent
	if l == nil {
		return sql.ErrTxDone
	}
	if err := l.begin(ctx, kind, ""); err != nil {
		return err
	}
	t.lease, t.ctx, t.parent = nil, nil, nil // no context outlives its use
	ok := false
	defer l.guard(&ok)
	err := l.s.EndTx(parent, kind == observe.Commit)
	l.end(ctx, "", err)
	ok = true
	return err
}
