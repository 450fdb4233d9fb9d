package fleet

import (
	"flag"
	"hash/maphash"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var deep = flag.Bool("deep", false, "explore more interleavings, in minutes")

// explored is a world with the way to it.
type explored struct {
	*world
	from *explored
	by   string
}

func (e *explored) way() string {
	var steps []string
	for ; e.from != nil; e = e.from {
		steps = append([]string{e.by}, steps...)
	}
	return strings.Join(steps, "\n")
}

// fair goes on from a world in such a way that everybody takes its turn, in the given order, and callers come all the
// time. It says which process is not served in so many rounds.
func (w *world) fair(order []int, rounds int) (starved int) {
	w = w.clone()
	for _, p := range w.procs {
		p.served = 0
	}
	for range rounds {
		all := true
		for _, i := range order {
			p := w.procs[i]
			all = all && p.served > 0
			p.waiting = max(p.waiting, 1)
			w.drive(p)
			if p.session != 0 {
				p.m.Poll(true)
			}
			w.drive(p)
		}
		if all {
			return -1
		}
	}
	for i, p := range w.procs {
		if p.served == 0 {
			return i
		}
	}
	return -1
}

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

// TestEveryInterleaving tries every order in which things can happen to a few processes, fleet sessions that are lost
// included. In none of them is a token held twice. From each of them, every process is served if everybody takes its turn.
func TestEveryInterleaving(t *testing.T) {
	if raceEnabled {
		t.Skip("it has one goroutine; make test runs it without the race detector")
	}
	type happens struct{ processes, tokens, limit, callers, polls, losses int }
	bounds := []happens{
		{processes: 2, tokens: 1, limit: 1, callers: 1, losses: 1},
	}
	if *deep {
		bounds = append(bounds,
			happens{processes: 3, tokens: 2, limit: 1, callers: 1},
			happens{processes: 2, tokens: 2, limit: 2, callers: 2, polls: 1, losses: 1},
		)
	}
	for _, b := range bounds {
		first := newWorld(b.processes, b.tokens, b.limit)
		for _, p := range first.procs {
			p.callers, p.polls = b.callers, b.polls
			first.connect(p) // the others hear of it by a word or a look
		}
		first.procs[0].losses = b.losses
		known := map[uint64]bool{}
		hash := maphash.MakeSeed()
		queue := []*explored{{world: first}}
		fairly := 0
		orders := [][]int{{0, 1, 2}, {1, 0, 2}}
		if b.processes == 3 {
			orders = [][]int{{0, 1, 2}, {2, 1, 0}, {1, 0, 2}}
		}
		for len(queue) > 0 {
			e := queue[len(queue)-1]
			queue = queue[:len(queue)-1]
			e.actions(func(name string, next *world) {
				key := maphash.String(hash, next.key())
				if known[key] {
					return
				}
				known[key] = true
				to := &explored{next, e, name}
				if wrong := next.wrong() + next.bare(); wrong != "" {
					require.Fail(t, wrong, "%+v\n%s", b, to.way())
				}
				if len(known)%128 == 0 {
					fairly++
					for _, order := range orders {
						if starved := next.fair(order[:b.processes], 40); starved >= 0 {
							require.Fail(t, "starved", "process %d of %+v, order %v\n%s", starved, b, order, to.way())
						}
					}
				}
				queue = append(queue, to)
			})
		}
		t.Logf("%+v: %d states, went on fairly from %d", b, len(known), fairly)
	}
}
