package main

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"
	"strings"
	"time"
)

func (r *report) lookMySQL(ctx context.Context, conn *sql.Conn) error {
	var comment string
	var most, ofUser int
	var wait int64
	err := conn.QueryRowContext(ctx, "SELECT version(), @@version_comment, @@max_connections, @@max_user_connections, @@wait_timeout").
		Scan(&r.Version, &comment, &most, &ofUser, &wait)
	if err != nil {
		return err
	}
	r.Version += " (" + comment + ")"
	if strings.Contains(strings.ToLower(comment), "proxysql") {
		r.Pooler = "ProxySQL"
	}
	var name, cipher string
	if err := conn.QueryRowContext(ctx, "SHOW SESSION STATUS LIKE 'Ssl_cipher'").Scan(&name, &cipher); err != nil {
		return err
	}
	if r.TLS = cipher; cipher == "" {
		r.TLS = "none"
	}
	r.Limits = append(r.Limits, setting{"max_connections", strconv.Itoa(most)}, setting{"max_user_connections", strconv.Itoa(ofUser)})
	after := time.Duration(wait) * time.Second
	r.Timeouts = append(r.Timeouts, setting{"wait_timeout", period(after)})
	r.idleTimeout("wait_timeout", after)
	if err := r.mariaTimeout(ctx, conn); err != nil {
		return err
	}
	others, err := r.mysqlConnections(ctx, conn)
	if err != nil {
		return err
	}
	r.fit(most-others, fmt.Sprintf("the server: max_connections %d, less %d of other users", most, others))
	if ofUser > 0 {
		r.fit(ofUser, "the user: max_user_connections")
	}
	return nil
}

// mariaTimeout reads a timeout that only MariaDB has.
func (r *report) mariaTimeout(ctx context.Context, conn *sql.Conn) error {
	var name string
	var seconds int64
	err := conn.QueryRowContext(ctx, "SHOW SESSION VARIABLES LIKE 'idle_transaction_timeout'").Scan(&name, &seconds)
	if err == sql.ErrNoRows {
		return nil
	}
	if err != nil {
		return err
	}
	d := time.Duration(seconds) * time.Second
	r.Timeouts = append(r.Timeouts, setting{name, period(d)})
	r.idleInTransaction(name, d)
	return nil
}

// mysqlConnections counts the connections, and gives how many are other users'. A user without PROCESS sees only its
// own, so the server's own count is taken for the sum. The client's host stands for the application.
func (r *report) mysqlConnections(ctx context.Context, conn *sql.Conn) (others int, err error) {
	rows, err := conn.QueryContext(ctx, `SELECT user, substring_index(coalesce(host, '-'), ':', 1), count(*),
		sum(command NOT IN ('Sleep', 'Daemon')), user = substring_index(user(), '@', 1) FROM information_schema.processlist
		WHERE id <> connection_id() AND command <> 'Daemon' GROUP BY 1, 2, 5 ORDER BY 3 DESC, 1, 2`)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	seen, own := 1, 1 // this one
	for rows.Next() {
		var u usage
		var mine bool
		if err := rows.Scan(&u.User, &u.Application, &u.Connections, &u.Active, &mine); err != nil {
			return 0, err
		}
		if seen += u.Connections; mine {
			own += u.Connections
		}
		r.Connections = append(r.Connections, u)
	}
	if err := rows.Err(); err != nil {
		return 0, err
	}
	var name string
	var connected int
	if err := conn.QueryRowContext(ctx, "SHOW GLOBAL STATUS LIKE 'Threads_connected'").Scan(&name, &connected); err != nil {
		return 0, err
	}
	if connected > seen {
		r.Connections = append(r.Connections, usage{User: "(not shown to this user)", Application: "-", Connections: connected - seen})
	}
	return max(connected-own, 0), nil
}
