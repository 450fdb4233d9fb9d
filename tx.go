package lifeguard

import (
	"context"
	"database/sql"
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
	l, ctx := t.lease, t.ctx
	if l == nil {
		return sql.ErrTxDone
	}
	if err := l.start(ctx, opCommit, ""); err != nil {
		return err
	}
	returned := false
	defer func() {
		if !returned {
			l.survive()
		}
	}()
	if l.direct {
		err = t.parent.Commit()
	} else {
		b := l.session.boundSocket(context.Background())
		err = b.end(t.parent.Commit())
	}
	t.over()
	l.finish(ctx, "", err)
	returned = true
	return err
}

func (t *tx) Rollback() (err error) {
	l, ctx := t.lease, t.ctx
	if l == nil {
		return sql.ErrTxDone
	}
	if err := l.start(ctx, opRollback, ""); err != nil {
		return err
	}
	s := l.session
	if ctx.Err() != nil {
		s.sawEnd = true
	}
	returned := false
	defer func() {
		if !returned {
			l.survive()
		}
	}()
	b := s.boundSocket(context.Background())
	err = b.end(t.parent.Rollback())
	if ctx.Err() != nil && (s.resetter == nil || s.validator == nil) {
		// database/sql keeps a connection after it rolled back at the end of a context only if the driver can say
		// whether it is valid and can reset it, and gives it up in this way otherwise. A lease can do both, so the
		// rule is kept here.
		s.bad = true
		err = driver.ErrBadConn
	}
	t.over()
	l.finish(ctx, "", err)
	returned = true
	return err
}

// over frees t for the next transaction, and the caller's context with it.
func (t *tx) over() { t.lease, t.parent, t.ctx = nil, nil, nil }
