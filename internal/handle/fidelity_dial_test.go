package handle_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/fakedriver/recorder"
)

// The first caller meets the dial, and what it failed with.
func TestFidelityDial(t *testing.T) {
	t.Parallel()
	for _, err := range []error{errDriver, context.Canceled, driver.ErrSkip} {
		t.Run(err.Error(), func(t *testing.T) {
			compare(t, true, []recorder.Sets{fullSets, {}}, func(p *play) { p.dialFails(failWith(err)) })
		})
	}
}

// A pool that never had a connection tells what the plain driver tells, at once. Only driver.ErrBadConn has to stay
// inside: database/sql would answer it with two more waits of the caller.
func TestFidelityFirstDial(t *testing.T) {
	t.Parallel()
	for _, err := range []error{io.EOF, driver.ErrBadConn} {
		for n := range 5 {
			t.Run(fmt.Sprintf("%v %d times", err, n), func(t *testing.T) {
				script := func(p *play) { p.dialFails(slices.Repeat([]fault{failWith(err)}, n)...) }
				plain := run(t, fullSets, true, openPlain, script)
				wrapped := run(t, fullSets, true, openLifeguard, script)
				if err == driver.ErrBadConn && n >= 3 {
					refused := `Ping: "the driver could not open a connection: driver: bad connection"`
					if got := wrapped[0].results[0]; !strings.HasPrefix(got, refused) || strings.Contains(got, "driver.ErrBadConn") {
						t.Errorf("%s, want %s", got, refused)
					}
					wrapped[0].results = plain[0].results
				}
				if d := difference(plain, wrapped); d != "" {
					t.Error(d)
				}
			})
		}
	}
}

// Once connected, a pool bridges a restart: errors of a server that is down or starting are a reason to wait.
func TestDialAgain(t *testing.T) {
	t.Parallel()
	for _, err := range []error{io.EOF, driver.ErrBadConn} {
		for n := range 5 {
			t.Run(fmt.Sprintf("%v %d times", err, n), func(t *testing.T) {
				var took time.Duration
				steps := run(t, fullSets, true, openLifeguard, func(p *play) {
					p.step("connect", func() { p.where() })
					p.step("restart", func() {
						pool, _ := lifeguard.PoolOf(p.db)
						pool.Reset()
					})
					start := time.Now()
					p.dialFails(slices.Repeat([]fault{failWith(err)}, n)...)
					took = time.Since(start) - time.Minute
				})
				var want []string
				for range n + 1 {
					want = append(want, `conn 0: Connector.Connect "" ctx(caller's)`)
				}
				want = append(want, `conn 2: Ping "" ctx(caller's)`)
				var got []string
				for _, c := range steps[2].calls {
					got = append(got, c.String())
				}
				if !slices.Equal(got, want) || steps[2].results[0] != "Ping: no error" {
					t.Errorf("got\n%vwant\n\t%s", steps[2], strings.Join(want, "\n\t"))
				}
				if took > 5*time.Second {
					t.Errorf("took %v", took)
				}
			})
		}
	}
}

// opened counts registrations: the names of drivers are for the whole process.
var opened atomic.Int64

// A driver is opened by its name as database/sql does it, with the DSN as it
// was written.
func TestFidelityOpen(t *testing.T) {
	const dsn = "user:p?ss@tcp(host)/db?a=b&c=%20#d"
	open := func(name string) (*sql.DB, error) { return sql.Open(name, dsn) }
	openWrapped := func(name string) (*sql.DB, error) {
		cfg := lifeguard.DefaultConfig()
		cfg.StatementCacheSize = 0
		return lifeguard.Open(name, dsn, lifeguard.WithConfig(cfg), lifeguard.WithLogger(slog.New(slog.DiscardHandler)))
	}
	for _, withContext := range []bool{false, true} {
		for _, failing := range []string{"", "Driver.OpenConnector", "Driver.Open", "Connector.Connect"} {
			play := func(open func(name string) (*sql.DB, error)) (out []string) {
				synctest.Test(t, func(t *testing.T) {
					sets := fullSets
					sets.DriverContext = withContext
					r := recorder.New(sets, recorder.Script{Call: func(c recorder.Call) error {
						if c.Method == failing {
							return errDriver
						}
						return nil
					}})
					name := fmt.Sprintf("fidelity-%d", opened.Add(1))
					sql.Register(name, r.Driver())
					r.Take()
					db, err := open(name)
					out = append(out, "Open: "+describeError(err))
					if err == nil {
						err = db.PingContext(t.Context())
						out = append(out, "Ping: "+describeError(err))
						db.Close()
					}
					for _, c := range r.Take() {
						if c.Method != "IsValid" {
							out = append(out, c.String())
						}
					}
				})
				return out
			}
			plain, wrapped := play(open), play(openWrapped)
			// A driver is found by its name with sql.Open alone, which makes a
			// connector of a driver that has some. It is closed, unused.
			first := []string{
				fmt.Sprintf(`conn 0: Driver.OpenConnector "" %q`, dsn),
				`conn 0: Connector.Close ""`,
			}
			if opened := plain[0] == "Open: no error"; opened && withContext {
				if i := slices.Index(wrapped, first[0]); i < 0 || !slices.Equal(wrapped[i:i+2], first) {
					t.Errorf("no %q in %q", first, wrapped)
				} else {
					wrapped = slices.Delete(wrapped, i, i+2)
				}
			}
			if !slices.Equal(plain, wrapped) {
				t.Errorf("DriverContext %t, failing %q\nplain:\n\t%s\nwrapped:\n\t%s", withContext, failing,
					strings.Join(plain, "\n\t"), strings.Join(wrapped, "\n\t"))
			}
		}
	}
}
