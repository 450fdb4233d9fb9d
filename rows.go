package lifeguard

import (
	"context"
	"database/sql/driver"
	"io"
	"reflect"
	"runtime"
)

// rows is the result of a query, whatever optional interfaces the driver's rows have: for each of them database/sql has
// a value that stands for "not there", which the fallbacks here give.
type rows struct {
	lease    *lease
	parent   driver.Rows
	ctx      context.Context
	prepared *prepared // the statement that gave them, if it was one
	direct   bool      // the statement stood in for a direct query
	open     bool
	watched  bool // by the session's canceller
	bound    *bound
	query    string
	op       operation // the query; it ends with the rows
	count    int       // rows returned
	over     bool      // op has ended
	columns  []string  // what Columns said last, where the connection may be taken back meanwhile

	// For rows that are watched for loss: see lostTicket.
	ticket  *lostTicket
	cleanup runtime.Cleanup
}

var (
	_ driver.Rows                           = (*rows)(nil)
	_ driver.RowsNextResultSet              = (*rows)(nil)
	_ driver.RowsColumnTypeScanType         = (*rows)(nil)
	_ driver.RowsColumnTypeDatabaseTypeName = (*rows)(nil)
	_ driver.RowsColumnTypeLength           = (*rows)(nil)
	_ driver.RowsColumnTypeNullable         = (*rows)(nil)
	_ driver.RowsColumnTypePrecisionScale   = (*rows)(nil)
)

// newRows is called while the query is still the operation in progress. A session's rows are used again and again:
// database/sql does not touch them after their Close.
func newRows(ctx context.Context, l *lease, query string, parent driver.Rows, p *prepared, direct bool, b *bound) driver.Rows {
	s := l.session
	r := s.rows
	if r != nil {
		s.rows = nil
	} else if r = new(rows); l.pool.janitor != nil {
		r.watchForLoss(s)
	}
	// One by one, and pointers only where they change: each is a message to the garbage collector while it works.
	if r.lease != l {
		r.lease = l
	}
	if p != nil {
		r.prepared = p
	}
	if b != nil {
		r.bound = b
	}
	if !sameText(r.query, query) {
		r.query = query
	}
	r.parent, r.ctx = parent, ctx
	r.direct, r.open, r.watched = direct, true, s.cancels.fresh
	s.cancels.fresh = false
	r.op.is(l.op.kind, l.op.began, l.op.waited, l.op.first)
	r.count, r.over = 0, false
	if l.spans {
		l.asks(&r.op, query)
	}
	if r.ticket != nil {
		r.ticket.fill(l)
	}
	s.kept.opened(r)
	return r.asDriverRows()
}

// closed is called by the owner of the session when the driver's rows are closed.
func (r *rows) closed() {
	s := r.lease.session
	r.open = false
	s.closedRows(r)
	if r.prepared != nil {
		r.prepared = nil
	}
	if r.bound != nil {
		r.bound = nil
	}
	if r.columns != nil {
		r.columns = nil
	}
	switch {
	case s.rows == nil:
		s.rows = r
	case r.ticket != nil:
		// Others were opened beside these, and came back first.
		r.cleanup.Stop()
		runtime.KeepAlive(r)
	}
}

func (r *rows) Columns() []string {
	if !r.lease.reclaims {
		return r.parent.Columns()
	}
	// Scan looks a name up for an error about a row that it has got already.
	if r.lease.enter() == nil {
		defer r.lease.leave()
		r.columns = r.parent.Columns()
	}
	return r.columns
}

func (r *rows) Close() (err error) {
	l := r.lease
	if l.enter() != nil {
		return nil // closed with the connection
	}
	returned := false
	defer func() {
		if !returned {
			l.survive()
		}
	}()
	ctx := r.ctx
	err = r.parent.Close()
	if r.open {
		b := r.bound
		if err != nil {
			l.session.outOfStep(err)
			err, _ = b.explain(err) // first, so that nothing more is tried on a connection that does not answer
		}
		r.closed()
		if b != nil {
			ctx = b.caller
			err = b.end(err)
		}
		if !r.over && (err != nil || !l.clock.repeats()) {
			r.ended(ctx, err)
		}
	}
	if err == nil {
		l.leave()
	} else {
		l.fetched(ctx, err)
	}
	returned = true
	return err
}

