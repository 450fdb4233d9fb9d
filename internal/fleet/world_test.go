package fleet

import (
	"fmt"
	"slices"
)

// world is a server and processes, in which everything that can happen is an action of its own. It has no clock.
type world struct {
	tokens int
	next   int64    // process numbers of the server
	losses int      // fleet sessions that may still be lost
	locks  [][]lock // by token
	procs  []*process
	moved  []int // tokens whose locks have changed since the last look
}

// lock is one that the server has granted: to a fleet session, or to a connection.
type lock struct {
	fleet ID
	conn  Conn
}

type said struct {
	from ID
	Say
}

type phase uint8

const (
	asking   phase = iota // the connection has not asked for its lock
	admitted              // it holds it, which the process does not know yet
	idle
	busy
	leaving // the process has closed it, and the server has not noticed
)

type conn struct {
	serial, number int
	pid            int64
	badge          ID
	phase          phase
}

type process struct {
	m       *Member
	number  int // of the process
	epochs  int // fleet sessions
	limit   int // connection_limit
	session ID  // of the client; 0 without one
	alive   bool
	pending *Ask    // sent
	reply   *Answer // executed
	inbox   []said
	conns   []conn
	waiting int
	served  int
	callers int // that may still come

	finished bool // nothing that it does can make a difference
}

func newWorld(processes, tokens, limit int) *world {
	w := &world{tokens: tokens, locks: make([][]lock, tokens+1)}
	for i := range processes {
		w.procs = append(w.procs, &process{number: i + 1, m: NewMember(tokens), limit: limit})
	}
	return w
}

func (m *Member) clone() *Member {
	c := *m
	c.holds, c.done, c.needs, c.say = slices.Clone(m.holds), slices.Clone(m.done), slices.Clone(m.needs), slices.Clone(m.say)
	return &c
}

func (w *world) clone() *world {
	c := *w
	c.locks, c.procs, c.moved = make([][]lock, len(w.locks)), make([]*process, len(w.procs)), nil
	for i, locks := range w.locks {
		c.locks[i] = slices.Clone(locks)
	}
	for i, p := range w.procs {
		q := *p
		q.m, q.inbox, q.conns = p.m.clone(), slices.Clone(p.inbox), slices.Clone(p.conns)
		c.procs[i] = &q
	}
	return &c
}

// connect opens the fleet session of a process.
func (w *world) connect(p *process) {
	p.epochs++
	p.session, p.alive, p.pending, p.reply, p.inbox = ID(1_000_000*p.epochs+p.number), true, nil, nil, nil
	p.m.Connected(p.session)
}

// die ends the fleet session on the server. The process does not know yet.
func (w *world) die(p *process) {
	p.alive, p.finished, p.reply, p.inbox = false, false, nil, nil
	for n := range w.locks {
		w.unlock(n, func(l lock) bool { return l.fleet == p.session })
	}
}

func (w *world) unlock(number int, of func(lock) bool) (done bool) {
	before := len(w.locks[number])
	w.locks[number] = slices.DeleteFunc(w.locks[number], of)
	return len(w.locks[number]) < before
}

func (w *world) lock(number int, l lock) {
	w.locks[number] = append(w.locks[number], l)
	w.moved = append(w.moved, number)
}

// notice tells the process that its session has gone.
func (w *world) notice(p *process) {
	p.session, p.pending, p.reply = 0, nil, nil
	p.m.Lost()
}

func (w *world) holdsToken(number int, of func(lock) bool) bool {
	return slices.ContainsFunc(w.locks[number], of)
}

// execute has the server carry out what the process asks.
func (w *world) execute(p *process) {
	a, got := p.pending, &Answer{}
	for _, c := range a.Claim {
		ok := w.holdsToken(c.Number, func(l lock) bool { return l.conn == c.Conn })
		if ok {
			w.lock(c.Number, lock{fleet: p.session})
		}
		got.Claimed = append(got.Claimed, ok)
	}
	for _, n := range a.Release {
		if !w.unlock(n, func(l lock) bool { return l.fleet == p.session }) {
			panic(fmt.Sprintf("token %d is released by a session that does not hold it", n))
		}
	}
	for n := 1; n <= a.Limit && len(got.Taken) < a.Take; n++ {
		// As on the server, where a session's own locks are not in its way.
		if !slices.Contains(a.Own, n) && !w.holdsToken(n, func(l lock) bool { return l.fleet != p.session }) {
			w.lock(n, lock{fleet: p.session})
			got.Taken = append(got.Taken, n)
		}
	}
	for _, s := range a.Say {
		for _, q := range w.procs {
			if q.alive {
				q.inbox = append(q.inbox, said{p.session, s})
			}
		}
	}
	if a.Look {
		got.Peers = w.peers()
	}
	p.reply = got
}

