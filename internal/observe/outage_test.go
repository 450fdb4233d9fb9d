package observe_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

// errRefused is what the kernel says for a server that is down.
var errRefused = &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}

func down(context.Context) error { return errRefused }

// outages takes the lines about dials from the log, without the pool's name.
func (d *traced) outages() []string {
	synctest.Wait()
	var lines []string
	for _, line := range d.lines() {
		if strings.Contains(line, "connect") {
			lines = append(lines, strings.Replace(line, " pool=fake", "", 1))
		}
	}
	return lines
}

// since takes out of reminders how long the outage has lasted, in ms.
func since(t *testing.T, lines []string) (ms []int) {
	for _, line := range lines {
		m := regexp.MustCompile(`^level=WARN msg="lifeguard: cannot open a connection" error="[^"]*"(?: since=(\S+))?$`).FindStringSubmatch(line)
		require.NotNil(t, m, line)
		d := time.Duration(0)
		if m[1] != "" {
			var err error
			d, err = time.ParseDuration(m[1])
			require.NoError(t, err)
		}
		ms = append(ms, int(d.Milliseconds()))
	}
	return ms
}

// A server that is away for six seconds leaves its mark in the metrics, also where every caller gets a connection in the
// end. The log has the first failure, reminders at doubling intervals, and the end.
func TestOutageIsVisible(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := pooltest.NewMeasures(t)
		d := openTraced(t, nil, lifeguard.WithMeterProvider(m.Provider))
		d.warm()
		synctest.Wait() // the goroutine of the dial has told of it
		d.srv.OnDial(down)
		d.srv.Kill()
		d.log.Reset()
		start := time.Now()
		done := make(chan error, 2)
		go func() { _, err := d.ExecContext(d.ctx, "UPDATE t"); done <- err }()
		go func() {
			ctx, cancel := context.WithTimeout(d.ctx, 2*time.Second)
			defer cancel()
			_, err := d.ExecContext(ctx, "UPDATE t")
			done <- err
		}()
		time.Sleep(time.Second)
		synctest.Wait()
		assert.EqualValues(t, 2, m.Counts()["db.client.connection.pending_requests"])
		assert.Greater(t, m.Counts()["lifeguard.connection.dial_failures *net.OpError"], int64(2))

		assert.ErrorIs(t, <-done, context.DeadlineExceeded)
		assert.Equal(t, "1 in 2.000s", m.TimesOf("db.client.connection.wait_time", "pool_timeout"))

		time.Sleep(time.Until(start.Add(6 * time.Second)))
		d.srv.OnDial(nil)
		require.NoError(t, <-done)
		took := time.Since(start)
		assert.Less(t, took, 7*time.Second)
		failures := m.Counts()["lifeguard.connection.dial_failures *net.OpError"]
		assert.Greater(t, failures, int64(10))
		assert.EqualValues(t, d.pool.Stats().DialErrors, failures)
		assert.Contains(t, m.Times("db.client.connection.wait_time"), fmt.Sprintf("in %.3fs", took.Seconds()))

		lines := d.outages()
		require.Len(t, lines, 5)
		for i, at := range since(t, lines[:4]) {
			want := []int{0, 1000, 2000, 4000}[i]
			assert.GreaterOrEqual(t, at, want)
			assert.LessOrEqual(t, at, want+500*(i+1), "the next dial after it") // dials are half a second apart
		}
		assert.Regexp(t, `^level=INFO msg="lifeguard: connecting works again" after=6\.\d+s$`, lines[4])
	})
}

// A caller whose idle connection turns out to be dead at its checkout is sent on, and measured where it gets one.
func TestDeadCheckoutIsNoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := pooltest.NewMeasures(t)
		d := openTraced(t, nil, lifeguard.WithMeterProvider(m.Provider))
		first, second := pooltest.Take(t, d.DB), pooltest.Take(t, d.DB)
		require.NoError(t, first.Close())
		require.NoError(t, second.Close())
		assert.Equal(t, "2 in 0.000s", m.Times("db.client.connection.wait_time"))
		d.srv.Kill()
		_, err := d.ExecContext(d.ctx, "UPDATE t")
		require.NoError(t, err)
		// One attempt broke, the connection of the next did not answer a ping, and the third is a new connection.
		assert.EqualValues(t, 3, d.pool.Stats().Opened)
		assert.Equal(t, "4 in 0.000s", m.Times("db.client.connection.wait_time"))
	})
}

