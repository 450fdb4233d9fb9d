package fleet

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/go-lifeguard/lifeguard/internal/libpq"
)

const (
	pollTime = 200 * time.Millisecond // between attempts while tokens are missing, here or elsewhere
	lookTime = time.Second            // between looks at who is there

	firstHurry = 2 * time.Millisecond // after a word that a token comes free: the server's process has to end first
	lastHurry  = pollTime / 2

	firstBackoff = 100 * time.Millisecond // between attempts to connect
	lastBackoff  = 500 * time.Millisecond
)

// Config is what a Fleet works with. The functions are called without a lock of the fleet's, and may call its methods.
type Config struct {
	Connector driver.Connector // lib/pq's
	Name      string           // of the fleet; "" is the database's
	Limit     int
	Pool      string // for the log
	Log       *slog.Logger
	Redact    func(error) error

	Demand func() (missing int, urgent bool) // how many connections the pool would open now
	Ready  func()                            // there are tokens, or a reason why there are none
	Yield  func(Owed)                        // what the pool has to give up
	Room   func()                            // the server is full: an idle connection has to close
}

// Fleet is the part of this process in a fleet. It is safe for concurrent use.
type Fleet struct {
	cfg   Config
	ctx   context.Context // ends with Close
	stop  context.CancelFunc
	begin sync.Once
	ended chan struct{}
	wake  chan struct{} // something has changed; has room for one

	mu      sync.Mutex // guards everything below; after the pool's
	m       *Member
	room    room
	badge   int32
	start   string // of the server; "" without a session
	suspect bool   // connections reach another server than the session
	err     error  // why there is no session; nil while one is opened for the first time after another
	missing int    // tokens that the pool lacks, as far as the fleet knows
	told    int    // of the limits that were warned of
	yielded bool   // the pool knows of something that it owes
}

// New makes a fleet without a session, which is opened when the pool first wants a token.
func New(cfg Config) *Fleet {
	f := &Fleet{cfg: cfg, m: NewMember(cfg.Limit), wake: make(chan struct{}, 1), ended: make(chan struct{})}
	f.ctx, f.stop = context.WithCancel(context.Background())
	return f
}

// ErrAgain is the error of a connection that did not get its token because the fleet session was lost meanwhile. Another
// attempt may succeed.
var ErrAgain = errors.New("lifeguard: the fleet session was lost while a connection was opened")

// Take gives a token to open a connection with, one of so many that are missing. It does not wait: Ready is called when
// there is one. Without a session, and with a reason for it, the token is 0, and Err gives the reason.
func (f *Fleet) Take(missing int) (token int, ok bool) {
	f.begin.Do(func() { go f.run() }) // ends with Close
	f.mu.Lock()
	defer f.mu.Unlock()
	if token, _, ok = f.m.Take(); ok {
		return token, true
	}
	if missing > f.missing { // else the fleet knows, and asks for them now
		f.missing = missing
		f.signal()
	}
	return 0, f.err != nil
}

// Return takes a token back whose connection has closed, or was not opened.
func (f *Fleet) Return(token int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.m.Closed(token)
	f.signal()
}

func (f *Fleet) signal() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// Err is why no connection can be opened with token 0.
func (f *Fleet) Err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return f.err
	}
	return ErrAgain
}

