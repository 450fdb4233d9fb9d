package drivertest

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard/internal/libpq"
	"github.com/go-lifeguard/lifeguard/internal/mariatest"
	"github.com/go-lifeguard/lifeguard/internal/stmtcache"
)

// caching is a connector of MySQL's driver whose connections keep statements, under a database/sql without lifeguard's pool.
type caching struct {
	driver.Connector
	shared *stmtcache.Shared
	now    *atomic.Int64
}

func openCaching(t *testing.T, dsn string) (*sql.DB, *caching) {
	config, err := mysql.ParseDSN(dsn)
	require.NoError(t, err)
	connector, err := mysql.NewConnector(config)
	require.NoError(t, err)
	c := &caching{Connector: connector, now: new(atomic.Int64)}
	c.now.Store(int64(time.Hour))
	c.shared = stmtcache.NewShared(stmtcache.Config{Size: 100, Log: slog.New(slog.DiscardHandler), Now: c.now.Load})
	db := sql.OpenDB(c)
	t.Cleanup(func() { assert.NoError(t, db.Close()) })
	return db, c
}

func (c *caching) Connect(ctx context.Context) (driver.Conn, error) {
	parent, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	conn := &cachingConn{mysqlConn: parent.(mysqlConn)}
	conn.cache = c.shared.New(libpq.KindOf(parent), parent, bareConn{conn.mysqlConn}, false)
	return conn, nil
}

type mysqlConn interface {
	driver.Conn
	driver.ConnPrepareContext
	driver.ConnBeginTx
	driver.QueryerContext
	driver.ExecerContext
	driver.SessionResetter
	driver.Validator
	driver.NamedValueChecker
}

// bareConn is what the cache runs statements on.
type bareConn struct{ mysqlConn }

func (c bareConn) Prepare(ctx context.Context, query string) (driver.Stmt, error) {
	return c.PrepareContext(ctx, query)
}

func (c bareConn) Query(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	return c.QueryContext(ctx, query, args)
}

func (c bareConn) Exec(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	return c.ExecContext(ctx, query, args)
}

// cachingConn does with the cache what a session does.
type cachingConn struct {
	mysqlConn
	cache *stmtcache.Cache
}

func (c *cachingConn) Close() error {
	c.cache.Close()
	return c.mysqlConn.Close()
}

func (c *cachingConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	if res, handled, err := c.cache.Exec(ctx, query, args); handled {
		return res, err
	}
	return c.mysqlConn.ExecContext(ctx, query, args)
}

func (c *cachingConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	rows, k, handled, err := c.cache.Query(ctx, query, args)
	if !handled {
		rows, err = c.mysqlConn.QueryContext(ctx, query, args)
	}
	return c.opened(rows, k, err)
}

func (c *cachingConn) opened(rows driver.Rows, k *stmtcache.Statement, err error) (driver.Rows, error) {
	if err != nil {
		return nil, err
	}
	c.cache.Opened(k)
	return &cachingRows{rows.(driver.RowsNextResultSet), c, k}, nil
}

func (c *cachingConn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	k, err := c.cache.Prepare(ctx, query)
	if err != nil {
		return nil, err
	}
	return &cachingStmt{k, c}, nil
}

func (c *cachingConn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	tx, err := c.mysqlConn.BeginTx(ctx, opts)
	return &cachingTx{tx, c}, err
}

type cachingTx struct {
	driver.Tx
	conn *cachingConn
}

func (tx *cachingTx) Commit() error   { defer tx.conn.cache.Ended(); return tx.Tx.Commit() }
func (tx *cachingTx) Rollback() error { defer tx.conn.cache.Ended(); return tx.Tx.Rollback() }

type cachingStmt struct {
	*stmtcache.Statement
	conn *cachingConn
}

func (st *cachingStmt) Exec([]driver.Value) (driver.Result, error) { return nil, driver.ErrSkip }
func (st *cachingStmt) Query([]driver.Value) (driver.Rows, error)  { return nil, driver.ErrSkip }

func (st *cachingStmt) CheckNamedValue(v *driver.NamedValue) error {
	return st.Driver().(driver.NamedValueChecker).CheckNamedValue(v)
}

func (st *cachingStmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	return st.Statement.Exec(ctx, args)
}

func (st *cachingStmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	rows, err := st.Statement.Query(ctx, args)
	return st.conn.opened(rows, st.Statement, err)
}

type cachingRows struct {
	driver.RowsNextResultSet
	conn *cachingConn
	k    *stmtcache.Statement
}

func (r *cachingRows) Close() error {
	err := r.RowsNextResultSet.Close()
	r.conn.cache.Closed(r.k)
	return err
}

