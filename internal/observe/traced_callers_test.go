package observe_test

import (
	"context"
	"database/sql"
	"fmt"
	"io"
	"reflect"
	"runtime"
	"testing"
	"testing/synctest"
	"text/template"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/trace"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
)

// Where so many connections are checked out that not each begin is looked at, times stay true.
func TestBeginWithoutStack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := openTraced(t, nil)
		d.warm()
		exhaust := func() { // no time passes, so the looks of this moment are soon used up
			for range 2000 {
				_, err := d.ExecContext(d.ctx, "UPDATE t")
				require.NoError(t, err)
			}
		}
		d.none(exhaust)
		got := d.one(func() { _, _ = d.ExecContext(d.ctx, "UPDATE slow") })
		assert.Equal(t, time.Second, got.took)
		assert.Equal(t, time.Duration(0), got.started)
		got.caller(t, "TestBeginWithoutStack")

		d.warm()
		exhaust()
		c, err := d.Conn(d.ctx)
		require.NoError(t, err)
		assert.Empty(t, d.pool.Holders()[0].Stack, "the test is about checkouts without a stack")
		time.Sleep(500 * time.Millisecond) // slow, if it counted; less than the janitor takes to look
		d.none(func() { _, err := c.ExecContext(d.ctx, "UPDATE t"); require.NoError(t, err) })
		require.NoError(t, c.Close())

		exhaust()
		c, err = d.Conn(d.ctx)
		require.NoError(t, err)
		time.Sleep(500 * time.Millisecond)
		got = d.one(func() { _, _ = c.ExecContext(d.ctx, "UPDATE slow") })
		assert.Equal(t, time.Second, got.took)
		require.NoError(t, c.Close())
	})
}

// The caller is the application's, and packages can be named that are not to count as it. Here a template is what
// runs the query.
func TestSkippedCallers(t *testing.T) {
	ping := template.Must(template.New("").Parse("{{.Ping}}"))
	for _, c := range []struct {
		opts []lifeguard.Option
		want string
	}{
		{nil, "text/template."},
		{[]lifeguard.Option{lifeguard.WithSkippedCallers("example.com"), lifeguard.WithSkippedCallers("text/template")},
			"github.com/go-lifeguard/lifeguard/internal/observe_test.TestSkippedCallers"},
	} {
		synctest.Test(t, func(t *testing.T) {
			d := openTraced(t, nil, c.opts...)
			d.srv.OnPing(func(context.Context, *fakedriver.Conn) error { time.Sleep(time.Second); return nil })
			require.NoError(t, ping.Execute(io.Discard, d.DB))
			require.Len(t, d.spans.Ended(), 1)
			for _, a := range d.spans.Ended()[0].Attributes() {
				if a.Key == "code.function.name" {
					assert.Contains(t, a.Value.AsString(), c.want)
					return
				}
			}
			t.Error("no caller")
		})
	}
}

