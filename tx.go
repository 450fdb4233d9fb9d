package lifeguard

import (
	"context"
	"database/sql/driver"
)

// tx is a transaction on a lease.
type tx struct {
	lease  *lease
	parent driver.Tx
	ctx    context.Context // of BeginTx: when it ends, database/sql rolls back
}

var _ driver.Tx = (*tx)(nil)

func (t *tx) Commit() (err error) {
	if err := t.lease.start(t.ctx, opCommit, ""); err != nil {
		return err
	}
	returned := false
	defer t.lease.done(t.ctx, &err, &returned)
	b := t.lease.session.boundSocket(context.Background())
	err = b.end(t.parent.Commit())
	returned = true
	t.lease.inTx.Store(false)
	return err
}

func (t *tx) Rollback() (err error) {
	if err := t.lease.start(t.ctx, opRollback, ""); err != nil {
		return err
	}
	s := t.lease.session
	if t.ctx.Err() != nil {
		s.sawEnd = true
	}
	returned := false
	defer t.lease.done(t.ctx, &err, &returned)
	b := s.boundSocket(context.Background())
	err = b.end(t.parent.Rollback())
	returned = true
	t.lease.inTx.Store(false)
	if t.ctx.Err() != nil && (s.resetter == nil || s.validator == nil) {
		// database/sql keeps a connection after it rolled back at the end of a context only if the driver can say
		// whether it is valid and can reset it, and gives it up in this way otherwise. A lease can do both, so the
		// rule is kept here.
		s.bad = true
		return driver.ErrBadConn
	}
	return err
}
