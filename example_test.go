package lifeguard_test

import (
	"context"
	"database/sql"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

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
