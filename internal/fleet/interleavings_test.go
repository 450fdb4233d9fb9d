package fleet

import (
	"flag"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var deep = flag.Bool("deep", false, "explore more interleavings, in minutes")

// hasty has members lose patience as soon as possible, so that all that impatience can lead to comes within a few steps.
var hasty = patience{polite: 0, forgotten: 1, insistent: 2}

// drive has all happen to one process that can happen without others.
func (w *world) drive(p *process) {
	for i := len(p.conns) - 1; i >= 0; i-- {
		if p.conns[i].phase == busy {
			w.returned(p, i)
		}
	}
	for again := true; again; {
		again = false
		p.demand()
		for i := len(p.conns) - 1; i >= 0; i-- {
			again = w.driveConn(p, i) || again
		}
		p.demand()
		for p.m.missing > 0 {
			serial, number, ok := p.m.Take()
			if !ok {
				break
			}
			w.next++
			p.conns = append(p.conns, conn{serial: serial, number: number, pid: w.next, badge: p.session})
			again = true
			p.demand()
		}
		for ; p.alive && len(p.inbox) > 0; p.inbox = p.inbox[1:] {
			p.m.Heard(p.inbox[0].from, p.inbox[0].Say)
		}
		if p.session != 0 && !p.alive {
			w.notice(p)
		}
		if p.session == 0 {
			w.connect(p)
		}
		if p.pending == nil {
			if a, ok := p.m.Ask(); ok {
				p.pending = &a
			}
		}
		if p.pending != nil {
			if p.reply == nil {
				w.execute(p)
			}
			a, got := *p.pending, *p.reply
			p.pending, p.reply = nil, nil
			p.m.Answered(a, got)
			again = true
		}
	}
}

func (w *world) driveConn(p *process, i int) bool {
	switch c := &p.conns[i]; c.phase {
	case asking:
		w.admit(p, i)
	case admitted:
		p.m.Opened(c.serial, Conn{PID: c.pid, Badge: int32(c.badge)})
		p.serve(c)
	case idle:
		if p.waiting > 0 {
			p.serve(c)
			return true
		}
		o := p.m.Owed()
		if o.Firm+o.Rested == 0 && len(o.Doomed) == 0 {
			return false
		}
		w.close(p, i)
	case leaving:
		w.exit(p, i)
	case busy:
		return false
	}
	return true
}

// bounds are those of a search.
type bounds struct {
	processes, tokens, limit int
	waiting                  int  // callers of each process at the beginning
	callers                  int  // that may come to each
	losses                   int  // of fleet sessions
	unknown                  bool // the processes do not know each other at the beginning
}

// first is the world that a search begins with.
func (b bounds) first() *world {
	w := newWorld(b.processes, b.tokens, b.limit)
	for _, p := range w.procs {
		p.m.patience = hasty
		w.connect(p)
	}
	for range 3 {
		for _, p := range w.procs {
			if !b.unknown {
				w.drive(p)
			}
		}
	}
	for _, p := range w.procs {
		p.waiting, p.callers = b.waiting, b.callers
	}
	w.losses = b.losses
	w.tidy()
	return w
}

// TestEveryInterleaving tries every order in which things can happen to a few processes, fleet sessions that are lost
// included. In none of them is a token held twice. From each of them all who wait can still be served by what has to happen
// sooner or later, so nobody waits for ever.
func TestEveryInterleaving(t *testing.T) {
	if raceEnabled {
		t.Skip("it has one goroutine; make test runs it without the race detector")
	}
	searches := []bounds{
		{processes: 2, tokens: 1, limit: 1, callers: 1, losses: 1},
	}
	if *deep {
		searches = append(searches,
			bounds{processes: 3, tokens: 1, limit: 1, waiting: 1},
			bounds{processes: 3, tokens: 2, limit: 1, waiting: 1},
			bounds{processes: 2, tokens: 1, limit: 1, callers: 1, losses: 1, unknown: true},
		)
	}
	for _, b := range searches {
		t.Run(fmt.Sprintf("%+v", b), func(t *testing.T) {
			began := time.Now()
			g := newGraph()
			if wrong, way := g.search(b); wrong != "" {
				require.Fail(t, wrong, strings.Join(way, "\n"))
			}
			stuck, way := g.stuck(b)
			require.Zero(t, stuck, "somebody may wait for ever\n%s", strings.Join(way, "\n"))
			t.Logf("%d states, %d steps, %v", len(g.parent), len(g.from)+g.optional, time.Since(began).Round(time.Millisecond))
		})
	}
}
