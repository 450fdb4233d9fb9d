package lifeguard_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/lib/pq"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"

	"github.com/go-lifeguard/lifeguard"
)

// One DATABASE_URL for the pool, and for what does not know lifeguard: pgx, pq.NewListener, psql, migration tools.
func ExampleParseDSN() {
	url := "postgres://app@db.example/shop?sslmode=require&connection_limit=5"
	cfg, driverDSN, err := lifeguard.ParseDSN(url, lifeguard.DefaultConfig())
	if err != nil {
		panic(err)
	}
	fmt.Println(cfg.ConnectionLimit, driverDSN)
	// Output: 5 postgres://app@db.example/shop?sslmode=require
}

// A password that is rotated is read from its file for each new connection.
func ExampleWithBeforeConnect() {
	db, err := lifeguard.Open("lifeguard", "host=db.example user=app dbname=shop",
		lifeguard.WithBeforeConnect(func(_ context.Context, dsn string) (string, error) {
			password, err := os.ReadFile("/run/secrets/database")
			if err != nil {
				return "", err
			}
			quoted := strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(strings.TrimSpace(string(password)))
			return dsn + " password='" + quoted + "'", nil
		}))
	if err != nil {
		panic(err)
	}
	defer db.Close()
}

// Each new connection is set up before anybody gets it.
func ExampleWithAfterConnect() {
	db, err := lifeguard.Open("lifeguard", "postgres://app@db.example/shop",
		lifeguard.WithAfterConnect(func(ctx context.Context, conn *sql.Conn) error {
			_, err := conn.ExecContext(ctx, "SET statement_timeout = '5s'")
			return err
		}))
	if err != nil {
		panic(err)
	}
	defer db.Close()
}

// Settings in code, which the DSN may change.
func ExampleWithConnectionLimit() {
	db, err := lifeguard.Open("lifeguard", "postgres://app@db.example/shop?pool_timeout=3",
		lifeguard.WithConnectionLimit(5), lifeguard.WithPoolTimeout(10*time.Second), lifeguard.WithMaxWaiting(100))
	if err != nil {
		panic(err)
	}
	defer db.Close()
	pool, _ := lifeguard.PoolOf(db)
	fmt.Println(pool.Config().ConnectionLimit, pool.Config().PoolTimeout, pool.DBStats().MaxOpenConnections)
	// Output: 5 3s 5
}

// A readiness probe.
func ExamplePool_Ready() {
	var pool *lifeguard.Pool // from PoolOf
	http.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), time.Second)
		defer cancel()
		if err := pool.Ready(ctx); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
	})
}

// The one-line change: another name.
func ExampleOpen() {
	// Before: sql.Open("postgres", "postgres://app@db.example/shop")
	db, err := lifeguard.Open("postgres", "postgres://app@db.example/shop?connection_limit=25&pool_timeout=5")
	if err != nil {
		panic(err)
	}
	defer db.Close()
	pool, ok := lifeguard.PoolOf(db)
	fmt.Println(ok, pool.Config().PoolName)
	// Output: true db.example:5432/shop
}

// A driver that is configured in code.
func ExampleOpenDB() {
	connector, err := pq.NewConnector("postgres://app@db.example/shop")
	if err != nil {
		panic(err)
	}
	db, err := lifeguard.OpenDB(connector, lifeguard.WithConnectionLimit(25))
	if err != nil {
		panic(err)
	}
	defer db.Close()
}

// Programs that open by a name from their configuration get the pool, and its options, by another name.
func ExampleRegister() {
	lifeguard.Register("postgres-with-pool", &pq.Driver{}, lifeguard.WithPoolTimeout(5*time.Second))
	db, err := sql.Open("postgres-with-pool", "postgres://app@db.example/shop")
	if err != nil {
		panic(err)
	}
	defer db.Close()
	pool, _ := lifeguard.PoolOf(db)
	fmt.Println(pool.Config().PoolTimeout)
	// Output: 5s
}

// A second handle with the same pool_name and DSN shows the pool of one that a library has wrapped.
func ExamplePoolOf() {
	watch, err := sql.Open("lifeguard", "postgres://app@db.example/shop?pool_name=shop")
	if err != nil {
		panic(err)
	}
	defer watch.Close()
	pool, ok := lifeguard.PoolOf(watch)
	fmt.Println(ok, pool.Config().PoolName)
	// Output: true shop
}

// The driver's own connection, here for LISTEN or COPY.
func ExampleUnwrap() {
	var conn *sql.Conn // from db.Conn
	_ = conn.Raw(func(dc any) error {
		execer, ok := lifeguard.Unwrap(dc).(driver.ExecerContext)
		fmt.Println(execer, ok)
		return nil
	})
}

// Work that is under way has ten seconds to end.
func ExampleShutdown() {
	var db *sql.DB // from sql.Open("lifeguard", …)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := lifeguard.Shutdown(ctx, db); err != nil {
		fmt.Println(err) // who still had a connection
	}
}

