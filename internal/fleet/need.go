package fleet

import "slices"

// patience is what a member counts before it takes others for hung.
type patience struct {
	// polite is for how many polls a member waits for an older need to be served. One that does not speak again within
	// them may belong to a process that hangs, and a free token must not wait for it.
	polite int

	// forgotten is for how many polls a need is known that is not told again.
	forgotten int

	// insistent is how often a need was told after which shares do not count: those who have more may hang.
	insistent int
}

var usualPatience = patience{polite: 5, forgotten: 10, insistent: 4}

// need is what another member lacks.
type need struct {
	from       ID
	ticket     uint64
	held, want int
	heard      int // how often it was told
	age        int // polls since
}

func (m *Member) note(from ID, s Say) {
	i := slices.IndexFunc(m.needs, func(n need) bool { return n.from == from })
	switch {
	case s.Want == 0:
		m.forget(from)
	case i < 0:
		m.needs = append(m.needs, need{from: from, ticket: s.Ticket, held: s.Held, want: s.Want, heard: 1})
	default:
		n := &m.needs[i]
		if n.ticket != s.Ticket {
			n.heard = 0
		}
		*n = need{from: from, ticket: s.Ticket, held: s.Held, want: s.Want, heard: n.heard + 1}
	}
}

func (m *Member) forget(from ID) {
	m.needs = slices.DeleteFunc(m.needs, func(n need) bool { return n.from == from })
	m.try = true // it may have been waited for
}

// Limit is the fleet's: the lowest that a member has.
func (m *Member) Limit() int {
	limit := m.limit
	for _, p := range m.peers {
		limit = min(limit, p.Limit)
	}
	return limit
}

// Share is what each member gets that needs it, at least one.
func (m *Member) Share() int { return max(m.Limit()/max(len(m.peers), 1), 1) }

// standing orders needs: those who have nothing, those who have less than their share, the others.
func standing(held, share int) int {
	switch {
	case held == 0:
		return 0
	case held < share:
		return 1
	}
	return 2
}

// defers says whether somebody else comes first: for those who have their share, anybody who has less. Where there are more
// members than tokens, also whoever got in line before. Elsewhere there is no line below the share: a token that is free is
// taken at once, by anybody, and who takes no more than the share leaves the others theirs.
//
// Tickets are given in the order of words: who needs a token once more after it gave one up for a need has a later ticket
// than that.
func (m *Member) defers() bool {
	share := m.Share()
	own, ticket := standing(m.held(), share), m.ticket
	if ticket == 0 {
		ticket = m.clock + 1
	}
	line := m.Limit() < len(m.peers)
	return slices.ContainsFunc(m.needs, func(n need) bool {
		class := standing(n.held, share)
		switch {
		case n.age > m.polite || class == 2 || class > own:
			return false
		case own < 2 && !line:
			return false
		}
		return class < own || n.ticket < ticket || n.ticket == ticket && n.from < m.id
	})
}

// most is how many tokens may be taken: no more than to the share while others have less than theirs.
func (m *Member) most() int {
	share := m.Share()
	if slices.ContainsFunc(m.needs, func(n need) bool { return n.age <= m.polite && n.held < share }) {
		return max(share-m.held(), 0)
	}
	return m.want()
}

// Owed is what a member has to give up.
type Owed struct {
	Firm   int   // connections, idle ones first, then those that come back
	Turn   bool  // they are given up by turns, and each may be used for a while before
	Rested int   // besides, of connections that have been idle for a while
	Doomed []int // serials of tokens whose connections have to close
}

// Owed says what others need more. It changes with each event.
func (m *Member) Owed() (o Owed) {
	limit, share := m.Limit(), m.Share()
	mine := 0
	for _, h := range m.holds {
		switch {
		case h.doomed || h.number > limit:
			o.Doomed = append(o.Doomed, h.serial)
		case h.state == open:
			mine++
		}
	}
	if m.id == 0 {
		return o
	}
	total, deficit := 0, 0
	for _, n := range m.needs {
		if n.held < share {
			deficit += min(n.want, share-n.held)
		}
		if n.heard > 1 {
			total += n.want // those who have more than their share were not enough
		}
	}
	holders, over := 0, 0
	for _, p := range m.peers {
		held := p.Held
		if p.ID == m.id {
			held = m.held()
		}
		if held > 0 {
			holders++
		}
		if held > share {
			over++
		}
	}
	switch {
	case m.held() > share:
		o.Firm = min(m.held()-share, portion(deficit, max(over, 1)), mine)
	case m.turn(over > 0):
		o.Firm, o.Turn = min(1, mine), true
	}
	o.Rested = max(min(portion(total, max(holders, 1)), mine)-o.Firm, 0)
	return o
}

// portion is what each of so many gives of n. What all of them give is n or a little more.
func portion(n, of int) int { return (n + of - 1) / of }

// turn says whether a member that has no more than its share gives a token up to one that has nothing: there are more
// members than tokens, or those who have more do not give. One holder gives when the need is told again, and one more each
// time after that. Which one comes first follows from the ticket and the member, so the tokens go round.
func (m *Member) turn(others bool) bool {
	var holders []ID
	for _, p := range m.peers {
		if p.ID == m.id && m.held() > 0 || p.ID != m.id && p.Held > 0 {
			holders = append(holders, p.ID)
		}
	}
	i := slices.Index(holders, m.id)
	if i < 0 {
		return false
	}
	for _, n := range m.needs {
		after := 2
		if others {
			after = m.insistent
		}
		place := (uint64(i) + n.ticket + uint64(n.from)) % uint64(len(holders))
		if n.held == 0 && uint64(n.heard) >= uint64(after)+place {
			return true
		}
	}
	return false
}
