package workload

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/go-lifeguard/lifeguard/benchmarks/internal/candidate"
	"github.com/go-lifeguard/lifeguard/benchmarks/internal/report"
	"github.com/go-lifeguard/lifeguard/benchmarks/internal/stats"
)

// memory is what is kept: idle connections, waiting callers and prepared statements.
type memory struct{}

func (memory) Name() string { return "memory" }

const (
	memoryIdle      = "idle connection"
	memoryWaiter    = "waiting caller"
	memoryStatement = "prepared statement"
	memoryServer    = "the same, on the server"

	memoryConnections = 100
)

func (w memory) Run(ctx context.Context, r *Run) (*Section, error) {
	if err := script(ctx, r, postgresTables); err != nil {
		return nil, err
	}
	table := &report.Table{
		Baseline: baseline,
		Columns: []report.Column{
			{Name: memoryIdle, Unit: report.Bytes, Better: report.Lower},
			{Name: memoryWaiter, Unit: report.Bytes, Better: report.Lower},
			{Name: memoryStatement, Unit: report.Bytes, Better: report.Lower},
			{Name: memoryServer, Unit: report.Bytes, Better: report.Lower},
		},
	}
	list := r.few(table)
	connections, waiters, statements := pick(r, memoryConnections, memoryConnections, 10), pick(r, 3000, 2000, 100), pick(r, 500, 300, 20)
	for round := range r.Rounds {
		for _, c := range r.order(w.Name(), round, list) {
			row := report.Row{Candidate: c.Name()}
			idle, err := w.idle(ctx, r, c, connections)
			if err != nil {
				return nil, err
			}
			table.Add(row, memoryIdle, idle)
			waiting, err := w.waiting(ctx, r, c, waiters)
			if err != nil {
				return nil, err
			}
			table.Add(row, memoryWaiter, waiting)
			here, there, err := w.statements(ctx, r, c, statements)
			if reason := candidate.Unable(""); errors.As(err, &reason) {
				table.Missing(row, "", string(reason))
				continue
			}
			if err != nil {
				return nil, err
			}
			table.Add(row, memoryStatement, here)
			table.Add(row, memoryServer, there)
		}
		r.logf("memory, round %d measured", round+1)
	}
	table.Sort(nil, r.names())
	return &Section{
		Title: "Memory: what things take",
		Text: fmt.Sprintf("Bytes of the client's heap, per piece: for %d idle connections to PostgreSQL with what the "+
			"driver keeps for each, for %s goroutines that wait for a connection (with the goroutine and its stack), "+
			"and for %s prepared statements on one connection; and what the statements take on the server, by "+
			"`pg_backend_memory_contexts`. Where a library does not keep statements by itself, `Prepare` was called "+
			"for each.",
			connections, report.Count.Format(float64(waiters)), report.Count.Format(float64(statements))),
		Tables: []*report.Table{table},
		Cause:  w.cause,
		Headlines: []Headline{
			{
				Text: "memory of an idle connection", Table: table,
				Row: report.Row{Candidate: "lifeguard"}, Column: memoryIdle,
			},
		},
	}, nil
}

// used is what the program keeps, in bytes: the heap, and the stacks of its goroutines.
func used() (heap, stacks float64) {
	// The first collection finishes what was begun before; what finalizers let go, and what pools of objects kept for one
	// more round, goes with the next two.
	for range 3 {
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc), float64(m.StackInuse)
}

func (memory) idle(ctx context.Context, r *Run, c candidate.Candidate, n int) (bytes float64, err error) {
	s := candidate.Settings{Connections: n}
	err = withPool(ctx, c, r.DSN, s, func(pool candidate.Pool) error {
		before, _ := used()
		if err := fill(ctx, pool, n); err != nil {
			return err
		}
		after, _ := used()
		bytes = (after - before) / float64(n)
		return nil
	})
	return bytes, err
}

func (memory) waiting(ctx context.Context, r *Run, c candidate.Candidate, n int) (bytes float64, err error) {
	err = withPool(ctx, c, r.DSN, candidate.Settings{Connections: 1}, func(pool candidate.Pool) error {
		release, err := pool.Acquire(ctx)
		if err != nil {
			return err
		}
		heap, stacks := used()
		failures := make([]error, n)
		var waiters, begun sync.WaitGroup
		begun.Add(n)
		for i := range n {
			waiters.Go(func() {
				begun.Done()
				release, err := pool.Acquire(ctx)
				if err == nil {
					err = release()
				}
				failures[i] = err
			})
		}
		begun.Wait()
		// Nothing tells when the last of them has gone to sleep.
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return errors.Join(err, release())
		}
		heapAfter, stacksAfter := used()
		bytes = (heapAfter - heap + stacksAfter - stacks) / float64(n)
		err = release()
		waiters.Wait()
		return errors.Join(err, errors.Join(failures...))
	})
	return bytes, err
}

// keepers prepare what they run by themselves.
var keepers = []string{"lifeguard", overPGX, "pgx stdlib", "pgxpool"}

func (w memory) statements(ctx context.Context, r *Run, c candidate.Candidate, n int) (here, there float64, err error) {
	if c.Name() == "lifeguard (no cache)" {
		return 0, 0, candidate.Unable("it keeps none")
	}
	s := candidate.Settings{Connections: 1, Statements: n + 10}
	err = withPool(ctx, c, r.DSN, s, func(pool candidate.Pool) error {
		const onServer = "SELECT sum(total_bytes)::bigint FROM pg_backend_memory_contexts"
		// Twice: what the query itself needs is there from the first time on.
		if _, err := pool.Int(ctx, onServer); err != nil {
			return err
		}
		serverBefore, err := pool.Int(ctx, onServer)
		if err != nil {
			return err
		}
		queries := make([]string, n)
		for i := range queries {
			queries[i] = fmt.Sprintf("SELECT balance + %d FROM accounts WHERE id = $1", i)
		}
		keeps := slices.Contains(keepers, c.Name())
		var kept []candidate.Statement
		before, _ := used()
		for _, query := range queries {
			if keeps {
				_, err = pool.Int(ctx, query, 1)
			} else {
				var st candidate.Statement
				if st, err = pool.Prepare(ctx, query); err == nil {
					_, err = st.Int(ctx, 1)
					kept = append(kept, st)
				}
			}
			if err != nil {
				return err
			}
		}
		after, _ := used()
		here = (after - before) / float64(n)
		serverAfter, err := pool.Int(ctx, onServer)
		if err != nil {
			return err
		}
		there = float64(serverAfter-serverBefore) / float64(n)
		for _, st := range kept {
			if err := st.Close(); err != nil {
				return err
			}
		}
		runtime.KeepAlive(queries)
		return nil
	})
	return here, there, err
}

func (memory) cause(t *report.Table, loss report.Loss) (text, note string) {
	more := stats.Median(t.Values(loss.Row, loss.Column)) - stats.Median(t.Values(report.Row{Candidate: loss.To}, loss.Column))
	note = report.Bytes.Format(more) + " more"
	switch loss.Column {
	case memoryIdle:
		text = "A connection has a record of its holder with room for the stack of the checkout, a session with its " +
			"statements, and a lease of the handle's."
	case memoryWaiter:
		text = "A waiter has its place in the queue, and a timer for `pool_timeout`, which the others do not have."
	case memoryStatement:
		text = "lib/pq keeps more for a statement than pgx does, and lifeguard's cache adds its key and its place in " +
			"the order of use."
	}
	return text, note
}