// The same query from many places, at different depths and with or without a sampled span, always shows
// where it was run: one caller's place is never shown for another.
func TestCallersOfOneQuery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := openTraced(t, func(c *lifeguard.Config) { c.Trace = lifeguard.TraceAll })
		d.warm()
		here := func(_ sql.Result, err error) (int, error) {
			_, _, line, _ := runtime.Caller(1)
			return line, err
		}
		const query = "UPDATE t"
		tx, err := d.BeginTx(d.ctx, nil)
		require.NoError(t, err)
		defer tx.Rollback()
		conn, err := d.Conn(d.ctx)
		require.NoError(t, err)
		defer conn.Close()
		st, err := d.PrepareContext(d.ctx, query)
		require.NoError(t, err)
		defer st.Close()
		type exec = func(context.Context) (int, error)
		sites := []exec{
			func(ctx context.Context) (int, error) { return here(d.ExecContext(ctx, query)) },
			func(ctx context.Context) (int, error) { return here(d.ExecContext(ctx, query)) },
			func(ctx context.Context) (int, error) { return here(tx.ExecContext(ctx, query)) },
			func(ctx context.Context) (int, error) { return here(tx.ExecContext(ctx, query)) },
			func(ctx context.Context) (int, error) { return here(conn.ExecContext(ctx, query)) },
			func(ctx context.Context) (int, error) { return here(st.ExecContext(ctx)) },
			func(ctx context.Context) (int, error) { return here(tx.StmtContext(ctx, st).ExecContext(ctx)) },
		}
		direct := len(sites) // they run with the context they are given
		// Calls through reflection, which is passed over, make up more stacks than are remembered.
		call, args := reflect.ValueOf(d.ExecContext), []reflect.Value{reflect.ValueOf(d.ctx), reflect.ValueOf(query)}
		ignore := func([]reflect.Value) error { return nil }
		for range 6 {
			f, with := call, args
			sites = append(sites,
				func(context.Context) (int, error) { return here(nil, ignore(f.Call(with))) },
				func(context.Context) (int, error) { return here(nil, ignore(f.Call(with))) },
				func(context.Context) (int, error) { return here(nil, ignore(f.Call(with))) },
				func(context.Context) (int, error) { return here(nil, ignore(f.Call(with))) },
				func(context.Context) (int, error) { return here(nil, ignore(f.Call(with))) },
			)
			call, args = reflect.ValueOf(f.Call), []reflect.Value{reflect.ValueOf(with)}
		}
		var below func(int, exec, context.Context) (int, error)
		below = func(depth int, run exec, ctx context.Context) (int, error) {
			if depth == 0 {
				return run(ctx)
			}
			return below(depth-1, run, ctx)
		}
		unsampled := trace.ContextWithSpanContext(t.Context(), d.trace.WithTraceFlags(0))
		for round := range 300 {
			run := sites[round%len(sites)]
			if round%3 == 1 && round%len(sites) < direct {
				d.none(func() { _, err := run(unsampled); require.NoError(t, err) })
			}
			var want int
			spans := d.step(func() { want, err = below(round%100, run, d.ctx); require.NoError(t, err) })
			got := spans[len(spans)-1]
			require.EqualValues(t, want, got.attributes["code.line.number"], "round %d", round)
			require.Equal(t, map[string]any{"db.system.name": "other_sql", "db.operation.name": "UPDATE",
				"db.query.summary": "UPDATE t", "db.query.text": "UPDATE t"}, got.caller(t, "TestCallersOfOneQuery").attributes)
		}
	})
}

// Rows are closed elsewhere and a transaction is ended by database/sql, but the span names the caller that ran the query or
// began the transaction, at any rate of checkouts.
func TestCallerOfWhatOthersEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := openTraced(t, func(c *lifeguard.Config) { c.Trace = lifeguard.TraceAll })
		d.warm()
		var lines []int
		line := func() {
			_, _, line, _ := runtime.Caller(1)
			lines = append(lines, line)
		}
		for range 300 { // no time passes, so the stacks of this moment are soon used up
			lines = nil
			ctx, cancel := context.WithCancel(d.ctx)
			spans := d.step(func() {
				line()
				tx, err := d.BeginTx(ctx, nil)
				require.NoError(t, err)
				line()
				rows, err := tx.QueryContext(d.ctx, "SELECT a FROM t")
				require.NoError(t, err)
				closeRows(t, rows)
				line()
				rows, err = d.QueryContext(d.ctx, "SELECT a FROM t")
				require.NoError(t, err)
				closeRows(t, rows)
				cancel()
				synctest.Wait()
			})
			var got []string
			for _, s := range spans {
				if s.name == "CONNECT" || s.name == "ROLLBACK" {
					continue
				}
				got = append(got, fmt.Sprint(s.name, " ", s.attributes["code.line.number"].(int64)-1))
			}
			require.Equal(t, []string{fmt.Sprint("BEGIN ", lines[0]), fmt.Sprint("SELECT t ", lines[1]), fmt.Sprint("SELECT t ", lines[2])}, got)
			last := spans[len(spans)-1]
			require.Equal(t, "ROLLBACK", last.name)
			require.EqualValues(t, lines[0], last.attributes["code.line.number"].(int64)-1, "who began it")
		}
	})
}

func closeRows(t *testing.T, rows *sql.Rows) {
	for rows.Next() {
	}
	require.NoError(t, rows.Close())
}
