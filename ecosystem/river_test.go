package ecosystem

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/riverdriver/riverdatabasesql"
	"github.com/riverqueue/river/riverdriver/riversqlite"
	"github.com/riverqueue/river/rivermigrate"
	"github.com/riverqueue/river/rivertype"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A transfer is a job that moves an amount in a transaction, which ends the job too.
type transfer struct {
	From   int64 `json:"from" river:"unique"`
	To     int64 `json:"to"`
	Amount int64 `json:"amount"`
	Fails  int   `json:"fails"` // that many times before it succeeds
}

func (transfer) Kind() string { return "transfer" }

type transferWorker struct {
	river.WorkerDefaults[transfer]
	db *sql.DB
}

func (w *transferWorker) Work(ctx context.Context, job *river.Job[transfer]) error {
	if job.Attempt <= job.Args.Fails {
		return fmt.Errorf("attempt %d fails", job.Attempt)
	}
	tx, err := w.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	for id, amount := range map[int64]int64{job.Args.From: -job.Args.Amount, job.Args.To: job.Args.Amount} {
		// Numbers of the program's own in the text, so that it is the same on every database.
		text := fmt.Sprintf("UPDATE accounts SET balance = balance + (%d) WHERE id = %d", amount, id)
		if _, err := tx.ExecContext(ctx, text); err != nil {
			return err
		}
	}
	if _, err := river.JobCompleteTx[*riverdatabasesql.Driver](ctx, tx, job); err != nil {
		return err
	}
	return tx.Commit()
}

// NextRetry does not wait as long as River does by default.
func (w *transferWorker) NextRetry(*river.Job[transfer]) time.Time { return time.Now() }

// A refusal is a job that cancels itself.
type refusal struct {
	N int `json:"n"`
}

func (refusal) Kind() string { return "refusal" }

type refusalWorker struct{ river.WorkerDefaults[refusal] }

func (refusalWorker) Work(context.Context, *river.Job[refusal]) error {
	return river.JobCancel(errors.New("refused"))
}

func riverClient(s *stage, driver riverdriver.Driver[*sql.Tx], workers *river.Workers) *river.Client[*sql.Tx] {
	migrator, err := rivermigrate.New(driver, &rivermigrate.Config{Logger: slog.New(slog.DiscardHandler)})
	s.must(err)
	migrated, err := migrator.Migrate(s.Context(), rivermigrate.DirectionUp, nil)
	s.must(err)
	var versions []int
	for _, v := range migrated.Versions {
		versions = append(versions, v.Version)
	}
	s.see("migrated", versions)
	client, err := river.NewClient(driver, &river.Config{
		Queues:  map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: 5}},
		Workers: workers, Logger: slog.New(slog.DiscardHandler),
		FetchCooldown: 5 * time.Millisecond, FetchPollInterval: 10 * time.Millisecond, TestOnly: true,
	})
	s.must(err)
	return client
}

// work has the client work until that many jobs have ended.
func (s *stage) work(client *river.Client[*sql.Tx], jobs int) {
	ended, stop := client.Subscribe(river.EventKindJobCompleted, river.EventKindJobCancelled)
	defer stop()
	s.must(client.Start(s.Context()))
	for range jobs {
		select {
		case <-ended:
		case <-time.After(longest / 2):
			s.Fatal("not all jobs were worked")
		}
	}
	s.must(client.Stop(context.Background()))
}

// jobs writes down what has become of all jobs.
func (s *stage) jobs(client *river.Client[*sql.Tx]) {
	list, err := client.JobList(s.Context(), river.NewJobListParams().First(100).OrderBy(river.JobListOrderByID, river.SortOrderAsc))
	s.must(err)
	for _, job := range list.Jobs {
		var texts []string
		for _, e := range job.Errors {
			texts = append(texts, e.Error)
		}
		s.see("job", []any{job.ID, job.Kind, job.State, job.Attempt, texts, string(job.EncodedArgs)})
	}
}

// Each limit is enough: River holds no connection while a job runs.
func TestRiver(t *testing.T) {
	for _, limit := range []int{1, 2, 4} {
		t.Run(fmt.Sprint("limit ", limit), func(t *testing.T) { run(t, limit, postgresServers, transfers) })
	}
}

