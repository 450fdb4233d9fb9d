package poolpage

import (
	"cmp"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/callsite"
	"github.com/go-lifeguard/lifeguard/internal/look"
	"github.com/go-lifeguard/lifeguard/internal/observe"
)

// maxShapes is how many queries are shown.
const maxShapes = 30

// report looks at a pool.
func report(p *lifeguard.Pool, at *look.Pool, past *ring) Pool {
	cfg, st, pic := p.Config(), p.Stats(), at.Picture()
	r := Pool{
		Name: cfg.PoolName, Limit: pic.Limit, Open: pic.Open, InUse: pic.InUse, Idle: pic.Idle, Opening: pic.Dialling,
		Waiting: pic.Waiting, LongestWait: seconds(pic.LongestWait), Order: "first come, first served",
		Settings: Settings{
			PoolTimeout: seconds(cfg.PoolTimeout), SlowQueryThreshold: seconds(cfg.SlowQueryThreshold),
			LeakThreshold: seconds(cfg.LeakThreshold), LeakReclaimAfter: seconds(cfg.LeakReclaimAfter),
			MaxIdle: cfg.MaxIdleConnections, MinConnections: cfg.MinConnections, MaxWaiting: cfg.MaxWaiting,
		},
		Totals: Totals{
			Acquired: st.Acquired, Waits: st.Waits, Timeouts: st.Timeouts, Canceled: st.Canceled, Opened: st.Opened,
			Closed: st.Closed, DialErrors: st.DialErrors, Leaks: st.Leaks, LostRows: st.LostRows, Reclaimed: st.Reclaimed,
			SlowQueries: st.SlowQueries, WaitTime: seconds(st.WaitDuration),
		},
		Slots: []Slot{}, Waiters: []Waiter{}, Shapes: []Shape{}, Leaks: []Leak{}, Events: []Event{},
		History: past.history(),
	}
	if pic.NewestFirst && pic.Waiting > 0 {
		r.Order = "newest first"
	}
	for i := range pic.Slots {
		r.Slots = append(r.Slots, slotOf(&pic.Slots[i]))
	}
	for _, w := range pic.Waiters {
		r.Waiters = append(r.Waiters, Waiter{
			Waited: seconds(w.Waited), Left: seconds(w.Left), Caller: place(w.Stack), Stack: frames(w.Stack),
		})
	}
	for i := range pic.Shapes[:min(len(pic.Shapes), maxShapes)] {
		r.Shapes = append(r.Shapes, shapeOf(&pic.Shapes[i]))
	}
	for i := range pic.Leaks {
		r.Leaks = append(r.Leaks, leakOf(&pic.Leaks[i]))
	}
	for _, e := range pic.Events {
		r.Events = append(r.Events, Event{First: e.First.UTC(), Last: e.Last.UTC(), Kind: e.Kind, Text: e.Text, Count: e.Count})
	}
	r.Fleet = fleetOf(&pic)
	r.judge(at.Closed())
	return r
}

func fleetOf(pic *look.Picture) *Fleet {
	seen := &pic.Fleet
	if seen.Limit == 0 {
		return nil
	}
	f := &Fleet{Limit: seen.Limit, Held: seen.Held, Wanted: seen.Wanted, Members: []FleetMember{}}
	for _, m := range seen.Peers {
		f.Members = append(f.Members, FleetMember{Name: m.Name, PID: int64(m.ID), Held: m.Held, Self: m.ID == seen.Self})
	}
	return f
}

func slotOf(s *look.Slot) Slot {
	one := Slot{Serial: s.Serial, State: string(s.State), For: seconds(s.For), Age: seconds(s.Age), PID: s.PID}
	if s.Holder != nil {
		h := holderOf(s.Holder)
		one.Holder = &h
	}
	return one
}

func holderOf(h *look.Holder) Holder {
	one := Holder{
		Caller: place(h.Stack), Held: seconds(h.Held), Unused: seconds(h.Unused), Operations: h.Operations,
		InTx: h.InTx, Running: h.Running, Leaked: h.Leaked, Query: h.Query, Stack: frames(h.Stack),
	}
	if h.Span.HasTraceID() {
		one.TraceID = h.Span.TraceID().String()
	}
	return one
}

func shapeOf(t *observe.Tally) Shape {
	s := Shape{
		Query: t.Query, Count: t.Slow, Max: seconds(t.Max), P95: seconds(min(t.Took.Quantile(0.95), t.Max)),
		Errors: t.Errors, LastError: t.LastError, Last: t.Last.UTC(),
	}
	if s.Query == "" {
		s.Query = t.Operation
	}
	if t.Slow > 0 {
		s.Mean = seconds(t.Sum / time.Duration(t.Slow))
	}
	if t.Caller.Function != "" {
		s.Caller = callsite.Place(t.Caller)
	}
	return s
}

func leakOf(l *look.Leak) Leak {
	one := Leak{At: l.At.UTC(), Kind: "held", Outcome: "still held", Holder: holderOf(&l.Holder)}
	if l.LostRows {
		one.Kind = "lost rows"
	}
	switch {
	case l.Reclaimed:
		one.Outcome = "taken back"
	case l.Returned:
		one.Outcome = "returned"
	}
	return one
}

