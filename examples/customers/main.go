// Customers is a small HTTP service that keeps its database behind lifeguard.
// It is meant to be copied from: the pool's limits come from the DSN, an
// exhausted pool becomes a 503 that says so, and a deploy loses no request.
//
//	go run ./examples/customers
//
// runs it on SQLite in a temporary file. With DATABASE_URL set it runs on that
// PostgreSQL instead:
//
//	DATABASE_URL='postgres://user:password@localhost:5432/shop?connection_limit=10' go run ./examples/customers
//
// It has no authentication, and it is no framework: what it does not need is
// not there.
package main

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/go-lifeguard/lifeguard"
)

// Limits of the HTTP server. A response has to be written within writeTimeout
// of its request's headers, so requestTimeout is shorter: whoever waited for
// the database in vain still gets an answer. Both are longer than lifeguard's
// default pool_timeout of 20 s, which is to be what ends a wait for a
// connection: its error names who holds the pool.
const (
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 10 * time.Second
	requestTimeout    = 25 * time.Second
	writeTimeout      = 30 * time.Second
	idleTimeout       = time.Minute
	maxHeaderBytes    = 64 << 10
)

// startTimeout bounds connecting to the database and preparing its table.
const startTimeout = 30 * time.Second

// telemetryTimeout bounds sending the last spans at the end.
const telemetryTimeout = 5 * time.Second

func main() {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	slog.SetDefault(log) // lifeguard reports its own trouble there
	settings, err := parseSettings(os.Args[1:], os.Getenv, os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return
	case err != nil:
		log.Error("customers cannot start", "err", err)
		os.Exit(2)
	}
	if err := run(settings, os.Stdout, log); err != nil {
		log.Error("customers ended", "err", err)
		os.Exit(1)
	}
}

type settings struct {
	addr        string
	grace       time.Duration
	databaseURL string
}

// parseSettings reads the command line and the environment; the command line
// wins.
func parseSettings(args []string, getenv func(string) string, usage io.Writer) (settings, error) {
	s := settings{addr: ":4004", databaseURL: getenv("DATABASE_URL")}
	if port := getenv("PORT"); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil {
			return settings{}, fmt.Errorf("PORT is %q; write a port number from 0 (any free one) to 65535", port)
		} else {
			s.addr = fmt.Sprintf(":%d", n)
		}
	}
	flags := flag.NewFlagSet("customers", flag.ContinueOnError)
	flags.SetOutput(usage)
	flags.Usage = func() {
		fmt.Fprint(usage, "Usage: customers [flags]\n\nThe environment variable DATABASE_URL names a PostgreSQL; without it the service runs on SQLite in a temporary file.\n\n")
		flags.PrintDefaults()
	}
	flags.StringVar(&s.addr, "addr", s.addr, "`address` to listen on; the environment variable PORT changes the default")
	flags.DurationVar(&s.grace, "grace", 15*time.Second, "how long requests under way may take to finish after SIGTERM or SIGINT")
	if err := flags.Parse(args); err != nil {
		return settings{}, err
	}
	if flags.NArg() > 0 {
		return settings{}, fmt.Errorf("unexpected argument %q; the database is set with the environment variable DATABASE_URL", flags.Arg(0))
	}
	if s.grace <= 0 {
		return settings{}, fmt.Errorf("-grace is %v; write a positive duration such as 15s", s.grace)
	}
	return s, nil
}

// run serves until a signal or a failure of the listener. It returns nil if
// every request that was under way has been answered.
func run(s settings, out io.Writer, log *slog.Logger) error {
	signaled, restoreSignals := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer restoreSignals()

	// First, so that it ends last and sends the spans of the end as well.
	telemetry, err := startTelemetry(signaled, os.Getenv)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), telemetryTimeout)
		defer cancel()
		if err := telemetry.shutdown(ctx); err != nil {
			log.Warn("spans or metrics were lost", "err", err)
		}
	}()

	database, err := openDatabase(signaled, s.databaseURL)
	if err != nil {
		return err
	}
	defer func() {
		if err := database.remove(); err != nil {
			log.Warn("the temporary database stays behind", "err", err)
		}
	}()

	listener, err := net.Listen("tcp", s.addr)
	if err != nil {
		return errors.Join(err, closeDatabase(signaled, database.DB))
	}
	// Requests must outlive the signal, so their contexts do not descend from
	// signaled: that would cancel the very work a graceful end waits for.
	server := &http.Server{
		Handler:           telemetry.handler(newHandler(database, log)),
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	broken := make(chan error, 1)
	go func() { broken <- server.Serve(listener) }()
	log.Info("listening", "addr", listener.Addr().String(), "database", database.kind)
	printHints(out, listener.Addr(), database.kind)

	var cause error
	select {
	case cause = <-broken:
	case <-signaled.Done():
	}
	// Signals have their default effect again: a second one ends the process at
	// once, for whoever does not want to wait for the grace period.
	restoreSignals()

	log.Info("finishing the requests under way; a second signal ends at once", "grace", s.grace)
	grace, cancel := context.WithTimeout(context.Background(), s.grace)
	defer cancel()
	if err := server.Shutdown(grace); err != nil {
		cause = errors.Join(cause, fmt.Errorf("requests were cut off after the grace period of %v: %w", s.grace, err), server.Close())
	}
	if err := closeDatabase(grace, database.DB); err != nil {
		cause = errors.Join(cause, fmt.Errorf("closing the database: %w", err))
	}
	if cause == nil {
		log.Info("every request was answered, the database is closed")
	}
	return cause
}

// closeDatabase closes db when no request needs it any more. When ctx, the
// grace period, is over, whatever still holds a connection is cut off, and
// named in the error. Everything that happens to the pool at the end happens
// here.
func closeDatabase(ctx context.Context, db *sql.DB) error {
	return lifeguard.Shutdown(ctx, db)
}

// printHints shows what to try next with the service at addr.
func printHints(out io.Writer, addr net.Addr, kind databaseKind) {
	host, port, err := net.SplitHostPort(addr.String())
	if ip := net.ParseIP(host); err != nil || ip == nil || ip.IsUnspecified() {
		host = "localhost"
	}
	base := "http://" + net.JoinHostPort(host, port)
	where := "PostgreSQL"
	if kind == sqlite {
		where = "SQLite in a temporary file; set DATABASE_URL to a postgres:// address for PostgreSQL"
	}
	fmt.Fprintf(out, `The customers service listens on %[1]s
Database: %[2]s

Try next:
  curl '%[1]s/api/customers?limit=3'
  curl -i %[1]s/api/customers -d '{"name": "New Customer", "email": "new@example.com"}'
  curl %[1]s/healthz
  curl %[1]s/metrics
  %[1]s/debug/pool/ in a browser shows the pool
  ab -n 1000 -c 100 %[1]s/api/customers
`, base, where)
}
