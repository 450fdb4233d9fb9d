package lifeguard

import (
	"context"
	"database/sql/driver"
	"io"
	"reflect"
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
	bound    *bound
	op       operation // the query; it ends with the rows
	count    int       // rows returned
	over     bool      // op has ended
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

func newRows(ctx context.Context, l *lease, parent driver.Rows, p *prepared, direct bool, b *bound) driver.Rows {
	r := &l.rows
	if l.rowsOpen {
		r = new(rows)
	} else {
		l.rowsOpen = true
	}
	// One by one: a composite literal is built elsewhere and moved here, which costs more while the garbage is collected
	// than all the rest of this.
	r.lease, r.parent, r.ctx, r.prepared, r.bound = l, parent, ctx, p, b
	r.direct, r.open, r.over, r.count = direct, true, false, 0
	r.op.is(l.op.kind, l.op.query, l.op.began, l.op.waited, l.op.first, l.op.assumed)
	l.session.kept.opened(r)
	return r.asDriverRows()
}

func (r *rows) Columns() []string { return r.parent.Columns() }

func (r *rows) Close() (err error) {
	l := r.lease
	if l.over() {
		return nil // closed with the connection
	}
	returned := false
	defer l.fetched(r.ctx, &err, &returned)
	err = r.parent.Close()
	returned = true
	if !r.open {
		return err
	}
	r.open = false
	l.session.closedRows(r)
	err = r.bound.end(err)
	r.ended(err)
	if r == &l.rows {
		l.rowsOpen = false
		r.ctx = nil
	}
	return err
}

func (r *rows) Next(dest []driver.Value) (err error) {
	if r.lease.over() {
		return r.lease.lost()
	}
	returned := false
	defer r.lease.fetched(r.ctx, &err, &returned)
	err = r.parent.Next(dest)
	if err != nil && err != io.EOF { //nolint:errorlint // as in fetched
		err = r.bound.end(err)
	}
	returned = true
	r.fetched(err)
	return err
}

// fetched counts a row.
func (r *rows) fetched(err error) {
	if err == nil {
		r.count++
		return
	}
	r.failed(err)
}

// failed ends the query at an error, whose place in the program is more telling than that of Close.
func (r *rows) failed(err error) {
	if err != nil && err != io.EOF { //nolint:errorlint // database/sql compares by identity, too
		r.ended(err)
	}
}

// ended ends the query, once.
func (r *rows) ended(err error) {
	if !r.over {
		r.over = true
		ctx := r.ctx
		if r.bound != nil {
			ctx = r.bound.caller
		}
		r.lease.ended(ctx, &r.op, r.count, err)
	}
}

func (r *rows) HasNextResultSet() bool {
	if p, ok := rowsCan[driver.RowsNextResultSet](r.parent); ok {
		return p.HasNextResultSet()
	}
	return false
}

func (r *rows) NextResultSet() (err error) {
	p, ok := rowsCan[driver.RowsNextResultSet](r.parent)
	if !ok {
		return io.EOF
	}
	if r.lease.over() {
		return r.lease.lost()
	}
	returned := false
	defer r.lease.fetched(r.ctx, &err, &returned)
	err = p.NextResultSet()
	returned = true
	r.failed(err)
	return err
}

func (r *rows) ColumnTypeScanType(index int) reflect.Type {
	if p, ok := rowsCan[driver.RowsColumnTypeScanType](r.parent); ok {
		return p.ColumnTypeScanType(index)
	}
	return reflect.TypeFor[any]()
}

func (r *rows) ColumnTypeDatabaseTypeName(index int) string {
	if p, ok := rowsCan[driver.RowsColumnTypeDatabaseTypeName](r.parent); ok {
		return p.ColumnTypeDatabaseTypeName(index)
	}
	return ""
}

func (r *rows) ColumnTypeLength(index int) (length int64, ok bool) {
	if p, ok := rowsCan[driver.RowsColumnTypeLength](r.parent); ok {
		return p.ColumnTypeLength(index)
	}
	return 0, false
}

func (r *rows) ColumnTypeNullable(index int) (nullable, ok bool) {
	if p, ok := rowsCan[driver.RowsColumnTypeNullable](r.parent); ok {
		return p.ColumnTypeNullable(index)
	}
	return false, false
}

func (r *rows) ColumnTypePrecisionScale(index int) (precision, scale int64, ok bool) {
	if p, ok := rowsCan[driver.RowsColumnTypePrecisionScale](r.parent); ok {
		return p.ColumnTypePrecisionScale(index)
	}
	return 0, 0, false
}