func TestCacheMySQL(t *testing.T) {
	db, c := openCaching(t, mariatest.DSN(t))
	db.SetMaxOpenConns(1)
	use := func(n int) {
		for i := range n {
			var got int
			require.NoError(t, db.QueryRow("SELECT ? + 1", i).Scan(&got))
			require.Equal(t, i+1, got)
		}
	}
	use(10)
	require.Equal(t, 1, status(t, db, "Com_stmt_prepare"))
	require.Equal(t, 10, status(t, db, "Com_stmt_execute"))
	c.now.Add(int64(5 * time.Second))
	use(10)
	require.Equal(t, []int{2, 1}, []int{status(t, db, "Com_stmt_prepare"), status(t, db, "Com_stmt_close")})
	hits, misses, _ := c.shared.Counts()
	require.Equal(t, []uint64{18, 2}, []uint64{hits, misses})
}

// TestCacheMySQLLikePlain runs the script of the statements that are kept through lifeguard's pool.
func TestCacheMySQLLikePlain(t *testing.T) {
	fresh := mysqlEngine.database(t)
	lines := map[string][]string{}
	for _, name := range []string{"plain", "caching"} {
		dsn := withParam(fresh(t), "multiStatements=true")
		db, err := sql.Open("mysql", dsn)
		require.NoError(t, err)
		if name == "caching" {
			require.NoError(t, db.Close())
			db, _ = openCaching(t, dsn)
		}
		db.SetMaxOpenConns(1)
		s := &script{DB: db, engine: mysqlEngine, t: t, ctx: t.Context()}
		mysqlKeptStatements(s)
		lines[name] = s.lines
		require.NoError(t, db.Close())
	}
	require.NotEmpty(t, lines["plain"])
	require.Equal(t, lines["plain"], lines["caching"])
}

// DDL by other clients, in the middle of transactions and outside.
func TestCacheMySQLAltered(t *testing.T) {
	dsn := mariatest.DSN(t)
	db, _ := openCaching(t, dsn)
	other, err := sql.Open("mysql", withParam(dsn, "multiStatements=true"))
	require.NoError(t, err)
	defer func() { assert.NoError(t, other.Close()) }()
	admin := func(query string) {
		_, err := other.Exec(query)
		require.NoError(t, err, query)
	}
	admin("CREATE TABLE items (id INT, v INT, e ENUM('a', 'b')); INSERT INTO items VALUES (1, 1, 'a')")
	conn, err := db.Conn(t.Context())
	require.NoError(t, err)
	defer func() { assert.NoError(t, conn.Close()) }()
	columns := func() int {
		rows, err := conn.QueryContext(t.Context(), "SELECT * FROM items WHERE id = ?", 1)
		require.NoError(t, err)
		names, err := rows.Columns()
		require.NoError(t, err)
		for rows.Next() {
			dest := make([]any, len(names))
			for i := range dest {
				dest[i] = new(any)
			}
			require.NoError(t, rows.Scan(dest...))
		}
		require.NoError(t, rows.Err())
		require.NoError(t, rows.Close())
		return len(names)
	}
	insert := func(v any) error {
		_, err := conn.ExecContext(t.Context(), "INSERT INTO items (id, v) VALUES (?, ?)", 1, v)
		return err
	}
	for range 3 {
		require.Equal(t, 3, columns())
		require.NoError(t, insert(1))
	}
	require.Error(t, insert("9223372036854775807"))
	admin("ALTER TABLE items MODIFY v BIGINT")
	require.NoError(t, insert("9223372036854775807"))
	admin("ALTER TABLE items ADD COLUMN w VARCHAR(9) FIRST")
	require.Equal(t, 4, columns())
	admin("DROP TABLE items; CREATE TABLE items (v VARCHAR(20), id INT)")
	require.NoError(t, insert("text"))
	require.Equal(t, 2, columns())
}

// TestCacheMySQLFull is a server with room for 50 statements, under 10 callers with 20 texts.
func TestCacheMySQLFull(t *testing.T) {
	dsn := mariatest.DSN(t)
	admin, err := sql.Open("mysql", dsn)
	require.NoError(t, err)
	defer func() { assert.NoError(t, admin.Close()) }()
	var before int
	require.NoError(t, admin.QueryRow("SELECT @@max_prepared_stmt_count").Scan(&before))
	limit := func(n int) {
		_, err := admin.Exec(fmt.Sprint("SET GLOBAL max_prepared_stmt_count = ", n))
		require.NoError(t, err)
	}
	defer limit(before)
	storm := func(db *sql.DB, c *caching) {
		var wg sync.WaitGroup
		for caller := range 10 {
			wg.Go(func() {
				for i := range 100 {
					var n int
					if !assert.NoError(t, db.QueryRow(fmt.Sprintf("SELECT %d + ?", (i+caller)%20), 1).Scan(&n)) {
						return
					}
					assert.Equal(t, (i+caller)%20+1, n)
					c.now.Add(int64(time.Millisecond))
				}
			})
		}
		wg.Wait()
	}
	for _, warm := range []bool{false, true} {
		db, c := openCaching(t, dsn)
		db.SetMaxOpenConns(10)
		db.SetMaxIdleConns(10)
		if warm { // the limit comes when there are more already
			storm(db, c)
		}
		limit(50)
		storm(db, c)
		hits, _, _ := c.shared.Counts()
		t.Log("hits ", hits)
		require.NoError(t, db.Close())
		limit(before)
	}
}
