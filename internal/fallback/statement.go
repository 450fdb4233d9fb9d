package fallback

import (
	"context"
	"database/sql/driver"
)

// Stmt is a statement that has the methods with a context, whether the driver's has them or not.
type Stmt struct{ driver.Stmt }

// ExecContext runs the statement.
func (st Stmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	if e, ok := st.Stmt.(driver.StmtExecContext); ok {
		return e.ExecContext(ctx, args)
	}
	values, err := Positional(ctx, args)
	if err != nil {
		return nil, err
	}
	return st.Exec(values)
}

// QueryContext runs the statement.
func (st Stmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	if q, ok := st.Stmt.(driver.StmtQueryContext); ok {
		return q.QueryContext(ctx, args)
	}
	values, err := Positional(ctx, args)
	if err != nil {
		return nil, err
	}
	return st.Query(values)
}
