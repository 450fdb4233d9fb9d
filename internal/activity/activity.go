package activity

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/lib/pq"

	"github.com/go-lifeguard/lifeguard/internal/dsn"
)

const (
	timeout = time.Second     // for an answer
	fresh   = timeout / 2     // an answer that is younger is given again
	unused  = 1 * time.Minute // after which the server has its connection back
)

// Session is a connection as the server sees it.
type Session struct {
	State       string
	For         time.Duration // how long it has been in this state
	Age         time.Duration // since it began
	WaitEvent   string        // type and name, such as Lock: transactionid; "" if it waits for nothing but its client
	Application string
	Blockers    []int64 // processes that it waits for
}

// View is safe for concurrent use. It has a connection and a goroutine only while it is asked, and for a minute after that.
type View struct {
	connector driver.Connector
	redact    dsn.Redactor
	now       func() time.Time

	mu       sync.Mutex  // held while the server is asked; guards all below
	db       *sql.DB     // nil while it rests
	rest     *time.Timer // closes db; nil before the first question
	asked    time.Time
	answered time.Time // or found not to answer
	err      error
	sessions map[int64]Session
}

// New makes a view by a DSN of lib/pq's. It connects at the first call of Sessions.
func New(driverDSN string) (*View, error) {
	v := &View{redact: dsn.NewRedactor(driverDSN), now: time.Now}
	c, err := pq.NewConnector(driverDSN)
	if err != nil {
		return nil, v.redact.Error(err)
	}
	c.Dialer(dialer{})
	v.connector = c
	return v, nil
}

// Sessions gives those of all clients by their processes, and when the server was asked. The map is not to be changed.
func (v *View) Sessions() (map[int64]Session, time.Time, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	// Counted from the answer: those who have waited for a silent server together do not wait once more each.
	if v.now().Sub(v.answered) >= fresh {
		v.openLocked()
		v.asked = v.now()
		v.sessions, v.err = v.askLocked()
		v.answered = v.now()
	}
	return v.sessions, v.asked, v.err
}

func (v *View) openLocked() {
	if v.db == nil {
		v.db = sql.OpenDB(v.connector)
		v.db.SetMaxOpenConns(1)
	}
	if v.rest == nil {
		v.rest = time.AfterFunc(unused, v.Close)
	} else {
		v.rest.Reset(unused)
	}
}

// Close gives the connection back. A later call of Sessions opens another.
func (v *View) Close() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.db == nil {
		return
	}
	v.rest.Stop()
	_ = v.db.Close() // the server notices all the same
	v.db = nil
}

const activity = `SELECT pid, coalesce(state, ''), coalesce(wait_event_type, ''), coalesce(wait_event, ''),
	coalesce(extract(epoch FROM clock_timestamp() - state_change), 0), extract(epoch FROM clock_timestamp() - backend_start),
	application_name, CASE WHEN wait_event_type = 'Lock' THEN array_to_string(pg_blocking_pids(pid), ' ') ELSE '' END
FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()`

func (v *View) askLocked() (map[int64]Session, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	sessions, err := v.readLocked(ctx)
	switch {
	case err != nil && (ctx.Err() != nil || errors.Is(err, os.ErrDeadlineExceeded)):
		return nil, errors.New("the server has not answered within a second")
	case err != nil:
		return nil, v.redact.Error(err)
	}
	return sessions, nil
}

func (v *View) readLocked(ctx context.Context) (sessions map[int64]Session, err error) {
	tx, err := v.db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, tx.Rollback()) }()
	if _, err := tx.ExecContext(ctx, "SET LOCAL statement_timeout = '1s'"); err != nil {
		return nil, err
	}
	rows, err := tx.QueryContext(ctx, activity)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	sessions = map[int64]Session{}
	for rows.Next() {
		var s Session
		var since, age float64
		var pid int64
		var typ, event, blockers string
		if err := rows.Scan(&pid, &s.State, &typ, &event, &since, &age, &s.Application,
			&blockers); err != nil {
			return nil, err
		}
		for _, by := range strings.Fields(blockers) {
			n, err := strconv.ParseInt(by, 10, 64)
			if err != nil {
				return nil, err
			}
			s.Blockers = append(s.Blockers, n)
		}
		s.For, s.Age = time.Duration(since*1e9), time.Duration(age*1e9)
		if s.State == "" {
			s.State = "not shown: the page's user needs pg_monitor"
		}
		// An idle session waits for its client, which is no news.
		if typ != "" && typ != "Client" {
			s.WaitEvent = strings.TrimSuffix(typ+": "+event, ": ")
		}
		sessions[pid] = s
	}
	return sessions, rows.Err()
}