func place(stack []runtime.Frame) string {
	if len(stack) == 0 {
		return ""
	}
	return callsite.Place(stack[0])
}

func frames(stack []runtime.Frame) (all []Frame) {
	for _, f := range stack {
		all = append(all, Frame{Function: f.Function, File: f.File, Line: f.Line})
	}
	return all
}

// Holders are the slots that a caller has, the longest held first.
func (p *Pool) Holders() []Slot {
	all := slices.DeleteFunc(slices.Clone(p.Slots), func(s Slot) bool { return s.Holder == nil })
	slices.SortStableFunc(all, func(a, b Slot) int { return cmp.Compare(b.Holder.Held, a.Holder.Held) })
	return all
}

// lately sums a count over the last minute of the history.
func (p *Pool) lately(count func(*Second) int) (sum int) {
	for i := max(len(p.History)-60, 0); i < len(p.History); i++ {
		sum += count(&p.History[i])
	}
	return sum
}

// judge says what is going on. The worst comes first, and its likely cause with it.
func (p *Pool) judge(closed bool) {
	leaked := 0
	for _, s := range p.Slots {
		if s.State == string(look.Leaked) {
			leaked++
		}
	}
	failing := len(p.Events) > 0 && p.Events[0].Kind == look.DialFailed
	timeouts := p.lately(func(s *Second) int { return s.Timeouts })
	dialErrors := p.lately(func(s *Second) int { return s.DialErrors })
	p.Level = LevelLook
	switch {
	case closed:
		p.Level, p.Verdict = LevelClosed, "The pool is closed."
	case p.Open == 0 && failing && (p.Waiting > 0 || dialErrors > 0):
		p.Level = LevelTrouble
		p.Verdict = fmt.Sprintf("No connection is open, and none can be opened: %s. %s", strings.TrimSuffix(p.Events[0].Text, "."), p.waiting())
	case p.Waiting > 0 && p.Open < p.Limit && p.short():
		p.Verdict = fmt.Sprintf("The fleet has no connection left: %d of its %d are here, and it has %s. %s",
			p.Fleet.Held, p.Fleet.Limit, plural(len(p.Fleet.Members), "member"), p.waiting())
		if p.LongestWait > 1 || timeouts > 0 {
			p.Level = LevelTrouble
		}
	case p.Waiting > 0 && p.Open < p.Limit:
		p.Verdict = fmt.Sprintf("%d of %d open, %d being opened. %s", p.Open, p.Limit, p.Opening, p.waiting())
	case p.Waiting > 0:
		p.Verdict = fmt.Sprintf("Full: %d of %d in use%s. %s %s", p.InUse, p.Limit, some(leaked, "leaked"), p.waiting(), p.culprit())
		if p.LongestWait > 1 || timeouts > 0 {
			p.Level = LevelTrouble
		}
	case leaked > 0:
		p.Verdict = fmt.Sprintf("%d of %d in use%s. %s", p.InUse, p.Limit, some(leaked, "leaked"), p.culprit())
	case timeouts > 0:
		p.Verdict = fmt.Sprintf("%d of %d in use, nobody waits now. %s timed out in the last minute.", p.InUse, p.Limit, plural(timeouts, "wait"))
	case dialErrors > 0:
		p.Verdict = fmt.Sprintf("%d of %d in use, nobody waits. %s failed in the last minute.", p.InUse, p.Limit, plural(dialErrors, "dial"))
	default:
		p.Level, p.Verdict = LevelOK, fmt.Sprintf("%d of %d in use, nobody waits.", p.InUse, p.Limit)
	}
	p.Verdict = strings.TrimSpace(p.Verdict)
}

// short says whether a connection would be opened if the fleet had one left.
func (p *Pool) short() bool {
	return p.Fleet != nil && slices.ContainsFunc(p.Slots, func(s Slot) bool { return s.State == string(look.NoToken) })
}

func (p *Pool) waiting() string {
	switch p.Waiting {
	case 0:
		return "Nobody waits."
	case 1:
		return fmt.Sprintf("One caller waits, for %s.", p.LongestWait)
	}
	return fmt.Sprintf("%d callers wait, the longest for %s.", p.Waiting, p.LongestWait)
}

// culprit is the place that holds most connections in the worst state, and how.
func (p *Pool) culprit() string {
	type key struct{ caller, state string }
	counts := map[key]int{}
	for _, s := range p.Slots {
		if s.Holder != nil && s.Holder.Caller != "" {
			counts[key{s.Holder.Caller, s.State}]++
		}
	}
	if len(counts) == 0 {
		return ""
	}
	bad := []string{string(look.IdleInTx), string(look.Leaked)} // the worst last
	worst := slices.MaxFunc(slices.Collect(maps.Keys(counts)), func(a, b key) int {
		return cmp.Or(
			cmp.Compare(slices.Index(bad, a.state), slices.Index(bad, b.state)),
			cmp.Compare(counts[a], counts[b]),
			cmp.Compare(b.caller, a.caller),
		)
	})
	return fmt.Sprintf("%d held by %s, %s.", counts[worst], worst.caller, worst.state)
}

// some says how many are what, if there are any.
func some(n int, what string) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(", %d of them %s", n, what)
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
