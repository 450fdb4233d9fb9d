package drivertest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
)

// checkRandom compares n scripts composed at random.
func checkRandom(t *testing.T, target *target, n int, seed uint64) {
	t.Helper()
	words := postgresVocabulary
	if target.name == "mysql" {
		words = mariaVocabulary
	}
	checkAll(t, target, func(yield func(*testScript) bool) {
		for i := range n {
			text := compose(words, rand.New(rand.NewPCG(seed, uint64(i))), i)
			scripts, err := parseScripts(fmt.Sprintf("-seed %d", seed), text)
			if err != nil {
				t.Errorf("script %d cannot be read: %v\n%s", i, err, text)
				return
			}
			if scripts[0].random = true; !yield(scripts[0]) {
				return
			}
		}
	})
}

// TestComposedScriptsCanBeRead composes ten times as many scripts as are run.
func TestComposedScriptsCanBeRead(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for i := range 10 * *randomScripts {
		for _, words := range []*vocabulary{postgresVocabulary, mariaVocabulary} {
			text := compose(words, rand.New(rand.NewPCG(seed, uint64(i))), i)
			if _, err := parseScripts("composed", text); err != nil {
				t.Fatalf("%v\n%s", err, text)
			}
		}
	}
}

// A composer writes one random script, in the format of testdata/scripts.
type composer struct {
	*vocabulary
	*rand.Rand
	lines []string
	made  int // names so far
	hands []*hand
}

// A hand is the handle, or a connection that is held.
type hand struct {
	base     string // db, c1 or c2
	tx       string // the transaction that it is in, "" for none
	byHand   bool   // one begun by a text
	prepared string // a statement of the program, "" for none
	kinds    string // of its arguments
}

// who is the name that a step on this hand uses.
func (h *hand) who() string {
	if h.tx != "" {
		return h.tx
	}
	return h.base
}

// compose writes script number i. It never leaves to chance which connection a step runs on: either there is one, or two
// are held.
func compose(v *vocabulary, r *rand.Rand, i int) string {
	c := &composer{vocabulary: v, Rand: r, hands: []*hand{{base: "db"}}}
	c.line("script random %d", i)
	c.line("unchecked")
	if len(v.params) > 0 {
		c.line("dsn %s", strings.Join(v.params, " "))
	}
	two := v.twoHands && c.IntN(2) == 0
	if two {
		c.line("limit 2")
	}
	c.line("drivers pq pgx mysql")
	c.line("foreign exec %s", strings.Join(v.setup, ";\n  "))
	if two {
		c.line("c1 = db conn\nc2 = db conn")
		c.hands = []*hand{{base: "c1"}, {base: "c2"}}
	}
	favourites := make([]phrase, 2+c.IntN(3))
	for i := range favourites {
		favourites[i] = c.queries[c.IntN(len(c.queries))]
	}
	for _, h := range c.hands {
		for _, q := range favourites {
			c.query(h, q, 2)
		}
	}
	foreign := c.IntN(60) == 0
	for range 4 + c.IntN(8) {
		h := c.hands[c.IntN(len(c.hands))]
		c.change(h, favourites)
		if foreign && c.IntN(6) == 0 {
			foreign = false
			c.line("foreign exec %s", c.one(c.schema))
			c.line("wait 5100ms")
		}
		for range 1 + c.IntN(3) {
			c.query(c.hands[c.IntN(len(c.hands))], favourites[c.IntN(len(favourites))], 1+c.IntN(2))
		}
	}
	for _, h := range c.hands {
		c.end(h)
		for _, q := range favourites {
			c.query(h, q, 1)
		}
	}
	for _, text := range v.final {
		c.line("foreign query %s", text)
	}
	return strings.Join(c.lines, "\n")
}

func (c *composer) line(format string, args ...any) {
	c.lines = append(c.lines, fmt.Sprintf(format, args...))
}

func (c *composer) one(texts []string) string { return texts[c.IntN(len(texts))] }

func (c *composer) name(kind string) string {
	c.made++
	return fmt.Sprint(kind, c.made)
}

