package fleet_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var long = flag.Bool("long", false, "run the tests of processes for minutes")

// lasting is a time that is another with -long, on a machine that has nothing else to do.
func lasting(short, full time.Duration) time.Duration {
	if *long {
		return full
	}
	return short
}

const work = "SELECT pg_sleep(0.02)"

// served is how much members do in a time.
func served(members []*member, during time.Duration) (sum int64, each []int64) {
	before := make([]int64, len(members))
	for i, m := range members {
		before[i] = m.now().Served
	}
	time.Sleep(during)
	for i, m := range members {
		n := m.now().Served - before[i]
		each, sum = append(each, n), sum+n
	}
	return sum, each
}

func held(members []*member) (sum int, each []int) {
	for _, m := range members {
		n := m.now().Held
		each, sum = append(each, n), sum+n
	}
	return sum, each
}

// Six processes with more callers than tokens never have more connections than the fleet's limit, and do as much as one
// process that has them all.
func TestProcessesShareOneLimit(t *testing.T) {
	const processes = 6
	a := newArena(t, 40, processes)
	lone := startMember(t, job{DSN: a.dsn(40, ""), Callers: 180, Query: work})
	eventually(t, 5*time.Second, "a process alone has all tokens", func() bool { return lone.now().Held == 40 })
	alone, _ := served([]*member{lone}, lasting(time.Second, 20*time.Second))
	assert.Zero(t, lone.stop(t).Failed)

	var members []*member
	for range processes {
		members = append(members, startMember(t, job{DSN: a.dsn(20, ""), Callers: 30, Query: work}))
	}
	eventually(t, 5*time.Second, "everybody has a share", func() bool {
		sum, each := held(members)
		return sum == 40 && slices.Min(each) >= 6
	})
	together, each := served(members, lasting(time.Second, 20*time.Second))
	t.Logf("alone %d, together %d (%v): %.3f", alone, together, each, float64(together)/float64(alone))
	if *long { // a machine that is shared says nothing in a second
		assert.GreaterOrEqual(t, float64(together), 0.95*float64(alone))
	}
	for _, m := range members {
		last := m.stop(t)
		assert.Zero(t, last.Failed, last.Error)
		if *long { // elsewhere a dial may be given up for another
			assert.Zero(t, last.DialErrors)
		}
	}
	eventually(t, time.Second, "no token is left", func() bool { return a.count(t, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0 })
}

// A second process has its part of a loaded fleet within two seconds. When it stops, or dies, that is back within one.
// The queries are long enough to leave processors for what is measured: the server's processes that end and begin.
func TestProcessesComeAndGo(t *testing.T) {
	const work = "SELECT pg_sleep(0.1)"
	a := newArena(t, 40, 2)
	first := startMember(t, job{DSN: a.dsn(40, ""), Callers: 60, Query: work})
	all := func() bool { return first.now().Held == 40 }
	eventually(t, 5*time.Second, "a process alone has all tokens", all)
	for _, end := range []string{"stop", "kill"} {
		second := startMember(t, job{DSN: a.dsn(40, ""), Callers: 60, Query: work})
		eventually(t, lasting(4*time.Second, 2*time.Second), "the second has 15 tokens", func() bool { return second.now().Held >= 15 })
		eventually(t, 5*time.Second, "each has half", func() bool { return first.now().Held == 20 && second.now().Held == 20 })
		if end == "stop" {
			assert.Zero(t, second.stop(t).Failed)
		} else {
			second.kill()
		}
		began := time.Now()
		eventually(t, lasting(5*time.Second, time.Second), "the first has a token more after "+end, func() bool { return first.now().Held > 20 })
		eventually(t, lasting(10*time.Second, time.Second-time.Since(began)), "the first has all again after that", all)
		eventually(t, 10*time.Second, "and their connections are open after that", func() bool { return first.now().Open == 40 })
	}
	last := first.stop(t)
	assert.Zero(t, last.Failed, last.Error)
}

// Tokens go to those who need them: idle connections are given up, also by a process that has no more than its share.
func TestIdleConnectionsAreGivenUp(t *testing.T) {
	a := newArena(t, 10, 2)
	first := startMember(t, job{DSN: a.dsn(10, ""), Callers: 10, Query: work})
	eventually(t, 5*time.Second, "the first has all tokens", func() bool { return first.now().Held == 10 })
	first.load(t, 0)
	second := startMember(t, job{DSN: a.dsn(10, ""), Callers: 20, Query: work})
	eventually(t, 5*time.Second, "the second has all tokens", func() bool { return second.now().Held == 10 })
	first.load(t, 10)
	eventually(t, 2*time.Second, "the first has its share again", func() bool { return first.now().Held == 5 })
	for _, m := range []*member{first, second} {
		last := m.stop(t)
		assert.Zero(t, last.Failed, last.Error)
	}
}

// Twelve processes on eight tokens: each makes progress in every round.
func TestMoreProcessesThanTokens(t *testing.T) {
	const processes = 12
	a := newArena(t, 8, processes)
	var members []*member
	for range processes {
		members = append(members, startMember(t, job{DSN: a.dsn(20, ""), Callers: 4, Query: "SELECT pg_sleep(0.005)"}))
	}
	eventually(t, 5*time.Second, "all are there", func() bool {
		return !slices.ContainsFunc(members, func(m *member) bool { return m.now().Processes < processes })
	})
	before := make([]int64, processes)
	for i, m := range members {
		before[i] = m.now().Served
	}
	eventually(t, lasting(20*time.Second, 3*time.Second), "everybody was served", func() bool {
		for i, m := range members {
			if m.now().Served == before[i] {
				return false
			}
		}
		return true
	})
	for _, m := range members {
		last := m.stop(t)
		assert.Zero(t, last.Failed, last.Error)
	}
}

// Whatever dies, no token is held twice and none is lost, no row that was acknowledged is missing, and all is back in time.
func TestFaults(t *testing.T) {
	const processes = 4
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	a := newArena(t, 12, processes)
	start := func() *member {
		return startMember(t, job{DSN: a.dsn(12, ""), Callers: 8, Query: "INSERT INTO ledger DEFAULT VALUES", Ledger: true})
	}
	var members []*member
	for range processes {
		members = append(members, start())
	}
	acknowledged := int64(0)
	for began := time.Now(); time.Since(began) < lasting(4*time.Second, 5*time.Minute); {
		time.Sleep(time.Duration(500+random.IntN(1000)) * time.Millisecond)
		i := random.IntN(processes)
		switch random.IntN(4) {
		case 0:
			t.Log("kill -9 of a process")
			members[i].kill()
			acknowledged += members[i].now().Acknowledged
			members[i] = start()
		case 1, 2:
			t.Log("the fleet session of a process ends")
			a.exec(t, fmt.Sprintf(`SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2
				AND objid BETWEEN 1000000 AND 2000000 ORDER BY pid OFFSET %d LIMIT 1`, i))
		case 3:
			t.Log("the server crashes")
			a.server.Restart(t, "immediate")
		}
	}
	eventually(t, 5*time.Second, "the fleet has recovered", func() bool {
		sum, each := held(members)
		return sum == 12 && slices.Min(each) == 3
	})
	_, each := served(members, time.Second)
	assert.Positive(t, slices.Min(each))
	for _, m := range members {
		acknowledged += m.stop(t).Acknowledged
	}
	eventually(t, time.Second, "no token is left", func() bool { return a.count(t, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0 })
	rows := a.count(t, "SELECT count(*) FROM ledger")
	t.Logf("%d rows, %d acknowledged", rows, acknowledged)
	require.GreaterOrEqual(t, int64(rows), acknowledged)
}
