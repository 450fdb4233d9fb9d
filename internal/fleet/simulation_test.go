package fleet

import (
	"container/heap"
	"flag"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var seed = flag.Uint64("seed", 0, "of the simulation; 0 for another one each time")

// simulation is a world with a clock, in which processes come, go, hang and lose what is said.
type simulation struct {
	*world
	*rand.Rand
	t      *testing.T
	now    time.Duration
	queue  events
	seq    int
	of     map[*process]*simulated
	loss   float64 // of words
	begun  int     // processes
	checks int
	asked  int // statements
}

// simulated is what a process has besides its part in the world.
type simulated struct {
	hung           bool
	gone           bool
	callers        int // each of them asks again when it was served
	hold           time.Duration
	polled, looked time.Duration
	timer          int // the number of the last timer
	hurry          time.Duration
	idleAt, bornAt map[int64]time.Duration
	heard          time.Duration
	most           time.Duration // longest wait of a caller
	since          []time.Duration
}

type event struct {
	at  time.Duration
	seq int
	do  func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].seq < e[j].seq
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

func newSimulation(t *testing.T, tokens int, seed uint64) *simulation {
	return &simulation{world: newWorld(0, tokens, 0), Rand: rand.New(rand.NewPCG(seed, 1)), t: t, of: map[*process]*simulated{}}
}

func (s *simulation) after(d time.Duration, do func()) {
	s.seq++
	heap.Push(&s.queue, event{s.now + d, s.seq, do})
}

// about is a time of that order.
func (s *simulation) about(d time.Duration) time.Duration {
	return d/2 + time.Duration(s.Int64N(int64(d)))
}

func (s *simulation) run(until time.Duration) {
	for len(s.queue) > 0 && s.queue[0].at <= until {
		e := heap.Pop(&s.queue).(event)
		s.now = e.at
		e.do()
		s.checks++
		if wrong := s.wrong(); wrong != "" {
			require.Fail(s.t, wrong, "at %v", s.now)
		}
	}
	s.now = until
}

// start starts a process with callers that hold connections for so long at a time.
func (s *simulation) start(limit, callers int, hold time.Duration) *process {
	s.begun++
	p := &process{m: NewMember(s.tokens), limit: limit, number: s.begun}
	s.procs = append(s.procs, p)
	s.of[p] = &simulated{hold: hold, idleAt: map[int64]time.Duration{}, bornAt: map[int64]time.Duration{}}
	s.after(s.about(5*time.Millisecond), func() { s.open(p) })
	s.load(p, callers)
	return p
}

// load gives a process more callers, or fewer when they were served next.
func (s *simulation) load(p *process, callers int) {
	x := s.of[p]
	for range callers - x.callers {
		s.arrive(p)
	}
	x.callers = callers
	s.step(p)
}

func (s *simulation) arrive(p *process) {
	p.waiting++
	s.of[p].since = append(s.of[p].since, s.now)
}

func (s *simulation) open(p *process) {
	if x := s.of[p]; !x.gone && p.session == 0 {
		s.connect(p)
		x.polled, x.looked = s.now, s.now
		s.step(p)
		s.tick(p)
	}
}

// kill ends a process. The server notices after a while.
func (s *simulation) kill(p *process) {
	s.of[p].gone = true
	s.after(s.about(20*time.Millisecond), func() {
		s.die(p)
		for i := len(p.conns) - 1; i >= 0; i-- {
			s.exit(p, i)
		}
		s.procs = slices.DeleteFunc(s.procs, func(q *process) bool { return q == p })
	})
}

// cut ends the fleet session of a process, which finds out later.
func (s *simulation) cut(p *process) {
	if p.session == 0 || !p.alive {
		return
	}
	s.die(p)
	s.after(s.about(10*time.Millisecond), func() {
		if !p.alive && p.session != 0 {
			s.notice(p)
			s.after(s.about(10*time.Millisecond), func() { s.open(p) })
		}
	})
}

// hang stops a process for a while: its connections and its session stay.
func (s *simulation) hang(p *process, d time.Duration) {
	s.of[p].hung = true
	s.after(d, func() {
		s.of[p].hung = false
		s.step(p)
		s.tick(p)
	})
}

// step has a process do what it can do now.
func (s *simulation) step(p *process) {
	x := s.of[p]
	if x.gone || x.hung {
		return
	}
	s.lend(p)
	p.demand()
	for p.m.missing > 0 {
		serial, number, ok := p.m.Take()
		if !ok {
			break
		}
		s.next++
		pid := s.next
		p.conns = append(p.conns, conn{serial: serial, number: number, pid: pid, badge: p.session})
		s.after(s.about(5*time.Millisecond), func() { s.dialled(p, pid) })
		p.demand()
	}
	s.yield(p)
	if p.session == 0 || !p.alive || p.pending != nil {
		return
	}
	if a, ok := p.m.Ask(); ok {
		s.asked++
		p.pending = &a
		if len(a.Release) > 0 {
			x.hurry = firstHurry
		}
		session := p.session
		s.after(s.about(500*time.Microsecond), func() {
			if p.session == session && p.alive {
				s.executeAndSay(p)
				s.after(s.about(500*time.Microsecond), func() { s.answer(p, session) })
			}
		})
	}
	s.tick(p)
}

// executeAndSay is execute with words that take time, or are lost.
func (s *simulation) executeAndSay(p *process) {
	say := p.pending.Say
	p.pending.Say = nil
	s.execute(p)
	for _, one := range say {
		for _, q := range s.procs {
			if !q.alive || q == p || s.Float64() < s.loss {
				continue
			}
			x, from, session := s.of[q], p.session, q.session
			delay := s.about(time.Millisecond)
			if q.m.want() == 0 || q.m.held() >= q.m.Share() {
				delay = max(delay, x.heard+pollTime-s.now)
			}
			s.after(delay, func() { s.tell(q, session, said{from, one}) })
		}
	}
}

func (s *simulation) tell(q *process, session ID, what said) {
	x := s.of[q]
	if q.session != session || !q.alive {
		return
	}
	if x.hung {
		s.after(50*time.Millisecond, func() { s.tell(q, session, what) })
		return
	}
	if x.heard != s.now {
		x.heard = s.now
		s.asked++
	}
	q.m.Heard(what.from, what.Say)
	if what.Word == Free {
		x.hurry = firstHurry
	}
	s.step(q)
}

func (s *simulation) answer(p *process, session ID) {
	x := s.of[p]
	if p.session != session || p.reply == nil || x.gone {
		return
	}
	if x.hung {
		s.after(50*time.Millisecond, func() { s.answer(p, session) })
		return
	}
	a, got := *p.pending, *p.reply
	p.pending, p.reply = nil, nil
	p.m.Answered(a, got)
	s.step(p)
}

// tick sets the timer for the next poll, as schedule has it.
func (s *simulation) tick(p *process) {
	x := s.of[p]
	x.timer++
	timer, period := x.timer, lookTime
	if p.m.want() > 0 || len(p.m.needs) > 0 {
		period = pollTime
	}
	pause := max(x.polled+period-s.now, 0)
	hurried := x.hurry > 0 && p.m.want() > 0 && x.hurry < pause
	if hurried {
		pause = x.hurry
	}
	s.after(pause, func() {
		if x.timer != timer || x.gone || x.hung || p.session == 0 {
			return
		}
		if hurried {
			p.m.try = true
			if x.hurry *= 2; x.hurry > lastHurry {
				x.hurry = 0
			}
		} else {
			look := s.now-x.looked >= lookTime
			if x.polled = s.now; look {
				x.looked = s.now
			}
			p.m.Poll(look)
		}
		s.step(p)
		s.tick(p)
	})
}

func (s *simulation) dialled(p *process, pid int64) {
	i := slices.IndexFunc(p.conns, func(c conn) bool { return c.pid == pid })
	if i < 0 || s.of[p].gone {
		return
	}
	s.admit(p, i)
	if i < len(p.conns) && p.conns[i].pid == pid {
		p.m.Opened(p.conns[i].serial, Conn{PID: pid, Badge: int32(p.conns[i].badge)})
		p.conns[i].phase = idle
		s.of[p].idleAt[pid], s.of[p].bornAt[pid] = s.now, s.now
	}
	s.step(p)
}

// lend gives idle connections to callers.
func (s *simulation) lend(p *process) {
	x := s.of[p]
	for i := range p.conns {
		if p.waiting == 0 {
			return
		}
		if c := &p.conns[i]; c.phase == idle {
			p.waiting--
			x.most = max(x.most, s.now-x.since[0])
			x.since = x.since[1:]
			c.phase = busy
			p.served++
			pid := c.pid
			s.after(s.about(x.hold), func() { s.giveBack(p, pid) })
		}
	}
}

func (s *simulation) giveBack(p *process, pid int64) {
	x := s.of[p]
	i := slices.IndexFunc(p.conns, func(c conn) bool { return c.pid == pid })
	if i < 0 || x.gone {
		return
	}
	if x.hung {
		s.after(50*time.Millisecond, func() { s.giveBack(p, pid) })
		return
	}
	if p.waiting+p.busy() <= x.callers {
		s.arrive(p)
	}
	if o := p.m.Owed(); o.Firm > p.count(leaving) && (!o.Turn || s.now-x.bornAt[pid] >= 500*time.Millisecond) || slices.Contains(o.Doomed, p.conns[i].serial) {
		s.shut(p, i)
	} else {
		p.conns[i].phase = idle
		x.idleAt[pid] = s.now
	}
	s.step(p)
}

func (p *process) busy() int { return p.count(busy) }

func (p *process) count(of phase) (n int) {
	for _, c := range p.conns {
		if c.phase == of {
			n++
		}
	}
	return n
}

// shut closes a connection. The process learns of that at once, the server later.
func (s *simulation) shut(p *process, i int) {
	pid := p.conns[i].pid
	s.close(p, i)
	s.after(s.about(time.Millisecond), func() {
		if i := slices.IndexFunc(p.conns, func(c conn) bool { return c.pid == pid }); i >= 0 {
			s.exit(p, i)
		}
	})
}

// yield closes what is owed and idle.
func (s *simulation) yield(p *process) {
	x := s.of[p]
	for i := range p.conns {
		c := p.conns[i]
		o := p.m.Owed()
		rested := o.Rested > 0 && s.now-x.idleAt[c.pid] > 250*time.Millisecond
		if c.phase == idle && (o.Firm > 0 || rested || slices.Contains(o.Doomed, c.serial)) {
			s.shut(p, i)
		}
	}
}

// TestManyProcesses has fifty processes, a hundred with -deep, share five tokens for each of them. They come and go, hang,
// lose their sessions and some of what is said to them. After each event it looks whether a token is held twice. Then all
// becomes quiet, and all that want tokens have their share in time.
func TestManyProcesses(t *testing.T) {
	if raceEnabled {
		t.Skip("it has one goroutine; make test runs it without the race detector")
	}
	processes := 50
	if *deep {
		processes = 100
	}
	tokens := 5 * processes
	number := *seed
	if number == 0 {
		number = rand.Uint64()
	}
	t.Logf("-seed %d", number)
	s := newSimulation(t, tokens, number)
	s.loss = 0.05
	var live []*process
	begin := func() { live = append(live, s.start(20, s.IntN(30), s.about(20*time.Millisecond))) }
	for range processes {
		begin()
	}
	until := 4 * time.Second
	if *deep {
		until = 10 * time.Minute
	}
	for s.now < until {
		s.run(s.now + s.about(20*time.Millisecond))
		i := s.IntN(len(live))
		switch p := live[i]; s.IntN(8) {
		case 0:
			s.kill(p)
			live = slices.Delete(live, i, i+1)
			begin()
		case 1, 2:
			s.cut(p)
		case 3:
			s.hang(p, s.about(time.Second))
		default:
			s.load(p, s.IntN(30))
		}
	}
	s.loss = 0
	for _, p := range live {
		s.load(p, 30)
	}
	s.run(s.now + 3*time.Second)
	for _, p := range live {
		s.of[p].most, p.served = 0, 0
	}
	s.run(s.now + 3*time.Second)
	fewest, longest := tokens, time.Duration(0)
	for _, p := range live {
		fewest, longest = min(fewest, p.m.held()), max(longest, s.of[p].most)
		assert.Positive(t, p.served)
	}
	t.Logf("%d checks; then at least %d of %d tokens each, longest wait %v", s.checks, fewest, tokens/processes, longest)
	assert.GreaterOrEqual(t, fewest, tokens/processes-1)
	assert.Less(t, longest, time.Second)
	assert.Empty(t, s.bare())
}

// TestRoundByRound has twelve processes make progress on eight tokens.
func TestRoundByRound(t *testing.T) {
	if raceEnabled {
		t.Skip("it has one goroutine; make test runs it without the race detector")
	}
	s := newSimulation(t, 8, 1)
	for range 12 {
		s.start(20, 30, 5*time.Millisecond)
	}
	s.run(2 * time.Second)
	for _, p := range s.procs {
		p.served = 0
	}
	s.run(s.now + 30*time.Second)
	least, sum := 1<<30, 0
	for _, p := range s.procs {
		least, sum = min(least, p.served), sum+p.served
	}
	t.Logf("the least was served %d of %d", least, sum)
	assert.Greater(t, least*12*2, sum, "each has half of its part at least")
	assert.Greater(t, sum, 30*8*200*6/10, "the tokens are used")
}

// TestCurves prints how soon a fleet has its shares after all its processes but one have started under full load, and how
// many statements that takes.
func TestCurves(t *testing.T) {
	if !*deep {
		t.Skip("with -deep: it checks nothing")
	}
	t.Log("processes tokens  shares after  statements a second, saturated: of all, of each  idle: of each")
	for _, n := range []int{2, 5, 10, 20, 50, 100} {
		tokens := 5 * n
		s := newSimulation(t, tokens, uint64(n))
		s.start(tokens, tokens+10, 20*time.Millisecond)
		s.run(5 * time.Second)
		for range n - 1 {
			s.start(20, 30, 20*time.Millisecond)
		}
		began := s.now
		for settled := false; !settled && s.now < time.Minute; {
			s.run(s.now + 10*time.Millisecond)
			settled = !slices.ContainsFunc(s.procs, func(p *process) bool { return p.m.held() < 5 })
		}
		took := s.now - began
		s.run(s.now + 5*time.Second)
		s.asked = 0
		s.run(s.now + 10*time.Second)
		full := float64(s.asked) / 10
		for _, p := range s.procs {
			s.load(p, 0)
		}
		s.run(s.now + 5*time.Second)
		s.asked = 0
		s.run(s.now + 10*time.Second)
		t.Logf("%9d %6d %13v %10.0f %8.1f %8.1f", n, tokens, took, full, full/float64(n), float64(s.asked)/10/float64(n))
	}
}
