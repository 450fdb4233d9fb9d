// Package service is what the example services have in common: settings from
// the environment, a database behind lifeguard, telemetry, errors as JSON, and an
// end that loses no request. What it does not know is what a service is for.
package service

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
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

// startTimeout bounds connecting to the database and preparing its tables.
const startTimeout = 30 * time.Second

// telemetryTimeout bounds sending the last spans at the end.
const telemetryTimeout = 5 * time.Second

// Service is one service: what it is called, and what it does.
type Service struct {
	Name   string                                     // customers
	Port   uint16                                     // where it listens unless told otherwise
	Tables func(key string) []string                  // statements that create and fill them; key declares a primary key
	New    func(*Database, *slog.Logger) http.Handler // its endpoints
	Try    []string                                   // what to try next; BASE stands for its address
}

// Main runs s as the process that it is, and returns the exit code.
func Main(s *Service) int {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	slog.SetDefault(log) // lifeguard reports its own trouble there
	settings, err := s.ParseSettings(os.Args[1:], os.Getenv, os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		log.Error(s.Name+" cannot start", "err", err)
		return 2
	}
	if err := s.run(settings, os.Stdout, log); err != nil {
		log.Error(s.Name+" ended", "err", err)
		return 1
	}
	return 0
}

// run serves until a signal or a failure of the listener. It returns nil if
// every request that was under way has been answered.
func (s *Service) run(settings Settings, out io.Writer, log *slog.Logger) error {
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

	database, err := s.OpenDatabase(signaled, settings.DatabaseURL)
	if err != nil {
		return err
	}
	defer func() {
		if err := database.Remove(); err != nil {
			log.Warn("the temporary database stays behind", "err", err)
		}
	}()
	telemetry.watch(database.DB)
	listener, err := net.Listen("tcp", settings.Addr)
	if err != nil {
		return errors.Join(err, closeDatabase(signaled, database))
	}
	// Requests must outlive the signal, so their contexts do not descend from
	// signaled: that would cancel the very work a graceful end waits for.
	server := &http.Server{
		Handler:           telemetry.handler(s.New(database, log)),
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	broken := make(chan error, 1)
	go func() { broken <- server.Serve(listener) }()
	log.Info("listening", "addr", listener.Addr().String(), "database", database.Kind)
	s.printHints(out, listener.Addr(), database.Kind)

	var cause error
	select {
	case cause = <-broken:
	case <-signaled.Done():
	}
	// Signals have their default effect again: a second one ends the process at
	// once, for whoever does not want to wait for the grace period.
	restoreSignals()

	log.Info("finishing the requests under way; a second signal ends at once", "grace", settings.Grace)
	grace, cancel := context.WithTimeout(context.Background(), settings.Grace)
	defer cancel()
	if err := server.Shutdown(grace); err != nil {
		cause = errors.Join(cause, fmt.Errorf("requests were cut off after the grace period of %v: %w", settings.Grace, err), server.Close())
	}
	if err := closeDatabase(grace, database); err != nil {
		cause = errors.Join(cause, fmt.Errorf("closing the database: %w", err))
	}
	if cause == nil {
		log.Info("every request was answered, the database is closed")
	}
	return cause
}

// closeDatabase closes d when no request needs it any more. When ctx, the
// grace period, is over, whatever still holds a connection is cut off, and
// named in the error. Everything that happens to the pool at the end happens
// here.
func closeDatabase(ctx context.Context, d *Database) error {
	d.trouble.end()
	return lifeguard.Shutdown(ctx, d.DB)
}

// printHints shows what to try next with the service at addr.
func (s *Service) printHints(out io.Writer, addr net.Addr, kind Kind) {
	host, port, err := net.SplitHostPort(addr.String())
	if ip := net.ParseIP(host); err != nil || ip == nil || ip.IsUnspecified() {
		host = "localhost"
	}
	base := "http://" + net.JoinHostPort(host, port)
	where := "PostgreSQL"
	if kind == SQLite {
		where = "SQLite in a temporary file; set DATABASE_URL to a postgres:// address for PostgreSQL"
	}
	fmt.Fprintf(out, "The %s service listens on %s\nDatabase: %s\n\nTry next:\n", s.Name, base, where)
	for _, line := range s.Try {
		fmt.Fprintln(out, "  "+strings.ReplaceAll(line, "BASE", base))
	}
}
