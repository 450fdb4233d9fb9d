package observe_test

import (
	"bytes"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
)

// lines takes the log's lines, without the folder of the caller's file and its line there.
func (d *traced) lines() []string {
	defer d.log.Reset()
	var lines []string
	for line := range strings.Lines(d.log.String()) {
		before, rest, ok := strings.Cut(strings.TrimSpace(line), " (")
		if ok {
			_, after, _ := strings.Cut(rest, `)"`)
			file, _, _ := strings.Cut(rest, ":")
			before += " in " + file[strings.LastIndexByte(file, '/')+1:] + `"` + after
		}
		lines = append(lines, strings.TrimSpace(before))
	}
	return lines
}

// traced is a handle whose spans and log lines are recorded. It is used in a synctest bubble, so all times are exact.
type traced struct {
	*sql.DB
	t     *testing.T
	srv   *fakedriver.Server
	pool  *lifeguard.Pool
	spans *tracetest.SpanRecorder
	log   *bytes.Buffer
	ctx   context.Context // with a sampled span of the caller's
	trace trace.SpanContext
}

func openTraced(t *testing.T, set func(*lifeguard.Config), opts ...lifeguard.Option) *traced {
	t.Helper()
	d := &traced{t: t, srv: fakedriver.New(), spans: tracetest.NewSpanRecorder(), log: new(bytes.Buffer)}
	cfg := lifeguard.DefaultConfig()
	cfg.PoolName = "fake"
	if set != nil {
		set(&cfg)
	}
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(d.spans))
	opts = append([]lifeguard.Option{
		lifeguard.WithConfig(cfg), lifeguard.WithTracerProvider(provider),
		lifeguard.WithLogger(slog.New(slog.NewTextHandler(d.log, &slog.HandlerOptions{Level: slog.LevelDebug,
			ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
				if a.Key == slog.TimeKey {
					return slog.Attr{}
				}
				return a
			}}))),
	}, opts...)
	var err error
	d.DB, err = lifeguard.OpenDB(d.srv.Connector(), opts...)
	require.NoError(t, err)
	d.pool = poolBehind(t, d.DB)
	t.Cleanup(func() {
		assert.NoError(t, d.Close())
		assert.Empty(t, d.srv.Violations())
	})
	d.trace = trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled})
	d.ctx = trace.ContextWithSpanContext(t.Context(), d.trace)
	// "slow …" takes a second, everything else no time.
	d.srv.OnQuery(func(ctx context.Context, _ *fakedriver.Conn, query string, _ []driver.NamedValue) error {
		if strings.HasPrefix(query, "SELECT slow") || strings.HasPrefix(query, "UPDATE slow") {
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	return d
}

func poolBehind(t *testing.T, db *sql.DB) *lifeguard.Pool {
	t.Helper()
	pool, ok := lifeguard.PoolOf(db)
	require.True(t, ok)
	return pool
}

// shown is what a span says, in a form to compare.
type shown struct {
	name       string
	started    time.Duration // after the step began
	took       time.Duration
	attributes map[string]any
	status     string
}

// step runs f and returns the spans it led to.
func (d *traced) step(f func()) []shown {
	d.t.Helper()
	start := time.Now()
	before := len(d.spans.Ended())
	f()
	synctest.Wait()
	var all []shown
	for _, s := range d.spans.Ended()[before:] {
		assert.Equal(d.t, trace.SpanKindClient, s.SpanKind())
		assert.Equal(d.t, d.trace, s.Parent(), "child of the caller's span")
		assert.Equal(d.t, d.trace.TraceID(), s.SpanContext().TraceID())
		sh := shown{name: s.Name(), started: s.StartTime().Sub(start), took: s.EndTime().Sub(s.StartTime()), attributes: map[string]any{}}
		for _, a := range s.Attributes() {
			assert.NotContains(d.t, sh.attributes, string(a.Key), "given twice")
			sh.attributes[string(a.Key)] = a.Value.AsInterface()
		}
		if s.Status().Code == codes.Error {
			sh.status = "error: " + s.Status().Description
		} else {
			assert.Equal(d.t, codes.Unset, s.Status().Code)
		}
		all = append(all, sh)
	}
	return all
}

// caller takes the code's place out of a span's attributes and checks it.
func (s shown) caller(t *testing.T, function string) shown {
	t.Helper()
	// A closure's name has a number at its end.
	assert.Regexp(t, `^github\.com/go-lifeguard/lifeguard/internal/observe_test\.`+function+`(\.func[0-9.]+)?$`, s.attributes["code.function.name"])
	assert.Regexp(t, `/traced_[a-z_]*test\.go$`, s.attributes["code.file.path"])
	assert.Positive(t, s.attributes["code.line.number"])
	for _, k := range []string{"code.function.name", "code.file.path", "code.line.number"} {
		delete(s.attributes, k)
	}
	return s
}

func (d *traced) none(f func()) {
	d.t.Helper()
	assert.Empty(d.t, d.step(f))
}

func (d *traced) one(f func()) shown {
	d.t.Helper()
	all := d.step(f)
	require.Len(d.t, all, 1)
	return all[0]
}

// warm opens a connection, so that what follows does not.
func (d *traced) warm() {
	d.t.Helper()
	require.NoError(d.t, d.PingContext(d.t.Context()))
}

func readRows(d *traced) error {
	rows, err := d.QueryContext(d.ctx, "SELECT a FROM t")
	if err != nil {
		return err
	}
	for rows.Next() {
	}
	return errors.Join(rows.Err(), rows.Close())
}

func useStmt(d *traced) error {
	st, err := d.PrepareContext(d.ctx, "SELECT a FROM t")
	if err != nil {
		return err
	}
	_, err = st.ExecContext(d.ctx)
	return errors.Join(err, st.Close())
}

func commit(d *traced) error {
	tx, err := d.BeginTx(d.ctx, nil)
	if err != nil {
		return err
	}
	return tx.Commit()
}
