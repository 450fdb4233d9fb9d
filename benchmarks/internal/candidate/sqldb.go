package candidate

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"

	"github.com/lib/pq"
)

// sqlPool is a Pool on a handle of database/sql.
type sqlPool struct{ db *sql.DB }

// overPQ opens a candidate that wraps a driver, over lib/pq.
func overPQ(c Candidate, dsn string, s Settings) (Pool, error) {
	connector, err := pq.NewConnector(dsn)
	if err != nil {
		return nil, err
	}
	db, err := c.Over(connector, s)
	if err != nil {
		return nil, err
	}
	return sqlPool{db}, nil
}

// limit applies the settings of the pool that database/sql has.
func limit(db *sql.DB, s Settings) *sql.DB {
	db.SetMaxOpenConns(s.Connections)
	if !s.IdleDefault {
		db.SetMaxIdleConns(s.Connections)
	}
	return db
}

func (p sqlPool) Exec(ctx context.Context, query string, args ...any) error {
	_, err := p.db.ExecContext(ctx, query, args...)
	return err
}

func (p sqlPool) Int(ctx context.Context, query string, args ...any) (n int64, err error) {
	err = p.db.QueryRowContext(ctx, query, args...).Scan(&n)
	return n, err
}

func (p sqlPool) Pairs(ctx context.Context, query string, args ...any) (n int, err error) {
	rows, err := p.db.QueryContext(ctx, query, args...)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	var number int64
	var text string
	for ; rows.Next(); n++ {
		if err := rows.Scan(&number, &text); err != nil {
			return n, err
		}
	}
	return n, rows.Err()
}

func (p sqlPool) Tx(ctx context.Context, f func(Tx) error) error {
	tx, err := p.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := f(sqlTx{tx}); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

type sqlTx struct{ tx *sql.Tx }

func (t sqlTx) Exec(ctx context.Context, query string, args ...any) error {
	_, err := t.tx.ExecContext(ctx, query, args...)
	return err
}

func (t sqlTx) Int(ctx context.Context, query string, args ...any) (n int64, err error) {
	err = t.tx.QueryRowContext(ctx, query, args...).Scan(&n)
	return n, err
}

func (p sqlPool) Prepare(ctx context.Context, query string) (Statement, error) {
	st, err := p.db.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	return sqlStatement{st}, nil
}

type sqlStatement struct{ st *sql.Stmt }

func (s sqlStatement) Int(ctx context.Context, args ...any) (n int64, err error) {
	err = s.st.QueryRowContext(ctx, args...).Scan(&n)
	return n, err
}

func (s sqlStatement) Close() error { return s.st.Close() }

func (p sqlPool) Acquire(ctx context.Context) (func() error, error) {
	c, err := p.db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	return c.Close, nil
}

func (p sqlPool) Close() error { return p.db.Close() }

// wrappedDriver is a connector as a driver, for libraries that wrap drivers.
type wrappedDriver struct{ driver.Connector }

func (d wrappedDriver) Open(string) (driver.Conn, error) { return d.Connect(context.Background()) }

// openDriver opens a handle on a driver whose connections need no data source name.
func openDriver(d driver.Driver, s Settings) *sql.DB { return limit(sql.OpenDB(driverConnector{d}), s) }

// driverConnector is what database/sql makes of a driver without a connector.
type driverConnector struct{ driver driver.Driver }

func (c driverConnector) Connect(context.Context) (driver.Conn, error) { return c.driver.Open("") }
func (c driverConnector) Driver() driver.Driver                        { return c.driver }
