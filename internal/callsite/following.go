package callsite

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// Following is what database/sql does with a connection next after it has checked it out and reset its session.
type Following int

const (
	Unknown Following = iota // or not one of these
	Exec                     // runs ExecContext on it, and returns it
	Query                    // runs QueryContext on it
)

// Followed is what a ResetSession met last, by the two return addresses that tell its callers apart.
type Followed struct {
	pc, next uintptr
	what     Following
}

// followings are those known. There are as many as there are calls of (*sql.DB).conn in database/sql, for each type of
// connection.
var (
	followings   [1 << followingBits]atomic.Pointer[Followed]
	followingsMu sync.Mutex // for adding one
)

const followingBits = 6

// ToFollow says what follows, for a ResetSession that calls it, and gives the last answer that its connection had. Either
// of two frames is that of who asked for the connection: where a method is promoted from an embedded type, there may be a
// frame of the compiler's between it and database/sql, or not.
//
//go:noinline
func ToFollow(last *Followed) Following {
	if !Cheap {
		return Unknown
	}
	pc, next := outward(4)
	if pc != last.pc || next != last.next {
		*last = followingOf(pc, next)
	}
	return last.what
}

func followingOf(pc, next uintptr) Followed {
	if pc == 0 {
		return Followed{}
	}
	for i := followingAt(pc, next); ; i++ {
		switch f := followings[i%len(followings)].Load(); {
		case f == nil:
			return learnFollowing(pc, next)
		case f.pc == pc && f.next == next:
			return *f
		}
	}
}

func followingAt(pc, next uintptr) int {
	return int((uint64(pc)*3 ^ uint64(next)) * 0x9e3779b97f4a7c15 >> (64 - followingBits))
}

func learnFollowing(pc, next uintptr) Followed {
	f := &Followed{pc: pc, next: next}
	for _, asks := range [...]uintptr{pc, next} {
		switch functionOf(asks) {
		case "database/sql.(*DB).exec":
			f.what = Exec
		case "database/sql.(*DB).query":
			f.what = Query
		}
	}
	followingsMu.Lock()
	defer followingsMu.Unlock()
	free := -1
	room := 0
	for i := range followings {
		at := (followingAt(pc, next) + i) % len(followings)
		switch g := followings[at].Load(); {
		case g == nil:
			if room++; free < 0 {
				free = at
			}
		case g.pc == pc && g.next == next:
			return *g
		}
	}
	if room > 1 { // the last one stays free, so that every search ends
		followings[free].Store(f)
	}
	return *f
}

// functionOf is the function that an address on the stack returns to, "" if it is not one.
func functionOf(pc uintptr) string {
	if pc == 0 {
		return ""
	}
	frame, _ := runtime.CallersFrames([]uintptr{pc}).Next()
	return frame.Function
}
