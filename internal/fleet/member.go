package fleet

import "slices"

// state is what a token in a member's hands is used for.
type state uint8

const (
	spare    state = iota // for nothing yet
	dialling              // a connection is being opened for it
	open                  // its connection is open
)

// hold is a token in a member's hands.
type hold struct {
	serial  int // names it in this process: a number may come again
	number  int
	state   state
	conn    Conn // of an open one
	claimed bool // the present fleet session holds it
	doomed  bool // nobody vouches for it: its connection has to close
}

// Member is the part of one process in the protocol. Events are its methods; what it wants done are the results of Ask and
// Owed. It is not safe for concurrent use.
//
// A member takes a token only where the server shows that nobody holds it. It says so when it finds none, gives up what
// others need more, and lets older needs go first, so that a token that was given up reaches the member for which it was.
type Member struct {
	patience
	limit   int
	id      ID // 0 without a fleet session
	serials int
	holds   []hold
	done    []int // numbers whose connections have closed, to be released
	missing int   // tokens that the pool lacks
	urgent  bool  // because callers need them
	peers   []Peer
	needs   []need // of others
	clock   uint64 // the highest ticket that was seen
	ticket  uint64 // of the own need; 0 without one

	asked bool // an exchange is under way
	try   bool // to take tokens
	renew bool // to say what is needed
	look  bool
	say   []Say
}

// NewMember makes a member of a fleet of at most limit connections.
func NewMember(limit int) *Member { return &Member{patience: usualPatience, limit: limit} }

// Connected tells of a new fleet session, which holds nothing yet.
func (m *Member) Connected(id ID) {
	m.id, m.asked, m.try, m.renew, m.look = id, false, true, true, true
	m.needs, m.say = nil, []Say{{Word: Here}}
}

// Lost tells that the fleet session is gone. The server frees what nothing but it held. Connections that are open hold
// their tokens themselves.
func (m *Member) Lost() {
	m.id, m.asked, m.done, m.ticket = 0, false, nil, 0
	m.holds = slices.DeleteFunc(m.holds, func(h hold) bool { return h.state == spare })
	for i := range m.holds {
		m.holds[i].claimed = false
	}
}

// Demand tells for how many connections the pool would take a token now, spare ones included: for callers, or only to keep
// connections ready.
func (m *Member) Demand(missing int, urgent bool) {
	if missing > m.missing || urgent && !m.urgent {
		m.try = true
	}
	m.missing, m.urgent = missing, urgent && missing > 0
}

// Take hands a spare token to the pool, to open a connection for.
func (m *Member) Take() (serial, number int, ok bool) {
	for i := range m.holds {
		if h := &m.holds[i]; h.state == spare && m.id != 0 {
			h.state = dialling
			m.missing = max(m.missing-1, 0)
			return h.serial, h.number, true
		}
	}
	return 0, 0, false
}

// Opened tells that the connection of a token is open and holds it.
func (m *Member) Opened(serial int, c Conn) {
	if h := m.find(serial); h != nil {
		h.state, h.conn = open, c
	}
}

// Closed tells that a token has no connection any more: it has closed, or was not opened.
func (m *Member) Closed(serial int) {
	h := m.find(serial)
	if h == nil {
		return
	}
	if h.claimed {
		// The server's process may need a moment to end. So the token is not used again but released and taken anew: never
		// are two of its connections there.
		m.done = append(m.done, h.number)
		m.try = true
	}
	m.holds = slices.DeleteFunc(m.holds, func(h hold) bool { return h.serial == serial })
}

func (m *Member) find(serial int) *hold {
	i := slices.IndexFunc(m.holds, func(h hold) bool { return h.serial == serial })
	if i < 0 {
		return nil
	}
	return &m.holds[i]
}

// Heard tells what another member said.
func (m *Member) Heard(from ID, s Say) {
	if from == m.id {
		return
	}
	m.clock = max(m.clock, s.Ticket)
	switch s.Word {
	case Here, Left:
		m.look = true
		if s.Word == Left {
			m.forget(from)
			m.try = true
		}
	case Free:
		m.try = true
	case Need:
		m.note(from, s)
	}
}