func (w *world) peers() []Peer {
	peers := []Peer{}
	held := map[ID]int{}
	for _, locks := range w.locks {
		for _, l := range locks {
			held[l.fleet]++
		}
	}
	for _, p := range w.procs {
		if p.alive {
			peers = append(peers, Peer{ID: p.session, Limit: p.m.limit, Held: held[p.session]})
		}
	}
	slices.SortFunc(peers, func(a, b Peer) int { return int(a.ID - b.ID) })
	return peers
}

// demand tells what the pool of the process lacks.
func (p *process) demand() { p.m.Demand(p.lacks(), p.waiting > 0) }

func (p *process) lacks() int {
	open, opening := 0, 0
	for _, c := range p.conns {
		if c.phase != leaving {
			open++
		}
		if c.phase <= admitted {
			opening++
		}
	}
	return max(min(p.waiting-opening, p.limit-open), 0)
}

func (p *process) serve(c *conn) {
	if p.waiting > 0 {
		p.waiting--
		p.served++
		c.phase = busy
		return
	}
	c.phase = idle
}

func (w *world) close(p *process, i int) {
	p.conns[i].phase = leaving
	p.m.Closed(p.conns[i].serial)
}

// admit has the server carry out what a new connection asks.
func (w *world) admit(p *process, i int) {
	c := &p.conns[i]
	if w.holdsToken(c.number, func(l lock) bool { return l.fleet == c.badge }) {
		w.lock(c.number, lock{conn: Conn{PID: c.pid, Badge: int32(c.badge)}})
		c.phase = admitted
		return
	}
	p.m.Closed(c.serial)
	p.conns = slices.Delete(p.conns, i, i+1)
}

func (w *world) returned(p *process, i int) {
	c := &p.conns[i]
	if o := p.m.Owed(); o.Firm > 0 || slices.Contains(o.Doomed, c.serial) {
		w.close(p, i)
		return
	}
	p.serve(c)
}

func (w *world) exit(p *process, i int) {
	c := p.conns[i]
	w.unlock(c.number, func(l lock) bool { return l.conn.PID == c.pid })
	p.conns = slices.Delete(p.conns, i, i+1)
}

// calm says whether nobody waits.
func (w *world) calm() bool {
	return !slices.ContainsFunc(w.procs, func(p *process) bool { return p.waiting > 0 })
}

// wrong says which promise does not hold, of the tokens whose locks have changed.
func (w *world) wrong() string {
	for _, n := range w.moved {
		conns, of, own := 0, -1, map[ID]bool{}
		for _, l := range w.locks[n] {
			i := w.owner(l)
			if of >= 0 && i != of {
				return fmt.Sprintf("token %d is held twice: %v", n, w.locks[n])
			}
			of = i
			if own[l.fleet] {
				return fmt.Sprintf("token %d was taken twice: %v", n, w.locks[n])
			}
			if l.fleet != 0 {
				own[l.fleet] = true
			}
			if l.conn.PID != 0 {
				conns++
			}
		}
		if conns > 1 {
			return fmt.Sprintf("token %d has two connections: %v", n, w.locks[n])
		}
	}
	w.moved = w.moved[:0]
	return ""
}

// owner is the process whose lock it is.
func (w *world) owner(l lock) int {
	return slices.IndexFunc(w.procs, func(p *process) bool {
		return l.fleet != 0 && l.fleet == p.session ||
			slices.ContainsFunc(p.conns, func(c conn) bool { return l.conn.PID != 0 && l.conn.PID == c.pid })
	})
}

// bare says whose connection is used without a token.
func (w *world) bare() string {
	for i, p := range w.procs {
		for _, c := range p.conns {
			if c.phase > asking && !w.holdsToken(c.number, func(l lock) bool { return l.conn.PID == c.pid }) {
				return fmt.Sprintf("a connection of process %d holds no token", i)
			}
		}
	}
	return ""
}