func (r *rows) Next(dest []driver.Value) (err error) {
	l := r.lease
	if err := l.enter(); err != nil {
		return err
	}
	returned := false
	defer func() {
		if !returned {
			l.survive()
		}
	}()
	if err = r.parent.Next(dest); err == nil {
		r.count++
		l.leave()
	} else {
		err = r.stopped(err)
	}
	returned = true
	return err
}

// stopped ends the query at an error, whose place in the program is more telling than that of Close, and leaves.
func (r *rows) stopped(err error) error {
	ctx := r.ctx
	if err != io.EOF { // database/sql compares by identity, too
		err, _ = r.bound.explain(err)
		r.ended(r.caller(), err)
	}
	r.lease.fetched(ctx, err)
	return err
}

// caller is the caller's context, which a bound does not end.
func (r *rows) caller() context.Context {
	if r.bound != nil {
		return r.bound.caller
	}
	return r.ctx
}

// ended ends the query, once.
func (r *rows) ended(ctx context.Context, err error) {
	if !r.over {
		r.over = true
		r.lease.ended(ctx, &r.op, r.query, r.count, err)
	}
}

func (r *rows) HasNextResultSet() bool {
	if p, ok := rowsCan[driver.RowsNextResultSet](r.parent); ok && r.lease.enter() == nil {
		defer r.lease.leave()
		return p.HasNextResultSet()
	}
	return false
}

func (r *rows) NextResultSet() (err error) {
	p, ok := rowsCan[driver.RowsNextResultSet](r.parent)
	if !ok {
		return io.EOF
	}
	if err := r.lease.enter(); err != nil {
		return err
	}
	returned := false
	defer func() {
		if !returned {
			r.lease.survive()
		}
	}()
	if err = p.NextResultSet(); err == nil {
		r.lease.leave()
	} else {
		err = r.stopped(err)
	}
	returned = true
	return err
}

func (r *rows) ColumnTypeScanType(index int) reflect.Type {
	if p, ok := rowsCan[driver.RowsColumnTypeScanType](r.parent); ok && r.lease.enter() == nil {
		defer r.lease.leave()
		return p.ColumnTypeScanType(index)
	}
	return reflect.TypeFor[any]()
}

func (r *rows) ColumnTypeDatabaseTypeName(index int) string {
	if p, ok := rowsCan[driver.RowsColumnTypeDatabaseTypeName](r.parent); ok && r.lease.enter() == nil {
		defer r.lease.leave()
		return p.ColumnTypeDatabaseTypeName(index)
	}
	return ""
}

func (r *rows) ColumnTypeLength(index int) (length int64, ok bool) {
	if p, ok := rowsCan[driver.RowsColumnTypeLength](r.parent); ok && r.lease.enter() == nil {
		defer r.lease.leave()
		return p.ColumnTypeLength(index)
	}
	return 0, false
}

func (r *rows) ColumnTypeNullable(index int) (nullable, ok bool) {
	if p, ok := rowsCan[driver.RowsColumnTypeNullable](r.parent); ok && r.lease.enter() == nil {
		defer r.lease.leave()
		return p.ColumnTypeNullable(index)
	}
	return false, false
}

func (r *rows) ColumnTypePrecisionScale(index int) (precision, scale int64, ok bool) {
	if p, ok := rowsCan[driver.RowsColumnTypePrecisionScale](r.parent); ok && r.lease.enter() == nil {
		defer r.lease.leave()
		return p.ColumnTypePrecisionScale(index)
	}
	return 0, 0, false
}