func transfers(s *stage) {
	s.exec("CREATE TABLE accounts (id bigint PRIMARY KEY, balance bigint NOT NULL)",
		"INSERT INTO accounts SELECT n, 100 FROM generate_series(1, 10) n")
	workers := river.NewWorkers()
	river.AddWorker(workers, &transferWorker{db: s.db})
	river.AddWorker(workers, refusalWorker{})
	client, ctx := riverClient(s, riverdatabasesql.New(s.db), workers), s.Context()

	tx, err := s.db.BeginTx(ctx, nil)
	s.must(err)
	_, err = client.InsertTx(ctx, tx, transfer{From: 1, To: 2, Amount: 1000}, nil)
	s.must(err)
	s.must(tx.Rollback()) // and so there is no job
	var many []river.InsertManyParams
	for id := range int64(9) {
		many = append(many, river.InsertManyParams{Args: transfer{From: id + 1, To: id + 2, Amount: 10 * (id + 1), Fails: int(id % 3)}})
	}
	tx, err = s.db.BeginTx(ctx, nil)
	s.must(err)
	inserted, err := client.InsertManyTx(ctx, tx, many)
	s.must(err)
	s.must(tx.Commit())
	s.see("inserted", len(inserted))
	_, err = client.Insert(ctx, refusal{N: 1}, nil)
	s.must(err)
	once := &river.InsertOpts{UniqueOpts: river.UniqueOpts{ByArgs: true}, Tags: []string{"unique", "tags"}}
	for range 2 {
		result, err := client.Insert(ctx, transfer{From: 10, To: 1, Amount: 1}, once)
		s.must(err)
		s.see("unique", result.UniqueSkippedAsDuplicate)
	}
	s.work(client, len(many)+2)

	s.jobs(client)
	balances, err := s.db.QueryContext(ctx, "SELECT id, balance FROM accounts ORDER BY id")
	s.must(err)
	defer balances.Close()
	for balances.Next() {
		var id, balance int64
		s.must(balances.Scan(&id, &balance))
		s.see("balance", []int64{id, balance})
	}
	s.must(balances.Err())
	_, err = client.JobGet(ctx, 10_000)
	s.fails("a job that is not there", err)
	assert.ErrorIs(s, err, rivertype.ErrNotFound)
}

// A worker that needs a second connection while it holds one works at a limit of two per worker only. The error names it.
func TestRiverWorkerWithTwoConnections(t *testing.T) {
	timeout := culprits(t, onPQ, 1, func(s *stage) error {
		failed := make(chan error, 1)
		workers := river.NewWorkers()
		river.AddWorker(workers, &greedyWorker{db: s.db, failed: failed})
		client := riverClient(s, riverdatabasesql.New(s.db), workers)
		_, err := client.Insert(s.Context(), greedy{}, nil)
		s.must(err)
		s.must(client.Start(s.Context()))
		defer func() { assert.NoError(s, client.StopAndCancel(context.Background())) }()
		return <-failed
	})
	require.Len(t, timeout.Holders, 1)
	assert.Contains(t, timeout.Error(), "(*greedyWorker).Work")
	assert.Contains(t, timeout.Error(), "idle in a transaction")
}

type greedy struct{}

func (greedy) Kind() string { return "greedy" }

type greedyWorker struct {
	river.WorkerDefaults[greedy]
	db     *sql.DB
	failed chan<- error
	once   atomic.Bool
}

func (w *greedyWorker) Work(ctx context.Context, _ *river.Job[greedy]) error {
	tx, err := w.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if _, err := tx.ExecContext(ctx, "SELECT 1"); err != nil {
		return err
	}
	_, err = w.db.ExecContext(ctx, "SELECT 2") // not in tx
	if w.once.CompareAndSwap(false, true) {
		w.failed <- err
	}
	return river.JobCancel(err)
}

// On SQLite River's driver wants a single connection.
func TestRiverSQLite(t *testing.T) {
	run(t, 1, []*server{onSQLite}, func(s *stage) {
		workers := river.NewWorkers()
		river.AddWorker(workers, refusalWorker{})
		client := riverClient(s, riversqlite.New(s.db), workers)
		for n := range 5 {
			_, err := client.Insert(s.Context(), refusal{N: n}, nil)
			s.must(err)
		}
		s.work(client, 5)
		s.jobs(client)
	})
}
