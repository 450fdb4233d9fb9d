package fallback

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
)

// Prepare prepares a statement on a connection without PrepareContext.
func Prepare(ctx context.Context, conn driver.Conn, query string) (driver.Stmt, error) {
	st, err := conn.Prepare(query)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		_ = st.Close()
		return nil, err
	}
	return st, nil
}

// Begin begins a transaction on a connection without BeginTx.
func Begin(ctx context.Context, conn driver.Conn, opts driver.TxOptions) (driver.Tx, error) {
	if opts.Isolation != driver.IsolationLevel(sql.LevelDefault) {
		return nil, errors.New("sql: driver does not support non-default isolation level")
	}
	if opts.ReadOnly {
		return nil, errors.New("sql: driver does not support read-only transactions")
	}
	//lint:ignore SA1019 all that this connection has
	tx, err := conn.Begin()
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		_ = tx.Rollback()
		return nil, err
	}
	return tx, nil
}
