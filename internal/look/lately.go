package look

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-lifeguard/lifeguard/internal/leak"
)

const (
	maxEvents = 100
	maxLeaks  = 50
	maxText   = 400 // bytes of an event
)

// Event is something that happened to the pool. The same again, with nothing else between, is counted.
type Event struct {
	First, Last time.Time
	Kind        string
	Text        string
	Count       int
}

// Kinds of events.
const (
	DialFailed = "dial failed"
	Recovered  = "connected again"
	LimitSet   = "limit changed"
	WasReset   = "reset"
)

type events struct {
	mu  sync.Mutex
	all []Event // guarded by mu; the newest last
}

// Note keeps an event. The text must have no secret.
func (p *Pool) Note(kind, text string) {
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText], "") + "…" // a letter may be cut
	}
	e, now := &p.events, time.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	if n := len(e.all); n > 0 && e.all[n-1].Kind == kind && e.all[n-1].Text == text {
		e.all[n-1].Last = now
		e.all[n-1].Count++
		return
	}
	if len(e.all) == maxEvents {
		e.all = slices.Delete(e.all, 0, 1)
	}
	e.all = append(e.all, Event{First: now, Last: now, Kind: kind, Text: text, Count: 1})
}

func (e *events) list() []Event {
	e.mu.Lock()
	defer e.mu.Unlock()
	all := slices.Clone(e.all)
	slices.Reverse(all)
	return all
}

// Leak is the last report about a connection that was not returned.
type Leak struct {
	Holder
	At        time.Time // of the first report
	LostRows  bool      // rows were dropped without Close; else it was held too long
	Reclaimed bool      // it was taken back
	Returned  bool      // it was returned after all
	checkout  uint64
}

type leaks struct {
	mu  sync.Mutex
	all []Leak // guarded by mu; the newest last
}

// Leaked keeps a report. Later ones about the same checkout replace it.
func (p *Pool) Leaked(r leak.Report) {
	if r.StillRunning {
		return
	}
	one := Leak{
		Holder: p.holder(&r.Hold, r.Since+int64(r.Held)), At: time.Now(),
		LostRows: r.Kind == leak.LostRows, Reclaimed: r.Reclaimed, Returned: r.Returned, checkout: r.Checkout,
	}
	l := &p.leaks
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.IndexFunc(l.all, func(known Leak) bool { return known.checkout == one.checkout }); i >= 0 {
		one.At = l.all[i].At
		l.all[i] = one
		return
	}
	if len(l.all) == maxLeaks {
		l.all = slices.Delete(l.all, 0, 1)
	}
	l.all = append(l.all, one)
}

func (l *leaks) list() []Leak {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := slices.Clone(l.all)
	slices.Reverse(all)
	return all
}
