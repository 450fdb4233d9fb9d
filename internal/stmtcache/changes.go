package stmtcache

// changes is what texts on this session and on others have changed for statements that were prepared before.
type changes struct {
	shared  *Shared
	follows bool // texts are read for what they change

	generation     uint64 // moves at a change for this session; statements of another one are stale
	seenGeneration uint64 // shared.generation as far as generation has followed it
	changed        bool   // this session was changed in a transaction that may not have ended
	ddl            bool   // so was what all sessions see
	changing       bool   // this session is part of shared.changing
	inTx           bool   // a transaction may be open
	txGeneration   uint64 // shared.generation before it began
	late           effect // of a query whose result is open
	forgot         bool   // the server was told to forget statements
	shown          bool   // the program was given the driver's connection, on which nothing is seen
}

// notice takes note of what other sessions have changed.
func (c *changes) notice() {
	if c.shown {
		c.shown = false
		c.settle(session)
	}
	if moved := c.shared.generation.Load(); moved != c.seenGeneration {
		c.seenGeneration = moved
		c.generation++
	}
}

// behind says that the transaction began before a change. The server may not have learned of it there, and prepare as before.
func (c *changes) behind() bool { return c.inTx && c.txGeneration != c.shared.generation.Load() }

// begin says that a text begins to run.
func (c *changes) begin(does effect) {
	if does&begins != 0 && (!c.inTx || does&ends != 0) {
		c.inTx, c.txGeneration = true, c.shared.generation.Load() // BEGIN within a transaction begins none
	}
	if !c.changing && (does&pool != 0 || does&(ends|undoes) != 0 && c.ddl) {
		c.changing = true
		c.shared.changing.Add(1)
	}
}

// end says that it has run: what others have prepared meanwhile is stale.
func (c *changes) end(does effect) {
	c.settle(does)
	c.unchanging()
}

// endQuery is end for one with a result. Of several statements, some may run while that is read.
func (c *changes) endQuery(does effect, err error) {
	if c.settle(does); err != nil {
		c.unchanging()
	} else {
		c.late |= does
	}
}

func (c *changes) unchanging() {
	if c.changing {
		c.changing = false
		c.shared.changing.Add(-1)
	}
}

// settle notes what a text has done.
func (c *changes) settle(does effect) {
	if does == 0 {
		return
	}
	c.inTx = c.inTx && does&(begins|ends) != ends
	over := does&(ends|undoes) != 0
	if does&session != 0 || over && c.changed {
		c.generation++
	}
	if does&pool != 0 || over && c.ddl {
		c.shared.generation.Add(1)
	}
	pending := does&^forgets != ends
	c.changed = pending && (c.changed || does&session != 0)
	c.ddl = pending && (c.ddl || does&pool != 0)
	c.forgot = c.forgot || does&forgets != 0
}

// Begins says that the handle begins a transaction.
func (c *changes) Begins() { c.begin(begins) }

// Ended says that the transaction that the handle began has ended, by COMMIT or ROLLBACK.
func (c *changes) Ended() { c.settle(ends) }

// Shown says that the program has the driver's connection for now, and does there what it likes. To other sessions that is
// another client's doing.
func (c *changes) Shown() { c.shown = true }
