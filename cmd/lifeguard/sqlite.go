package main

import (
	"context"
	"database/sql"
	"strconv"
	"time"
)

func (r *report) lookSQLite(ctx context.Context, conn *sql.Conn) error {
	var mode string
	var busy int64
	if err := conn.QueryRowContext(ctx, "SELECT 'SQLite ' || sqlite_version()").Scan(&r.Version); err != nil {
		return err
	}
	if err := conn.QueryRowContext(ctx, "PRAGMA journal_mode").Scan(&mode); err != nil {
		return err
	}
	if err := conn.QueryRowContext(ctx, "PRAGMA busy_timeout").Scan(&busy); err != nil {
		return err
	}
	r.TLS = "none: a file"
	d := time.Duration(busy) * time.Millisecond
	r.Limits = append(r.Limits, setting{"journal_mode", mode}, setting{"writers at once", strconv.Itoa(1)})
	r.Timeouts = append(r.Timeouts, setting{"busy_timeout", period(d)})
	several := r.source.config.ConnectionLimit > 1
	switch {
	case r.source.file() == "" && several:
		r.find("problem", "write connection_limit=1", "each connection has a database in memory of its own")
	case r.source.file() != "" && busy == 0 && (several || r.Instances > 1):
		r.find("warning", "write _pragma=busy_timeout(5000)", "a writer that meets another gets SQLITE_BUSY at once, because busy_timeout is 0")
	}
	if r.source.file() != "" && mode != "wal" && several {
		r.find("warning", "write _pragma=journal_mode(wal)", "journal_mode is %s: readers wait for the writer", mode)
	}
	return nil
}
