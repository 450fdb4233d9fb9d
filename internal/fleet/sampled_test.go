package fleet

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var walks = flag.Int("walks", 60, "random ways through more processes, tokens and losses than every interleaving can be tried of")

// TestRandomInterleavings goes random ways through worlds that are too large to try all of them. Wherever a way ends, all who wait
// are served if nobody new comes. A process gets its turn also if new callers keep coming to all the others.
func TestRandomInterleavings(t *testing.T) {
	if raceEnabled {
		t.Skip("it has one goroutine; make test runs it without the race detector")
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for _, b := range []bounds{
		{processes: 3, tokens: 2, limit: 1, callers: 4, losses: 2},
		{processes: 3, tokens: 2, limit: 2, callers: 4, losses: 2, unknown: true},
		{processes: 4, tokens: 3, limit: 2, callers: 3, losses: 2},
		{processes: 4, tokens: 1, limit: 1, callers: 2, losses: 1, unknown: true},
	} {
		for _, p := range []patience{hasty, usualPatience} {
			t.Run(fmt.Sprintf("%+v/%+v", b, p), func(t *testing.T) {
				var served, each int
				for i := range *walks {
					w := newWalk(t, b, p, rand.New(rand.NewPCG(seed, uint64(i))))
					if i%2 == 0 {
						served = max(served, w.serveAll())
					} else {
						each = max(each, w.serveEach())
					}
				}
				t.Logf("%d ways, at most %d steps until all were served, %d until each process was while others had callers for ever", *walks, served, each)
			})
		}
	}
}

// randomWalk is a world, and the way that led to it.
type randomWalk struct {
	*testing.T
	*world
	*rand.Rand
	way []string
}

// newWalk goes one way.
func newWalk(t *testing.T, b bounds, patience patience, rnd *rand.Rand) *randomWalk {
	w := &randomWalk{T: t, world: b.first(), Rand: rnd}
	for _, p := range w.procs {
		p.m.patience = patience
	}
	for range w.IntN(120) {
		w.step(func(action) bool { return true })
	}
	return w
}

// step does one of the things that can happen and that are wanted, each as likely as another.
func (w *randomWalk) step(wanted func(action) bool) {
	var chosen *world
	var did string
	n := 0
	w.actions(func(a action, next *world) {
		if !wanted(a) {
			return
		}
		if n++; w.IntN(n) == 0 {
			chosen, did = next, fmt.Sprintf("%d %s", a.process, a.name)
		}
	})
	if chosen == nil {
		w.fail("nothing can happen")
	}
	w.world, w.way = chosen, append(w.way, did)
	if wrong := w.wrong() + w.bare(); wrong != "" {
		w.fail(wrong)
	}
}

func (w *randomWalk) fail(what string) {
	w.Helper()
	for _, p := range w.procs {
		w.way = append(w.way, fmt.Sprintf("%+v\n  %+v", *p, *p.m))
	}
	require.Fail(w, what, "%d steps, the last: %s", len(w.way), strings.Join(w.way[max(len(w.way)-60, 0):], "\n"))
}

// forEver is how many steps are taken for that.
const forEver = 20_000

// serveAll gives the steps until nobody waits, if nobody comes and no session is lost.
func (w *randomWalk) serveAll() (steps int) {
	for ; !w.calm(); steps++ {
		if w.step(func(a action) bool { return !a.may }); steps == forEver {
			w.fail("somebody may wait for ever")
		}
	}
	return steps
}

// serveEach gives the most steps until a process that waits serves one of its callers, while those of the others are as many
// as before again.
func (w *randomWalk) serveEach() (most int) {
	w.losses = 0
	for i := range w.procs {
		before, steps := w.procs[i].served, 0
		for ; w.procs[i].waiting > 0 && w.procs[i].served == before; steps++ {
			for j, p := range w.procs {
				if p.callers = 0; j != i && p.waiting == 0 {
					p.callers, p.finished = 1, false
				}
			}
			if w.step(func(action) bool { return true }); steps == forEver {
				w.fail(fmt.Sprintf("process %d may wait for ever", i))
			}
		}
		most = max(most, steps)
	}
	return most
}
