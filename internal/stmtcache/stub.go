package stmtcache

import (
	"context"
	"database/sql/driver"
	"log/slog"

	"github.com/go-lifeguard/lifeguard/internal/libpq"
)

type Config struct {
	Size      int
	PgBouncer bool
	Name      string
	Log       *slog.Logger
	Now       func() int64
}
type Shared struct{}

func NewShared(Config) *Shared                           { return &Shared{} }
func (s *Shared) Counts() (hits, misses, retries uint64) { return }

type Conn interface {
	Prepare(ctx context.Context, query string) (driver.Stmt, error)
	Query(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error)
	Exec(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error)
}
type Cache struct{ conn Conn }

func (s *Shared) New(kind libpq.Kind, raw driver.Conn, conn Conn, binaryParameters bool) *Cache {
	return &Cache{conn}
}
func (c *Cache) Exec(ctx context.Context, query string, args []driver.NamedValue) (res driver.Result, handled bool, err error) {
	return
}
func (c *Cache) Query(ctx context.Context, query string, args []driver.NamedValue) (rows driver.Rows, k *Statement, handled bool, err error) {
	return
}

type Statement struct{ st driver.Stmt }

func (c *Cache) Prepare(ctx context.Context, query string) (*Statement, error) {
	st, err := c.conn.Prepare(ctx, query)
	if err != nil {
		return nil, err
	}
	return &Statement{st}, nil
}
func (k *Statement) Exec(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	return k.st.(driver.StmtExecContext).ExecContext(ctx, args)
}
func (k *Statement) Query(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	return k.st.(driver.StmtQueryContext).QueryContext(ctx, args)
}
func (k *Statement) NumInput() int       { return k.st.NumInput() }
func (k *Statement) Driver() driver.Stmt { return k.st }
func (k *Statement) Close() error        { return k.st.Close() }
func (c *Cache) Opened(k *Statement)     {}
func (c *Cache) Closed(k *Statement)     {}
func (c *Cache) Ended()                  {}