// Poll tells that time has passed. It has the member try again what only time can mend: words may be lost, and of a
// process that died nobody tells. look has it see who is there.
func (m *Member) Poll(look bool) {
	for i := range m.needs {
		m.needs[i].age++
	}
	m.needs = slices.DeleteFunc(m.needs, func(n need) bool { return n.age > m.forgotten })
	m.try = true
	m.renew = m.renew || look || m.held() < m.Share()
	m.look = m.look || look
}

// Ask gives the next exchange with the server; false if there is nothing to ask, or one is under way.
func (m *Member) Ask() (a Ask, ok bool) {
	if m.id == 0 || m.asked {
		return Ask{}, false
	}
	a.Say, m.say = m.say, nil
	for _, h := range m.holds {
		if h.state == open && !h.claimed && !h.doomed {
			a.Claim = append(a.Claim, Claim{Serial: h.serial, Number: h.number, Conn: h.conn})
		}
	}
	a.Release, m.done = m.done, nil
	limit, surplus := m.Limit(), m.spare()-m.missing
	m.holds = slices.DeleteFunc(m.holds, func(h hold) bool {
		if h.state != spare || surplus <= 0 && h.number <= limit {
			return false
		}
		surplus--
		a.Release = append(a.Release, h.number)
		return true
	})
	want := m.want()
	switch {
	case want == 0 || !m.urgent:
		if m.ticket != 0 {
			m.ticket = 0
			a.Say = append(a.Say, Say{Word: Need, Held: m.held()})
		}
	case m.ticket == 0 && m.try && m.defers():
		m.stand()
	}
	if m.ticket != 0 && m.renew {
		a.Say = append(a.Say, Say{Word: Need, Ticket: m.ticket, Held: m.held(), Want: want})
	}
	if m.ticket != 0 || want == 0 {
		m.renew = false
	}
	if take := min(want, m.most()); m.try && take > 0 && !m.defers() {
		a.Take, a.Limit = take, m.Limit()
		for _, h := range m.holds {
			a.Own = append(a.Own, h.number)
		}
	}
	if len(a.Release) > 0 && len(m.needs) > 0 {
		a.Say = append(a.Say, Say{Word: Free})
	}
	a.Look, m.look, m.try = m.look, false, false
	m.asked = len(a.Claim)+len(a.Release)+a.Take+len(a.Say) > 0 || a.Look
	return a, m.asked
}

// Answered tells what came of the exchange.
func (m *Member) Answered(a Ask, got Answer) {
	m.asked = false
	for i, c := range a.Claim {
		if h := m.find(c.Serial); h != nil {
			h.claimed, h.doomed = got.Claimed[i], !got.Claimed[i]
		} else if got.Claimed[i] {
			m.done = append(m.done, c.Number) // it closed meanwhile
		}
	}
	for _, number := range got.Taken {
		m.serials++
		m.holds = append(m.holds, hold{serial: m.serials, number: number, claimed: true})
	}
	if got.Peers != nil {
		m.see(got.Peers)
	}
	switch want := m.want(); {
	case want == 0 || !m.urgent || a.Take == 0:
	case m.ticket == 0:
		m.stand() // once more with the word: what was freed before it came was freed without a word
	case len(got.Taken) > 0:
		m.stand() // behind those that have waited since before
	}
}

// stand has the member get in line.
func (m *Member) stand() {
	m.clock++
	m.ticket, m.try, m.renew = m.clock, true, true
}

// see takes over who is there.
func (m *Member) see(peers []Peer) {
	m.peers = peers
	m.needs = slices.DeleteFunc(m.needs, func(n need) bool {
		return !slices.ContainsFunc(peers, func(p Peer) bool { return p.ID == n.from })
	})
}

// spare counts the tokens that are used for nothing.
func (m *Member) spare() int {
	n := 0
	for _, h := range m.holds {
		if h.state == spare {
			n++
		}
	}
	return n
}

// want is how many tokens are to be taken.
func (m *Member) want() int { return max(m.missing-m.spare(), 0) }

// held counts the tokens in hand: not those of connections that have to close, nor those of dials that began with a session
// that is lost.
func (m *Member) held() int {
	n := 0
	for _, h := range m.holds {
		if !h.doomed && (h.claimed || h.state == open) {
			n++
		}
	}
	return n
}