// change does something after which statements may mean something else.
func (c *composer) change(h *hand, favourites []phrase) {
	inTx := h.tx != "" || h.byHand
	switch n := c.IntN(24); {
	case n < 6:
		c.line("%s exec %s", h.who(), c.one(c.schema))
	case n < 11:
		c.line("%s exec %s", h.who(), c.one(c.settings))
	case n < 14 && inTx:
		c.line("%s exec %s", h.who(), c.one(c.inTx))
	case n < 16 && inTx:
		c.end(h)
	case n < 14:
		h.tx = c.name("t")
		c.line("%s = %s tx %s", h.tx, h.base, c.one([]string{"", "", "", "repeatable-read", "read-only"}))
	case n < 16:
		h.byHand = true
		c.line("%s exec %s", h.base, c.one(c.begin))
	case (n == 16 || n >= 20) && h.tx == "":
		c.prepared(h, favourites[c.IntN(len(favourites))])
	case n == 17:
		q := favourites[c.IntN(len(favourites))]
		rows := c.name("r")
		c.line("%s = %s rows %s <- %s", rows, h.who(), q.sql, c.arguments(q.kinds))
		c.line("%s next 1", rows)
		c.line("%s close", rows)
	case n == 18 && len(c.hands) > 1 && !inTx:
		c.line("%s close", h.base)
		c.query(&hand{base: "db"}, favourites[0], 2)
		c.line("%s = db conn", h.base)
		h.prepared = ""
	default:
		c.line("%s exec %s", h.who(), c.one(c.schema))
		c.line("%s exec %s", h.who(), c.one(c.settings))
	}
}

// end ends the transaction that h is in.
func (c *composer) end(h *hand) {
	switch {
	case h.tx != "":
		c.line("%s %s", h.tx, c.one([]string{"commit", "commit", "rollback"}))
	case h.byHand:
		c.line("%s exec %s", h.base, c.one([]string{"COMMIT", "COMMIT", "ROLLBACK"}))
	}
	h.tx, h.byHand = "", false
}

// prepared makes a statement of the program on h, uses the one that is there, or closes it.
func (c *composer) prepared(h *hand, q phrase) {
	switch {
	case h.prepared == "":
		h.prepared, h.kinds = c.name("p"), q.kinds
		c.line("%s = %s prepare %s", h.prepared, h.base, q.sql)
		c.line("%s query <- %s", h.prepared, c.arguments(h.kinds))
	case c.IntN(3) == 0:
		c.line("%s close", h.prepared)
		h.prepared = ""
	default:
		c.line("%s query <- %s", h.prepared, c.arguments(h.kinds))
	}
}

func (c *composer) query(h *hand, q phrase, times int) {
	verb := "query"
	if !strings.Contains(q.sql, "SELECT") && !strings.Contains(q.sql, "RETURNING") && !strings.Contains(q.sql, "VALUES ($1::") {
		verb = "exec"
	}
	for range times {
		c.line("%s %s %s <- %s", h.who(), verb, q.sql, c.arguments(q.kinds))
	}
}

func (c *composer) arguments(kinds string) string {
	args := make([]string, len(kinds))
	for i := range kinds {
		args[i] = c.argument(kinds[i])
	}
	return strings.Join(args, ", ")
}

// argument writes a value of a kind, which mostly fits.
func (c *composer) argument(kind byte) string {
	values := map[byte][]string{
		'i': {"1", "1", "2", "2", "3", "4", "5", "6", "7", "0", "null", "3000000000", `"x"`},
		'v': {"1", "10", "20", "null", "3000000000", "1.5", `"10"`, `"words"`, "5"},
		's': {`"one"`, `"two"`, `"10"`, `""`, "null", `"quite a long text"`, "5"},
		't': {"@2026-01-01T12:00:00+05:00", "@2026-07-01T00:00:00Z", "null", `"2026-02-03 04:05:06"`, "5"},
		'm': {`"ok"`, `"ok"`, `"sad"`, `"happy"`, `"fine"`, "null"},
		'b': {"true", "false"},
		'p': {`"one"`, `"public"`, `"two, public"`},
		'z': {`"Asia/Tokyo"`, `"UTC"`, `"America/New_York"`},
	}[kind]
	return c.one(values)
}

// shrunk counts the scripts that were made shorter, because that takes long.
var shrunk atomic.Int64

// shrink takes steps out of a script for as long as there is a difference.
func (r *rig) shrink(t testing.TB, s *testScript) (*testScript, []difference) {
	_, differences, _ := r.compare(t, s)
	if shrunk.Add(1) > 5 {
		return s, differences
	}
	for again := true; again; {
		again = false
		for i := len(s.steps) - 1; i >= 0; i-- {
			shorter := *s
			shorter.steps = slices.Delete(slices.Clone(s.steps), i, i+1)
			if _, d, _ := r.compare(t, &shorter); len(d) > 0 {
				s, differences, again = &shorter, d, true
			}
		}
	}
	return s, differences
}

// TestDifferentialComposed reads what is composed, and composes the same of the same seed.
func TestDifferentialComposed(t *testing.T) {
	for _, words := range []*vocabulary{postgresVocabulary, mariaVocabulary} {
		for i := range 300 {
			text := compose(words, rand.New(rand.NewPCG(1, uint64(i))), i)
			if _, err := parseScripts("composed", text); err != nil {
				t.Fatalf("%v\n%s", err, text)
			}
			if again := compose(words, rand.New(rand.NewPCG(1, uint64(i))), i); again != text {
				t.Fatalf("not the same again:\n%s\n\n%s", text, again)
			}
		}
	}
}
