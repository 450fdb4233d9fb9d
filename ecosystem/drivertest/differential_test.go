package drivertest

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/go-lifeguard/lifeguard"
)

var (
	randomScripts = flag.Int("scripts", 100, "random scripts that are compared on PostgreSQL over lib/pq; a quarter as many elsewhere; make random has 20,000")
	randomSeed    = flag.Uint64("seed", 0, "the seed of the random scripts; 0 draws one")
	moreParams    = flag.String("params", "", "parameters added to lifeguard's DSN, separated by spaces: statement_cache_size=0")
	showPlain     = flag.Bool("show", false, "with -v, print what the plain driver answers")
	selfTest      = flag.Bool("self", false, "compare the plain driver with itself, which finds scripts that are not the same twice")
)

// A rig is a pair of stages, on which one script at a time is compared.
type rig struct {
	plain, ours *stage
	through     *side
}

var rigs atomic.Int64

func newRig(t testing.TB, target *target, own bool) *rig {
	t.Helper()
	dsn, n := target.fresh, rigs.Add(1)
	if own {
		shared := target.own(t)
		dsn = func(testing.TB) string { return shared }
	}
	r := &rig{plain: newStage(t, target, dsn(t), fmt.Sprintf("lg%05da_", n)), through: ourSide}
	r.ours = newStage(t, target, dsn(t), fmt.Sprintf("lg%05db_", n))
	if *selfTest {
		r.through = plainSide
	}
	return r
}

// A difference is a step whose outcome is not the same on both sides.
type difference struct {
	step        *step
	plain, ours outcome
}

func (d difference) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "line %d: %s\n", d.step.line, d.step.text)
	for i := range max(len(d.plain.lines), len(d.ours.lines)) {
		if mine, theirs := lineOf(d.plain.lines, i), lineOf(d.ours.lines, i); mine == theirs {
			fmt.Fprintf(&b, "  both:      %s\n", mine)
		} else {
			fmt.Fprintf(&b, "  plain:     %s\n  lifeguard: %s\n", mine, theirs)
		}
	}
	return b.String()
}

func lineOf(lines []string, i int) string {
	if i < len(lines) {
		return lines[i]
	}
	return "(nothing)"
}

// compare runs a script on both sides.
func (r *rig) compare(t testing.TB, s *testScript) (plain []outcome, differences []difference, stats lifeguard.Stats) {
	t.Helper()
	plain, _ = plainSide.perform(t, r.plain, s)
	ours, stats := r.through.perform(t, r.ours, s)
	for i, st := range s.steps {
		if !slices.Equal(plain[i].lines, ours[i].lines) {
			differences = append(differences, difference{st, plain[i], ours[i]})
		}
	}
	return plain, differences, stats
}

// check compares a script, and fails where it should be the same, should differ, or does not do what it says.
func (r *rig) check(t *testing.T, s *testScript) lifeguard.Stats {
	t.Helper()
	plain, differences, stats := r.compare(t, s)
	for i, st := range s.steps {
		if *showPlain {
			t.Logf("%s\n  %s", st.text, strings.Join(plain[i].lines, "\n  "))
		}
		for run, code := range plain[i].codes {
			if code == wrongScript || !s.unchecked && !expected(st.fails, code) {
				t.Errorf("%s:%d: the script is wrong: %s: run %d of the plain driver ended with %q\n%s", s.file, st.line, st.text, run+1,
					code, strings.Join(plain[i].lines, "\n"))
				return stats
			}
		}
	}
	if s.random {
		if len(differences) > 0 && !t.Failed() {
			shorter, left := r.shrink(t, s)
			t.Errorf("%s differs, at random with %s:\n%v%v", s.name, s.file, shorter, left[0])
		}
		return stats
	}
	met := false
	for _, d := range differences {
		if d.step.differs {
			met = true
			continue
		}
		t.Errorf("%s: %s: %v", s.file, s.name, d)
	}
	if s.difference != "" && !met && !*selfTest && *moreParams == "" {
		t.Errorf("%s: %s: no difference, though one was expected: %s", s.file, s.name, s.difference)
	}
	return stats
}

// expected says whether a step may end with an error of this code: * is any, and ? any or none.
func expected(fails, code string) bool {
	if fails == "?" || code == "" || fails == "" {
		return fails == "?" || code == fails
	}
	return fails == "*" || slices.Contains(strings.Split(fails, "/"), code)
}

// TestDifferential runs the scripts of testdata/scripts.
func TestDifferential(t *testing.T) {
	scripts := loadScripts(t)
	for _, target := range targets {
		t.Run(target.name, func(t *testing.T) {
			var mine []*testScript
			for _, s := range scripts {
				if slices.Contains(s.drivers, target.name) {
					mine = append(mine, s)
				}
			}
			// Those that wait begin first.
			slices.SortStableFunc(mine, func(a, b *testScript) int { return b.waits() - a.waits() })
			t.Logf("%d scripts", len(mine))
			checkAll(t, target, slices.Values(mine))
		})
	}
}

func (s *testScript) waits() (n int) {
	for _, st := range s.steps {
		if st.verb == "wait" {
			n++
		}
	}
	return n
}

// checkAll compares scripts on several rigs at once, and sees to it that statements were kept.
func checkAll(t *testing.T, target *target, scripts func(yield func(*testScript) bool)) {
	t.Helper()
	next := make(chan *testScript)
	var hits, misses, compared atomic.Uint64
	var wg sync.WaitGroup
	for range 4 * runtime.GOMAXPROCS(0) {
		shared := newRig(t, target, false)
		wg.Go(func() {
			for s := range next {
				t.Run(s.name, func(t *testing.T) {
					r := shared
					if s.ownServer {
						r = newRig(t, target, true)
					}
					stats := r.check(t, s)
					hits.Add(stats.StatementHits)
					misses.Add(stats.StatementMisses)
					compared.Add(1)
				})
			}
		})
	}
	for s := range scripts {
		next <- s
	}
	close(next)
	wg.Wait()
	t.Logf("%d scripts, %d statements used again, %d prepared", compared.Load(), hits.Load(), misses.Load())
	if target.name != "pgx" && compared.Load() > 20 && !*selfTest && *moreParams == "" {
		assert.Greater(t, hits.Load(), compared.Load(), "hardly anything was kept, so hardly anything was tested")
	}
}

// TestDifferentialRandom composes scripts at random.
func TestDifferentialRandom(t *testing.T) {
	seed := *randomSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	for _, target := range targets {
		t.Run(target.name, func(t *testing.T) {
			n := *randomScripts
			if target.name != "pq" {
				n /= 4
			}
			t.Logf("-seed %d -scripts %d", seed, *randomScripts)
			checkRandom(t, target, n, seed)
		})
	}
}
