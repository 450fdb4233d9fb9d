package main

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"strconv"
	"time"

	"github.com/go-lifeguard/lifeguard/internal/libpq"
)

// lookPostgres asks in the simple protocol alone, which every pooler carries.
func (r *report) lookPostgres(ctx context.Context, conn *sql.Conn) error {
	pooled, err := behindPooler(ctx, conn)
	if err != nil {
		return err
	}
	var tls sql.NullString
	err = conn.QueryRowContext(ctx, `SELECT split_part(version(), ' on ', 1),
		(SELECT version || ', ' || cipher FROM pg_stat_ssl WHERE pid = pg_backend_pid() AND ssl)`).Scan(&r.Version, &tls)
	if err != nil {
		return err
	}
	if r.TLS = tls.String; !tls.Valid {
		r.TLS = "none"
	}
	if pooled {
		r.TLS += " (between pooler and server)"
		r.Pooler = "yes: the server's process is not the one that answered the login"
		if !r.source.config.PgBouncer {
			r.find("warning", "write pgbouncer=true if the pooler works by transaction", "a pooler stands before the server, and pgbouncer is false")
		}
	}
	limits, err := r.postgresSettings(ctx, conn)
	if err != nil {
		return err
	}
	others, err := r.postgresConnections(ctx, conn)
	if err != nil {
		return err
	}
	role, database, err := postgresAccount(ctx, conn)
	if err != nil {
		return err
	}
	for _, own := range []struct {
		name string
		n    int
	}{{"limit of the role", role}, {"limit of the database", database}} {
		if own.n >= 0 {
			r.Limits = append(r.Limits, setting{own.name, strconv.Itoa(own.n)})
		}
	}
	if pooled {
		r.find("note", "", "behind a pooler its own limits count (max_client_conn, default_pool_size), which only its console shows")
		return nil
	}
	reserved := limits["superuser_reserved_connections"] + limits["reserved_connections"]
	r.fit(limits["max_connections"]-reserved-others, fmt.Sprintf("the server: max_connections %d, less %d reserved and %d of other users",
		limits["max_connections"], reserved, others))
	if role >= 0 {
		r.fit(role, "the role's CONNECTION LIMIT")
	}
	if database >= 0 {
		r.fit(database, "the database's CONNECTION LIMIT")
	}
	return nil
}

// behindPooler says whether the process that works is another than the one that the login named. false if lib/pq does
// not tell.
func behindPooler(ctx context.Context, conn *sql.Conn) (pooled bool, err error) {
	var pid int64
	if err := conn.QueryRowContext(ctx, "SELECT pg_backend_pid()").Scan(&pid); err != nil {
		return false, err
	}
	err = conn.Raw(func(dc any) error {
		if c, ok := dc.(driver.Conn); ok {
			told, known := libpq.BackendPID(c)
			pooled = known && told != pid
		}
		return nil
	})
	return pooled, err
}

func (r *report) postgresSettings(ctx context.Context, conn *sql.Conn) (map[string]int, error) {
	rows, err := conn.QueryContext(ctx, `SELECT name, setting, coalesce(unit, '') FROM pg_settings WHERE name IN
		('max_connections', 'superuser_reserved_connections', 'reserved_connections', 'idle_session_timeout',
		'idle_in_transaction_session_timeout', 'statement_timeout', 'lock_timeout', 'transaction_timeout') ORDER BY name`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	limits := map[string]int{}
	for rows.Next() {
		var name, unit string
		var n int
		if err := rows.Scan(&name, &n, &unit); err != nil {
			return nil, err
		}
		if unit != "ms" {
			limits[name] = n
			r.Limits = append(r.Limits, setting{name, strconv.Itoa(n)})
			continue
		}
		d := time.Duration(n) * time.Millisecond
		r.Timeouts = append(r.Timeouts, setting{name, period(d)})
		switch name {
		case "idle_session_timeout":
			r.idleTimeout(name, d)
		case "idle_in_transaction_session_timeout":
			r.idleInTransaction(name, d)
		case "statement_timeout":
			if s := r.source.config.SocketTimeout; d > 0 && s > 0 && s < d {
				r.find("warning", "write socket_timeout="+period(d+d/5),
					"socket_timeout %s cuts a statement, and its connection, before the server's statement_timeout of %s ends it", period(s), period(d))
			}
		}
	}
	return limits, rows.Err()
}

// postgresConnections counts the connections, and gives how many are other users'.
func (r *report) postgresConnections(ctx context.Context, conn *sql.Conn) (others int, err error) {
	rows, err := conn.QueryContext(ctx, `SELECT coalesce(usename, '?'), coalesce(nullif(application_name, ''), '-'), count(*),
		count(*) FILTER (WHERE state = 'active'), usename IS DISTINCT FROM session_user
		FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() GROUP BY 1, 2, 5 ORDER BY 3 DESC, 1, 2`)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	for rows.Next() {
		var u usage
		var other bool
		if err := rows.Scan(&u.User, &u.Application, &u.Connections, &u.Active, &other); err != nil {
			return 0, err
		}
		if other {
			others += u.Connections
		}
		r.Connections = append(r.Connections, u)
	}
	return others, rows.Err()
}

// postgresAccount gives the limits of the role and the database, -1 for none.
func postgresAccount(ctx context.Context, conn *sql.Conn) (role, database int, err error) {
	err = conn.QueryRowContext(ctx, `SELECT CASE WHEN rolsuper THEN -1 ELSE rolconnlimit END,
		(SELECT CASE WHEN rolsuper THEN -1 ELSE datconnlimit END FROM pg_database WHERE datname = current_database())
		FROM pg_roles WHERE rolname = session_user`).Scan(&role, &database)
	return role, database, err
}
