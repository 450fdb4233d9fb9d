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

// Commit commits the transaction.
func (t *tx) Commit() error { return t.end(observe.Commit) }

// Rollback rolls the transaction back. database/sql keeps a connection after a rollback at the end of a context only if
// the driver can reset it and say whether it is valid, which every lease can. Where the wrapped one cannot, the session
// is retired; the answer is the driver's own.
func (t *tx) Rollback() error {
	if l := t.lease; l != nil && t.ctx.Err() != nil {
		l.s.NoteEnd()
		if !l.s.SurvivesRollback() {
			l.slot.Spoil()
		}
	}
	return t.end(observe.Rollback)
}

func (t *tx) end(kind observe.Kind) error {
	l, ctx, parent := t.lease, t.ctx, t.parent
	if l == nil {
		return sql.ErrTxDone
	}
	return l.run(ctx, kind, "", func() error {
		t.lease, t.ctx, t.parent = nil, nil, nil // no context outlives its use
		return l.s.EndTx(parent, kind == observe.Commit)
	})
}