// All handles of the pool, those that libraries have opened too.
func ExamplePool_Shutdown() {
	var pool *lifeguard.Pool // from PoolOf
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := pool.Shutdown(ctx); err != nil {
		fmt.Println(err)
	}
}

func openShop(options string) (*sql.DB, *lifeguard.Pool) {
	db, err := sql.Open("lifeguard", "postgres://app@db.example/shop?"+options)
	if err != nil {
		panic(err)
	}
	pool, _ := lifeguard.PoolOf(db)
	return db, pool
}

// What the settings came to, after defaults, code and DSN.
func ExamplePool_Config() {
	db, pool := openShop("connection_limit=25")
	defer db.Close()
	fmt.Println(pool.Config().ConnectionLimit, pool.Config().MaxIdleConnections)
	// Output: 25 25
}

// Another limit without a restart.
func ExamplePool_SetConnectionLimit() {
	db, pool := openShop("connection_limit=25")
	defer db.Close()
	if err := pool.SetConnectionLimit(10); err != nil {
		panic(err)
	}
	fmt.Println(pool.Stats().Limit)
	// Output: 10
}

// After ALTER ROLE … SET, old connections have the old settings.
func ExamplePool_Reset() {
	db, pool := openShop("")
	defer db.Close()
	pool.Reset()
}

func ExamplePool_Stats() {
	db, pool := openShop("connection_limit=25")
	defer db.Close()
	st := pool.Stats()
	fmt.Println(st.Limit, st.Open, st.InUse, st.Waiting)
	// Output: 25 0 0 0
}

// For collectors that are made for the Stats of a sql.DB.
func ExamplePool_DBStats() {
	db, pool := openShop("connection_limit=25")
	defer db.Close()
	fmt.Println(pool.DBStats().MaxOpenConnections, db.Stats().MaxOpenConnections)
	// Output: 25 0
}

// Who has a connection now, where it was taken, and what it does.
func ExamplePool_Holders() {
	db, pool := openShop("")
	defer db.Close()
	for _, h := range pool.Holders() {
		fmt.Println(h.Held, h.InTx, h.Busy, h.LastQuery, h.Stack)
	}
}

// A wait that ended in vain says why.
func ExamplePoolTimeoutError() {
	var err error // of db.QueryContext
	var timeout *lifeguard.PoolTimeoutError
	if errors.As(err, &timeout) {
		fmt.Println(timeout.InUse, "of", timeout.Limit, "in use, held by", timeout.Holders)
	}
}

func ExampleErrPoolTimeout() {
	var err error // of db.QueryContext
	if errors.Is(err, lifeguard.ErrPoolTimeout) {
		fmt.Println(http.StatusText(http.StatusServiceUnavailable))
	}
}

func ExampleErrPoolClosed() {
	var err error // of db.QueryContext
	if errors.Is(err, lifeguard.ErrPoolClosed) {
		fmt.Println(http.StatusText(http.StatusServiceUnavailable))
	}
}

// More callers would only wait for longer: ask the client to come back.
func ExampleErrTooManyWaiting() {
	var err error // of db.QueryContext
	if errors.Is(err, lifeguard.ErrTooManyWaiting) {
		fmt.Println(http.StatusText(http.StatusTooManyRequests))
	}
}

func ExampleErrSocketTimeout() {
	var err error // of db.QueryContext
	if errors.Is(err, lifeguard.ErrSocketTimeout) {
		fmt.Println(http.StatusText(http.StatusGatewayTimeout))
	}
}

// The holder kept the connection without using it, for longer than leak_reclaim_after.
func ExampleErrReclaimed() {
	var err error // of tx.ExecContext
	if errors.Is(err, lifeguard.ErrReclaimed) {
		fmt.Println("the transaction is over")
	}
}

// With at_most_once nothing is sent twice: whether the row is there has to be looked up.
func ExampleErrOutcomeUnknown() {
	var err error // of db.ExecContext(ctx, "INSERT …")
	if errors.Is(err, lifeguard.ErrOutcomeUnknown) {
		fmt.Println("look whether the row is there, then decide")
	}
}

func ExampleDefaultConfig() {
	cfg := lifeguard.DefaultConfig()
	cfg.ConnectionLimit = 5
	db, err := lifeguard.Open("lifeguard", "postgres://app@db.example/shop", lifeguard.WithConfig(cfg))
	if err != nil {
		panic(err)
	}
	defer db.Close()
}

func ExampleWithConfig() {
	cfg := lifeguard.DefaultConfig()
	cfg.PoolTimeout, cfg.MinConnections = 3*time.Second, 2
	lifeguard.Register("shop", &pq.Driver{}, lifeguard.WithConfig(cfg))
}

// Of the database server, not of this machine.
func ExampleRecommendedLimit() {
	fmt.Println(lifeguard.RecommendedLimit(8, 1))
	// Output: 17
}

func ExampleWithPoolTimeout() {
	db, err := lifeguard.Open("lifeguard", os.Getenv("DATABASE_URL"), lifeguard.WithPoolTimeout(3*time.Second))
	if err != nil {
		panic(err)
	}
	defer db.Close()
}

