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

func (t *tx) Commit() error { return t.end(observe.Commit) }

// Rollback rolls the transaction back. database/sql keeps a connection after a rollback at the end of a context only if
// the driver can reset it and say whether it is valid, which every lease can. Where the wrapped one cannot, the session
// is retired: it is closed at once, as on the plain driver, and what follows on a sql.Conn is sql.ErrConnDone. The answer
// is the driver's own: driver.ErrBadConn would have database/sql close the sql.Conn, and be what the caller gets.
func (t *tx) Rollback() error {
	l := t.lease
	if l == nil || t.ctx.Err() == nil || l.gone.Load() {
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
	return l.run(ctx, kind, "", func() error {
		t.lease, t.ctx, t.parent = nil, nil, nil // no context outlives its use
		l.readOnly = false
		return l.s.EndTx(parent, kind == observe.Commit)
	})
}
