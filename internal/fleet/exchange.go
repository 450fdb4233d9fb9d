package fleet

// ID is a member as the others know it: the server's process behind its fleet session. 0 is nobody.
type ID int64

// Conn is a connection as the server knows it.
type Conn struct {
	PID   int64
	Badge int32 // of the fleet session for which it was opened; it tells a process number that is used again
}

// Word is what members say to each other.
type Word uint8

const (
	Here Word = iota + 1 // a member has come, or another limit
	Left                 // a member has gone
	Free                 // a token may be free
	Need                 // tokens are wanted; none with Want 0
)

// Say is one sentence.
type Say struct {
	Word   Word
	Ticket uint64 // of a need: a smaller one is older
	Held   int    // tokens that the speaker has
	Want   int    // tokens that it wants besides
}

// Claim is a token that a connection holds and the fleet session does not.
type Claim struct {
	Serial, Number int
	Conn           Conn
}

// Ask is what a member asks of the server in one exchange, in this order.
type Ask struct {
	Claim   []Claim // to hold again
	Release []int   // numbers of tokens
	Take    int     // how many
	Limit   int     // the highest number that may be taken
	Own     []int   // numbers that may not: a session is granted any lock beside its own
	Say     []Say
	Look    bool // who is there
}

// Peer is a member as the server shows it.
type Peer struct {
	ID
	Limit int // its fleet_limit
	Held  int // tokens
	Name  string
}

// Answer is what came of an Ask.
type Answer struct {
	Claimed []bool // in the order of Claim
	Taken   []int  // numbers
	Peers   []Peer // those that were seen, in the order of their IDs; nil without a look
}