func ExampleWithMinConnections() {
	db, err := lifeguard.Open("lifeguard", os.Getenv("DATABASE_URL"), lifeguard.WithMinConnections(2))
	if err != nil {
		panic(err)
	}
	defer db.Close()
}

func ExampleWithMaxConnectionLifetime() {
	db, err := lifeguard.Open("lifeguard", os.Getenv("DATABASE_URL"), lifeguard.WithMaxConnectionLifetime(time.Hour))
	if err != nil {
		panic(err)
	}
	defer db.Close()
}

func ExampleWithMaxIdleConnectionLifetime() {
	db, err := lifeguard.Open("lifeguard", os.Getenv("DATABASE_URL"), lifeguard.WithMaxIdleConnectionLifetime(time.Minute))
	if err != nil {
		panic(err)
	}
	defer db.Close()
}

// Longer than the slowest query.
func ExampleWithSocketTimeout() {
	db, err := lifeguard.Open("lifeguard", os.Getenv("DATABASE_URL"), lifeguard.WithSocketTimeout(30*time.Second))
	if err != nil {
		panic(err)
	}
	defer db.Close()
}

// No kept statements: each query is sent as the plain driver sends it.
func ExampleWithStatementCacheSize() {
	db, err := lifeguard.Open("lifeguard", os.Getenv("DATABASE_URL"), lifeguard.WithStatementCacheSize(0))
	if err != nil {
		panic(err)
	}
	defer db.Close()
}

func ExampleWithSlowQueryThreshold() {
	db, err := lifeguard.Open("lifeguard", os.Getenv("DATABASE_URL"), lifeguard.WithSlowQueryThreshold(500*time.Millisecond))
	if err != nil {
		panic(err)
	}
	defer db.Close()
}

func ExampleWithTrace() {
	db, err := lifeguard.Open("lifeguard", os.Getenv("DATABASE_URL"), lifeguard.WithTrace(lifeguard.TraceAll))
	if err != nil {
		panic(err)
	}
	defer db.Close()
}

func ExampleWithQueryLog() {
	db, err := lifeguard.Open("lifeguard", os.Getenv("DATABASE_URL"), lifeguard.WithQueryLog(lifeguard.QueryLogSlow))
	if err != nil {
		panic(err)
	}
	defer db.Close()
}

func ExampleWithLeakThreshold() {
	db, err := lifeguard.Open("lifeguard", os.Getenv("DATABASE_URL"), lifeguard.WithLeakThreshold(10*time.Second))
	if err != nil {
		panic(err)
	}
	defer db.Close()
}

// All processes that open this database have forty connections together.
func ExampleWithFleetLimit() {
	db, err := lifeguard.Open("lifeguard", os.Getenv("DATABASE_URL"), lifeguard.WithConnectionLimit(20), lifeguard.WithFleetLimit(40))
	if err != nil {
		panic(err)
	}
	defer db.Close()
	pool, _ := lifeguard.PoolOf(db)
	stats := pool.Stats()
	fmt.Printf("%d of %d in %d processes", stats.FleetHeld, stats.FleetLimit, stats.FleetProcesses)
}

func ExampleWithMaxWaiting() {
	db, err := lifeguard.Open("lifeguard", os.Getenv("DATABASE_URL"), lifeguard.WithMaxWaiting(200))
	if err != nil {
		panic(err)
	}
	defer db.Close()
}

func ExampleWithPoolName() {
	db, err := lifeguard.Open("lifeguard", os.Getenv("DATABASE_URL"), lifeguard.WithPoolName("shop"))
	if err != nil {
		panic(err)
	}
	defer db.Close()
}

func ExampleWithLogger() {
	lifeguard.Register("logged", &pq.Driver{}, lifeguard.WithLogger(slog.New(slog.NewJSONHandler(os.Stderr, nil))))
}

// Leaks of tests and staging end the program, so that they are found.
func ExampleWithLeakHandler() {
	lifeguard.Register("strict", &pq.Driver{}, lifeguard.WithLeakHandler(func(l lifeguard.Leak) {
		fmt.Fprintln(os.Stderr, l.Kind, l.Held, l.Stack)
		os.Exit(1)
	}))
}

func ExampleWithTracerProvider() {
	lifeguard.Register("traced", &pq.Driver{}, lifeguard.WithTracerProvider(otel.GetTracerProvider()))
}

func ExampleWithMeterProvider() {
	lifeguard.Register("measured", &pq.Driver{}, lifeguard.WithMeterProvider(otel.GetMeterProvider()))
}

func ExampleWithAttributes() {
	lifeguard.Register("labelled", &pq.Driver{}, lifeguard.WithAttributes(attribute.String("team", "orders")))
}

// Reports name the caller of the application's own data layer, not the layer.
func ExampleWithSkippedCallers() {
	lifeguard.Register("skipping", &pq.Driver{}, lifeguard.WithSkippedCallers("example.com/shop/store"))
}
