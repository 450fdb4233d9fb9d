package ecosystem

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/lib/pq"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard"
)

// A queue of jobs in a table, whose workers wait for NOTIFY. Listening takes a connection of its own beside the pool, from
// the driver's own DSN.
func TestQueueWithListen(t *testing.T) {
	for _, limit := range []int{1, 3} {
		t.Run(fmt.Sprint("limit ", limit), func(t *testing.T) {
			run(t, limit, postgresServers, func(s *stage) {
				s.exec("CREATE TABLE jobs (id bigserial PRIMARY KEY, task text NOT NULL, done_by int)")
				ctx, cancel := context.WithTimeout(s.Context(), longest/2)
				defer cancel()
				const jobs, workers = 40, 3
				woken, listening := make(chan string, jobs), sync.WaitGroup{}
				s.listen(ctx, &listening, woken)
				done := make(chan string, jobs)
				var working sync.WaitGroup
				for worker := range workers {
					working.Go(func() {
						for range woken {
							task, err := takeJob(ctx, s.db, worker)
							if assert.NoError(s, err) {
								done <- task
							}
						}
					})
				}
				for n := range jobs {
					s.must(putJob(ctx, s.db, fmt.Sprint("task ", n)))
				}
				var tasks []string
				for range jobs {
					select {
					case task := <-done:
						tasks = append(tasks, task)
					case <-ctx.Done():
						s.Fatalf("%d of %d jobs done", len(tasks), jobs)
					}
				}
				cancel()
				listening.Wait()
				working.Wait()
				slices.Sort(tasks)
				s.see("done", tasks)
			})
		})
	}
}

func putJob(ctx context.Context, db *sql.DB, task string) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if _, err := tx.ExecContext(ctx, "INSERT INTO jobs (task) VALUES ($1)", task); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, "SELECT pg_notify('jobs', $1)", task); err != nil {
		return err
	}
	return tx.Commit()
}

// takeJob takes the oldest job that nobody else has. There is one for each notification, but another worker may have taken the
// last that this one's query saw, in the place of one that was put in since.
func takeJob(ctx context.Context, db *sql.DB, worker int) (task string, err error) {
	for {
		if task, err = tryJob(ctx, db, worker); !errors.Is(err, sql.ErrNoRows) {
			return task, err
		}
	}
}

func tryJob(ctx context.Context, db *sql.DB, worker int) (task string, err error) {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return "", err
	}
	defer tx.Rollback()
	var id int64
	err = tx.QueryRowContext(ctx, "SELECT id, task FROM jobs WHERE done_by IS NULL ORDER BY id FOR UPDATE SKIP LOCKED LIMIT 1").
		Scan(&id, &task)
	if err != nil {
		return "", err
	}
	if _, err := tx.ExecContext(ctx, "UPDATE jobs SET done_by = $1 WHERE id = $2", worker, id); err != nil {
		return "", err
	}
	return task, tx.Commit()
}

// listen passes notifications on until ctx ends, and closes woken then. It listens when it returns.
func (s *stage) listen(ctx context.Context, running *sync.WaitGroup, woken chan<- string) {
	// What a program with one DATABASE_URL does.
	_, driverDSN, err := lifeguard.ParseDSN(s.dsn+"&connection_limit=3&pool_timeout=5", lifeguard.DefaultConfig())
	s.must(err)
	if s.driver == "pgx" {
		conn, err := pgx.Connect(ctx, driverDSN)
		s.must(err)
		_, err = conn.Exec(ctx, "LISTEN jobs")
		s.must(err)
		running.Go(func() {
			defer close(woken)
			defer conn.Close(context.Background())
			for {
				n, err := conn.WaitForNotification(ctx)
				if err != nil {
					assert.ErrorIs(s, err, context.Canceled)
					return
				}
				woken <- n.Payload
			}
		})
		return
	}
	listener := pq.NewListener(driverDSN, 10*time.Millisecond, time.Second, nil)
	s.must(listener.Listen("jobs"))
	running.Go(func() {
		defer close(woken)
		defer listener.Close()
		for {
			select {
			case n := <-listener.Notify:
				if n != nil { // nil after a connection was lost
					woken <- n.Extra
				}
			case <-ctx.Done():
				return
			}
		}
	})
}

// With pgx a connection of the pool can listen: Unwrap gives the driver's own. It is held meanwhile, so with one connection
// a sender waits for itself, and the error names the listener.
func TestListenOnAPoolsConnection(t *testing.T) {
	heard := func(s *stage, conn *sql.Conn, ctx context.Context) (payload string, err error) {
		err = conn.Raw(func(driverConn any) error {
			n, err := lifeguard.Unwrap(driverConn).(*stdlib.Conn).Conn().WaitForNotification(ctx)
			if err == nil {
				payload = n.Payload
			}
			return err
		})
		return payload, err
	}
	run(t, 2, []*server{onPGX}, func(s *stage) {
		conn, err := s.db.Conn(s.Context())
		s.must(err)
		_, err = conn.ExecContext(s.Context(), "LISTEN news")
		s.must(err)
		for n := range 3 {
			_, err = s.db.ExecContext(s.Context(), "SELECT pg_notify('news', $1)", fmt.Sprint("payload ", n))
			s.must(err)
			payload, err := heard(s, conn, s.Context())
			s.must(err)
			s.see("heard", payload)
		}
		ctx, cancel := context.WithTimeout(s.Context(), time.Millisecond)
		defer cancel()
		_, err = heard(s, conn, ctx)
		assert.ErrorIs(s, err, context.DeadlineExceeded)
		_, err = conn.ExecContext(s.Context(), "UNLISTEN *")
		s.must(err)
		s.must(conn.Close())
	})
	timeout := culprits(t, onPGX, 1, func(s *stage) error {
		conn, err := s.db.Conn(s.Context())
		s.must(err)
		defer conn.Close()
		_, err = conn.ExecContext(s.Context(), "LISTEN news")
		s.must(err)
		_, err = s.db.ExecContext(s.Context(), "SELECT pg_notify('news', '')")
		return err
	})
	require.Len(t, timeout.Holders, 1)
	assert.Contains(t, timeout.Error(), `TestListenOnAPoolsConnection`)
	assert.True(t, errors.Is(timeout, lifeguard.ErrPoolTimeout))
}
