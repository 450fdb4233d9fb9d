package intercept

import (
	"context"
	"database/sql/driver"

	"github.com/ngrok/sqlmw"
)

// interceptedRows are rows whose reading goes through an interceptor. What else rows can do, RowsCan finds behind them.
type interceptedRows struct {
	by     sqlmw.Interceptor
	ctx    context.Context
	parent driver.Rows
}

var _ sqlmw.RowsUnwrapper = (*interceptedRows)(nil)

func interceptRows(by sqlmw.Interceptor, ctx context.Context, parent driver.Rows, err error) (driver.Rows, error) {
	if err != nil || parent == nil {
		return nil, err
	}
	return &interceptedRows{by, ctx, parent}, nil
}

func (r *interceptedRows) Columns() []string { return r.parent.Columns() }
func (r *interceptedRows) Next(dest []driver.Value) error {
	return r.by.RowsNext(r.ctx, r.parent, dest)
}
func (r *interceptedRows) Close() error        { return r.by.RowsClose(r.ctx, r.parent) }
func (r *interceptedRows) Unwrap() driver.Rows { return r.parent }

// RowsCan is r as one of the optional interfaces of driver.Rows. Behind interceptors it is the driver's rows that
// decide whether there is one, and the outermost that have it are asked: an interceptor's, which may answer
// differently, before the driver's.
func RowsCan[T driver.Rows](r driver.Rows) (can T, ok bool) {
	if _, behind := r.(*interceptedRows); !behind {
		can, ok = r.(T)
		return can, ok
	}
	for {
		if t, has := r.(T); has && !ok {
			can, ok = t, true
		}
		u, more := r.(sqlmw.RowsUnwrapper)
		if !more {
			_, has := r.(T)
			return can, ok && has
		}
		r = u.Unwrap()
	}
}
