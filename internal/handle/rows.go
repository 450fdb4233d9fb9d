package handle

import (
	"context"
	"database/sql/driver"
	"io"
	"reflect"
	"runtime"

	"github.com/go-lifeguard/lifeguard/internal/intercept"
	"github.com/go-lifeguard/lifeguard/internal/leak"
	"github.com/go-lifeguard/lifeguard/internal/session"
)

// rows is the result of a query. For each optional interface of a driver's rows, database/sql has a value that stands
// for "not there", which the fallbacks here give.
type rows struct {
	lease   *lease // nil while closed
	ctx     context.Context
	res     session.Result
	query   string
	op      operation // the query; it ends with the rows
	count   int       // rows returned
	over    bool      // op has been shown
	columns []string  // what Columns said last

	// For rows that are watched for loss.
	ticket  *leak.Ticket
	cleanup runtime.Cleanup
}

// newRows gives room for the result of the operation in progress. A session's rows are used again and again: database/sql
// does not touch them after their Close.
func newRows(ctx context.Context, l *lease, query string) *rows {
	r, _ := l.s.Spare.(*rows)
	l.s.Spare = nil // while rows are out, nothing of lifeguard's refers to them, so that lost ones are garbage
	if r == nil {
		r = &rows{ticket: l.conn.pool.janitor.NewTicket()}
		if r.ticket != nil {
			r.cleanup = runtime.AddCleanup(r, (*leak.Ticket).Lost, r.ticket)
		}
	}
	r.ticket.Fill(l, l.Checkout, l.Operations, l.openRows == 0 && !l.InTx)
	r.lease, r.ctx, r.query = l, ctx, query
	r.op, r.count, r.over = l.op, 0, false
	if o := l.conn.pool.observer; o.Spans() {
		r.op.caller = o.Here(r.op.kind, query) // where the rows will be closed may be another place
	}
	return r
}

// opened is called when the query has succeeded.
func (r *rows) opened() driver.Rows {
	r.lease.openRows++
	return r.asDriverRows()
}

// keep gives rows that are over back to the session, for the next query. The caller has the session still.
func (r *rows) keep(l *lease) {
	r.lease, r.ctx, r.query, r.columns, r.op = nil, nil, "", nil, operation{}
	r.ticket.Empty()
	switch {
	case l.s.Spare == nil:
		l.s.Spare = r
	case r.ticket != nil: // others were opened beside these, and came back first
		r.cleanup.Stop()
	}
}

// Columns are asked for once in each result set. Scan looks a name up for an error about a row that it has already got,
// when the connection may be gone.
func (r *rows) Columns() []string {
	if r.columns == nil {
		_ = r.lease.call(func() { r.columns = r.res.Rows.Columns() })
	}
	return r.columns
}

// Close ends the query.
func (r *rows) Close() error {
	l := r.lease
	if l == nil || l.enter() != nil {
		return nil // closed already, or with the connection
	}
	ok := false
	defer l.guard(&ok)
	ctx := r.ctx
	err := l.s.CloseResult(ctx, &r.res)
	if err != nil || l.s.Spoiled() {
		l.judge(ctx, err)
	}
	l.openRows--
	l.closedAt = l.now()
	if !r.over {
		l.show(ctx, &r.op, r.query, r.count, l.closedAt, err)
	}
	r.keep(l)
	ok = true
	l.leave()
	l.returnUnasked(true)
	return err
}

func (r *rows) Next(dest []driver.Value) error {
	return r.next(func() error { return r.res.Rows.Next(dest) })
}

// next fetches a row by f.
func (r *rows) next(f func() error) (err error) {
	gone := r.lease.call(func() {
		if err = f(); err == nil {
			r.count++
		} else {
			err = r.stopped(err)
		}
	})
	if gone != nil {
		return gone
	}
	return err
}

// stopped ends the query at an error, whose place in the program tells more than that of Close.
func (r *rows) stopped(err error) error {
	if err == io.EOF { // database/sql compares by identity, too
		return err
	}
	l := r.lease
	err = l.s.Explain(&r.res, err)
	l.judge(r.ctx, err)
	if !r.over {
		r.over = true
		l.show(r.ctx, &r.op, r.query, r.count, l.now(), err)
	}
	return err
}

// asked asks the driver's rows, if they have the methods of T.
func asked[T driver.Rows](r *rows, ask func(T)) {
	if p, ok := intercept.RowsCan[T](r.res.Rows); ok {
		_ = r.lease.call(func() { ask(p) })
	}
}

func (r *rows) HasNextResultSet() (more bool) {
	asked(r, func(p driver.RowsNextResultSet) { more = p.HasNextResultSet() })
	return more
}

func (r *rows) NextResultSet() error {
	p, ok := intercept.RowsCan[driver.RowsNextResultSet](r.res.Rows)
	if !ok {
		return io.EOF
	}
	r.columns = nil
	var err error
	if gone := r.lease.call(func() {
		if err = p.NextResultSet(); err != nil {
			err = r.stopped(err)
		}
	}); gone != nil {
		return gone
	}
	return err
}

func (r *rows) ColumnTypeScanType(index int) reflect.Type {
	t := reflect.TypeFor[any]()
	asked(r, func(p driver.RowsColumnTypeScanType) { t = p.ColumnTypeScanType(index) })
	return t
}

func (r *rows) ColumnTypeDatabaseTypeName(index int) (name string) {
	asked(r, func(p driver.RowsColumnTypeDatabaseTypeName) { name = p.ColumnTypeDatabaseTypeName(index) })
	return name
}

func (r *rows) ColumnTypeLength(index int) (length int64, ok bool) {
	asked(r, func(p driver.RowsColumnTypeLength) { length, ok = p.ColumnTypeLength(index) })
	return length, ok
}

func (r *rows) ColumnTypeNullable(index int) (nullable, ok bool) {
	asked(r, func(p driver.RowsColumnTypeNullable) { nullable, ok = p.ColumnTypeNullable(index) })
	return nullable, ok
}

func (r *rows) ColumnTypePrecisionScale(index int) (precision, scale int64, ok bool) {
	asked(r, func(p driver.RowsColumnTypePrecisionScale) { precision, scale, ok = p.ColumnTypePrecisionScale(index) })
	return precision, scale, ok
}
