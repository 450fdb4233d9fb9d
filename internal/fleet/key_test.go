package fleet

import (
	"cmp"
	"encoding/binary"
	"slices"
)

// tidy takes out what has no bearing on anything that can still happen, so that worlds that differ in nothing else are one.
func (w *world) tidy() {
	w.hasten()
	for _, p := range w.procs {
		m := p.m
		m.try = m.try && m.want() > 0 // whoever wants more tries anyway
		m.renew = m.renew && m.ticket != 0
		for i := range m.needs {
			m.needs[i].heard = min(m.needs[i].heard, m.insistent+len(w.procs)-1) // see turn
		}
		if p.callers > 0 || p.waiting > 0 || m.missing > 0 {
			continue
		}
		m.clock = m.ticket // no ticket is drawn any more
		if p.alive && p.pending == nil && len(p.conns)+len(m.holds)+len(m.done)+len(m.say) == 0 && m.ticket == 0 {
			// It has nothing, wants nothing and has nothing to say. What it hears makes no difference.
			p.finished, p.inbox = true, nil
			m.needs, m.peers, m.try, m.look = nil, nil, false, false
		}
	}
}

// encoder writes a world down. Names of tokens, connections and holds only tell them apart, so each gets its number where it
// comes up first.
type encoder struct {
	b                     []byte
	tokens, pids, serials names
}

// names are those that have come up.
type names []int64

func (n *names) number(of int64) int {
	i := slices.Index(*n, of)
	if i < 0 {
		i = len(*n)
		*n = append(*n, of)
	}
	return i
}

func (e *encoder) num(ns ...int) {
	for _, n := range ns {
		e.b = binary.AppendVarint(e.b, int64(n))
	}
}

func (e *encoder) flag(fs ...bool) {
	n := 0
	for _, f := range fs {
		n <<= 1
		if f {
			n++
		}
	}
	e.num(n)
}

func (e *encoder) token(numbers ...int) {
	e.num(len(numbers))
	for _, n := range numbers {
		e.num(e.tokens.number(int64(n)))
	}
}

func (e *encoder) say(s Say) { e.num(int(s.Word), int(s.Ticket), s.Held, s.Want) }

func (e *encoder) peers(peers []Peer) {
	e.num(len(peers))
	for _, p := range peers {
		e.num(int(p.ID), p.Limit, p.Held)
	}
}

// key is equal for worlds in which the same can happen.
func (e *encoder) key(w *world) []byte {
	e.b, e.tokens, e.pids = e.b[:0], e.tokens[:0], append(e.pids[:0], 0)
	e.num(w.losses)
	for _, p := range w.procs {
		e.serials = e.serials[:0]
		e.process(p)
	}
	for n := range w.locks {
		e.tokens.number(int64(n)) // those that no process speaks of have no locks
	}
	for _, n := range e.tokens {
		locks := w.locks[n]
		slices.SortFunc(locks, func(a, b lock) int { return cmp.Or(cmp.Compare(a.fleet, b.fleet), cmp.Compare(e.pid(a), e.pid(b))) })
		e.num(len(locks))
		for _, l := range locks {
			e.num(int(l.fleet), e.pid(l))
		}
	}
	return e.b
}

func (e *encoder) pid(l lock) int { return e.pids.number(l.conn.PID) }

func (e *encoder) process(p *process) {
	m := p.m
	e.num(int(p.session), int(m.id), p.waiting, p.callers, m.missing, int(m.clock), int(m.ticket))
	e.flag(p.alive, p.finished, p.pending != nil, p.reply != nil, m.asked, m.try, m.renew, m.look, m.urgent)
	e.num(len(p.conns))
	for _, c := range p.conns {
		e.num(e.serials.number(int64(c.serial)), e.pids.number(c.pid), int(c.badge), int(c.phase))
		e.token(c.number)
	}
	e.num(len(m.holds))
	for _, h := range m.holds {
		e.num(e.serials.number(int64(h.serial)), int(h.state), e.pids.number(h.conn.PID))
		e.flag(h.claimed, h.doomed)
		e.token(h.number)
	}
	e.token(m.done...)
	e.num(len(p.inbox))
	for _, s := range p.inbox {
		e.num(int(s.from))
		e.say(s.Say)
	}
	e.num(len(m.needs))
	for _, n := range m.needs {
		e.num(int(n.from), int(n.ticket), n.held, n.want, n.heard, n.age)
	}
	e.num(len(m.say))
	for _, s := range m.say {
		e.say(s)
	}
	e.peers(m.peers)
	if a := p.pending; a != nil {
		e.num(len(a.Claim), a.Take)
		for _, c := range a.Claim {
			e.num(e.serials.number(int64(c.Serial)))
			e.token(c.Number)
		}
	}
	if got := p.reply; got != nil {
		e.num(len(got.Claimed))
		e.flag(got.Claimed...)
		e.token(got.Taken...)
		e.flag(got.Peers != nil)
		e.peers(got.Peers)
	}
}