// A password that does not work any more is told to each caller at once. The metrics have it too, by its SQLSTATE.
func TestWrongPasswordIsVisible(t *testing.T) {
	for _, name := range []string{"at the start", "later"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := pooltest.NewMeasures(t)
				d := openTraced(t, nil, lifeguard.WithMeterProvider(m.Provider))
				if name == "later" {
					d.warm()
					synctest.Wait()
					d.srv.Kill()
					d.log.Reset()
				}
				d.srv.OnDial(func(context.Context) error { return sqlError{"28P01"} })
				const calls = 20
				start := time.Now()
				for range calls {
					_, err := d.ExecContext(d.ctx, "UPDATE t")
					var state sqlError
					require.ErrorAs(t, err, &state)
					time.Sleep(time.Second)
				}
				assert.Less(t, time.Since(start), (calls+10)*time.Second)
				counts := m.Counts()
				assert.GreaterOrEqual(t, counts["lifeguard.connection.dial_failures 28P01"], int64(calls))
				assert.Contains(t, m.TimesOf("db.client.connection.wait_time", "28P01"), fmt.Sprintf("%d in ", calls))
				lines := d.outages()
				require.Len(t, lines, 6) // after 0, 1, 2, 4, 8 and 16 s, not for each of the calls
				for i, at := range since(t, lines) {
					want := []int{0, 1000, 2000, 4000, 8000, 16000}[i]
					assert.GreaterOrEqual(t, at, want)
					assert.Less(t, at, want+want/2+1500)
				}
				d.srv.OnDial(nil)
			})
		})
	}
}

// deafLog is a log handler that panics at each line.
type deafLog struct{ slog.Handler }

func (deafLog) Enabled(context.Context, slog.Level) bool { return true }

func (deafLog) Handle(context.Context, slog.Record) error { panic("log") }

func (h deafLog) WithAttrs([]slog.Attr) slog.Handler { return h }

// A logger that panics costs its lines, on goroutines of the pool and on those of callers.
func TestPanickingLogger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := 0
		d := openTraced(t, func(c *lifeguard.Config) {
			pooltest.Limit(2)(c)
			c.QueryLog = lifeguard.QueryLogAll
			c.LeakThreshold, c.LeakReclaimAfter = 10*time.Second, 20*time.Second
		}, lifeguard.WithLogger(slog.New(deafLog{})), lifeguard.WithLeakHandler(func(lifeguard.Leak) { told++; panic("handler") }))
		d.srv.OnDial(down)
		_, err := d.ExecContext(d.ctx, "UPDATE t") // a dial that fails is logged
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
		time.Sleep(2 * time.Second)
		d.srv.OnDial(nil)
		_, err = d.ExecContext(d.ctx, "UPDATE t") // connecting works again, and the query is logged
		require.NoError(t, err)
		d.srv.OnClose(func(*fakedriver.Conn) error { panic("close") })
		c := pooltest.Take(t, d.DB)
		time.Sleep(time.Minute) // a leak is reported and taken back, and the driver panics while it closes it
		synctest.Wait()
		assert.Equal(t, 2, told)
		assert.EqualValues(t, 1, d.pool.Stats().Reclaimed)
		assert.ErrorIs(t, c.PingContext(t.Context()), lifeguard.ErrReclaimed)
		d.srv.OnClose(nil)
		first, second := pooltest.Take(t, d.DB), pooltest.Take(t, d.DB) // nothing of the limit is lost
		require.NoError(t, first.Close())
		require.NoError(t, second.Close())
	})
}