// Admit has a new connection take its token, before anybody gets it. ask runs a query on it and gives the only value.
func (f *Fleet) Admit(token int, ask func(query string) (string, error)) error {
	f.mu.Lock()
	h := f.m.find(token)
	id, badge, start := f.m.id, f.badge, f.start
	if h == nil || id == 0 {
		f.mu.Unlock()
		return ErrAgain
	}
	query := f.room.admission(h.number, id, badge)
	f.mu.Unlock()
	answer, err := ask(query)
	if err != nil {
		return err
	}
	var pid int64
	var at, set string
	locks := 0
	if _, err := fmt.Sscan(answer, &pid, &at, &locks, &set); err != nil {
		return fmt.Errorf("lifeguard: a connection did not get its place in the fleet: %w", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case at != start:
		if f.start == start {
			f.suspect = true
			f.signal()
		}
		return fmt.Errorf("%w: it is on another server than the connection", ErrAgain)
	case ID(pid) == id:
		return ErrPooler
	case locks != 2:
		return ErrAgain
	}
	f.m.Opened(token, Conn{PID: pid, Badge: badge})
	return nil
}

// Close ends the fleet session. Connections that are open keep their tokens.
func (f *Fleet) Close() {
	f.begin.Do(func() { close(f.ended) })
	f.stop()
	<-f.ended
}

// run keeps a session until Close.
func (f *Fleet) run() {
	defer close(f.ended)
	backoff := firstBackoff
	for f.ctx.Err() == nil {
		s, err := connect(f.ctx, f.cfg.Connector, f.cfg.Name, f.cfg.Limit)
		if err == nil {
			began := time.Now()
			err = f.serve(s)
			f.lost(nil)
			if f.ctx.Err() != nil {
				return
			}
			f.cfg.Log.Warn("lifeguard: the fleet session was lost, and nothing is opened until it is back",
				slog.String("pool", f.cfg.Pool), slog.Any("error", f.cfg.Redact(err)))
			if time.Since(began) > lookTime {
				backoff = firstBackoff
				continue
			}
		}
		if libpq.Code(err) == "53300" {
			f.makeRoom()
		}
		f.lost(err)
		f.cfg.Ready()
		select {
		case <-f.ctx.Done():
		case <-time.After(backoff):
		}
		backoff = min(2*backoff, lastBackoff)
	}
}

// makeRoom has an idle connection closed on a server that has no place for the session.
func (f *Fleet) makeRoom() {
	f.mu.Lock()
	f.yielded = true
	f.mu.Unlock()
	f.cfg.Room()
}

// lost notes that there is no session, and why.
func (f *Fleet) lost(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.start != "" {
		f.m.Lost()
	}
	f.start, f.suspect, f.err = "", false, err
}

// serve uses a session until it is lost, or until Close.
func (f *Fleet) serve(s *session) error {
	f.mu.Lock()
	f.room, f.badge, f.start, f.err = s.room, s.badge, s.start, nil
	f.m.Connected(s.id)
	f.mu.Unlock()
	var next schedule
	next.looked = time.Now()
	for {
		asked, err := f.step(s, &next)
		if err != nil {
			s.close()
			return err
		}
		if asked {
			continue
		}
		if f.ctx.Err() != nil {
			s.leave()
			return errClosed
		}
		if err := f.wait(s, &next); err != nil {
			s.close()
			return err
		}
	}
}

// step has one exchange with the server, if there is something to ask.
func (f *Fleet) step(s *session, next *schedule) (asked bool, err error) {
	missing, urgent := f.cfg.Demand()
	f.mu.Lock()
	if f.suspect {
		f.mu.Unlock()
		return false, ErrAgain
	}
	f.missing = missing
	f.m.Demand(missing, urgent)
	a, asked := f.m.Ask()
	f.mu.Unlock()
	if asked {
		got, err := s.exchange(a)
		if err != nil {
			return false, err
		}
		f.mu.Lock()
		f.m.Answered(a, got)
		f.mu.Unlock()
		next.asked(a, got)
	}
	f.listen(s, next)
	f.settle()
	return asked, nil
}

// listen passes on what others have said.
func (f *Fleet) listen(s *session, next *schedule) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, h := range s.inbox {
		f.m.Heard(h.from, h.say)
		if h.say.Word == Free {
			next.hurry = firstHurry
		}
	}
	s.inbox = s.inbox[:0]
	next.busy = f.m.want() > 0
	next.below = next.busy && f.m.held() < f.m.Share()
	next.watchful = next.busy || len(f.m.needs) > 0
}

// settle passes on to the pool what has come of an event.
func (f *Fleet) settle() {
	f.mu.Lock()
	spare, owed := f.m.spare() > 0, f.m.Owed()
	something := owed.Firm+owed.Rested+len(owed.Doomed) > 0
	tell := something || f.yielded
	f.yielded = something
	warn := f.limitsLocked()
	f.mu.Unlock()
	if spare {
		f.cfg.Ready()
	}
	if tell {
		f.cfg.Yield(owed)
	}
	if warn != nil {
		warn()
	}
}

// limitsLocked gives a warning if members have different limits, once for each lower one.
func (f *Fleet) limitsLocked() func() {
	limit := f.m.Limit()
	if limit == f.told || limit == f.cfg.Limit {
		return nil
	}
	f.told = limit
	var own, other Peer
	for _, p := range f.m.peers {
		if p.ID == f.m.id {
			own = p
		} else if p.Limit == limit {
			other = p
		}
	}
	return func() {
		f.cfg.Log.Warn("lifeguard: processes of one fleet have different fleet_limits, and the lower one holds",
			slog.String("pool", f.cfg.Pool), slog.Int("fleet_limit", f.cfg.Limit), slog.String("process", own.describe()),
			slog.Int("lower", limit), slog.String("of_process", other.describe()))
	}
}

// describe names a member: its application_name and address, and the server's process.
func (p Peer) describe() string { return strings.TrimSpace(fmt.Sprintf("%s (pid %d)", p.Name, p.ID)) }
