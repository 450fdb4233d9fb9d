package candidate

import (
	"context"
	"database/sql"
	"database/sql/driver"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// pgxPool is pgx with its own pool, without database/sql.
type pgxPool struct{}

func (pgxPool) Name() string   { return "pgxpool" }
func (pgxPool) Module() string { return "github.com/jackc/pgx/v5" }
func (pgxPool) Note() string {
	return "pgx's own interface and pool with `MaxConns`, without `database/sql`; it keeps prepared statements by itself, as is " +
		"its default"
}

func (pgxPool) Open(ctx context.Context, dsn string, s Settings) (Pool, error) {
	cfg, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	cfg.MaxConns = int32(s.Connections)
	if s.Statements > 0 {
		cfg.ConnConfig.StatementCacheCapacity = s.Statements
	}
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return pgxPoolPool{pool}, nil
}

func (pgxPool) Over(driver.Connector, Settings) (*sql.DB, error) {
	return nil, Unable("it speaks to PostgreSQL only, and not through `database/sql`")
}

type pgxPoolPool struct{ pool *pgxpool.Pool }

func (p pgxPoolPool) Exec(ctx context.Context, query string, args ...any) error {
	_, err := p.pool.Exec(ctx, query, args...)
	return err
}

func (p pgxPoolPool) Int(ctx context.Context, query string, args ...any) (n int64, err error) {
	err = p.pool.QueryRow(ctx, query, args...).Scan(&n)
	return n, err
}

func (p pgxPoolPool) Pairs(ctx context.Context, query string, args ...any) (n int, err error) {
	rows, err := p.pool.Query(ctx, query, args...)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	var number int64
	var text string
	for ; rows.Next(); n++ {
		if err := rows.Scan(&number, &text); err != nil {
			return n, err
		}
	}
	return n, rows.Err()
}

func (p pgxPoolPool) Tx(ctx context.Context, f func(Tx) error) error {
	return pgx.BeginFunc(ctx, p.pool, func(tx pgx.Tx) error { return f(pgxTx{tx}) })
}

type pgxTx struct{ tx pgx.Tx }

func (t pgxTx) Exec(ctx context.Context, query string, args ...any) error {
	_, err := t.tx.Exec(ctx, query, args...)
	return err
}

func (t pgxTx) Int(ctx context.Context, query string, args ...any) (n int64, err error) {
	err = t.tx.QueryRow(ctx, query, args...).Scan(&n)
	return n, err
}

func (pgxPoolPool) Prepare(context.Context, string) (Statement, error) {
	return nil, Unable("its pool has no Prepare: it prepares every query by itself (see the point query)")
}

func (p pgxPoolPool) Acquire(ctx context.Context) (func() error, error) {
	c, err := p.pool.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	return func() error { c.Release(); return nil }, nil
}

func (p pgxPoolPool) Close() error { p.pool.Close(); return nil }
