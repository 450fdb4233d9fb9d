package callsite

import (
	"math/bits"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
)

// Depth is how many frames of a stack are looked at.
const Depth = 64

// Site is where a call came from: a stack that was met. Sites are shared by all who were called from there, and do not
// change, so that to note one is to keep a pointer.
type Site struct {
	// Opener says that it is the goroutine on which database/sql opens connections for those who wait at the limit of
	// their handle; Conn that a [database/sql.Conn] is taken, or used.
	Opener, Conn bool

	// Retry is the line in database/sql's loop of attempts from which the connection is asked for, 0 if it is not.
	Retry int

	key []uintptr // what Find saw
	pcs []uintptr
}

// RetryFunction is database/sql's loop of attempts, of which the last is a line of its own.
const RetryFunction = "database/sql.(*DB).retry"

// PCs is the stack, innermost first, for [Application] and [Stack]; nil for a nil site.
func (s *Site) PCs() []uintptr {
	if s == nil {
		return nil
	}
	return s.pcs
}

// sites are those known, by hash. A site may be pushed out by another, and is then learnt anew. A thousand places from
// which a program comes to its database are a large program; each costs about 400 bytes.
var sites [1 << siteBits]atomic.Pointer[Site]

const siteBits = 11

// Cheap says whether Find takes some ten nanoseconds. Else it takes as long as runtime.Callers, which is a microsecond
// or two, and more when what the runtime needs for it has left the processor's caches.
//
// It is cheap where the compiler keeps frame pointers and where what the walk relies on is found to be so.
var Cheap = frames && works()

// Finder has room for what Find sees. It is not safe for concurrent use.
type Finder struct {
	pcs  [Depth]uintptr
	n    int
	hash uint64
}

// Find gives the site from which its caller was called, if it is known; else nil, and Learn makes it known.
//
// It never allocates. A stack deeper than Depth is known by its innermost frames.
//
//go:noinline
func (f *Finder) Find() *Site {
	if Cheap {
		f.n, f.hash = walk(&f.pcs[0], Depth)
	} else {
		f.n = runtime.Callers(2, f.pcs[:])
		f.hash = 0
		for _, pc := range f.pcs[:f.n] {
			f.hash = bits.RotateLeft64(f.hash, 7) ^ uint64(pc)
		}
	}
	if s := f.place().Load(); s != nil && slices.Equal(s.key, f.pcs[:f.n]) {
		return s
	}
	return nil
}

func (f *Finder) place() *atomic.Pointer[Site] {
	return &sites[f.hash*0x9e3779b97f4a7c15>>(64-siteBits)]
}

// Learn makes the site known that the last call of Find, by the same function, did not find. It takes some microseconds,
// and allocates.
func (f *Finder) Learn() *Site {
	s := &Site{key: slices.Clone(f.pcs[:f.n])}
	var pcs [2 * Depth]uintptr // inlined calls have entries of their own
	n := runtime.Callers(2, pcs[:])
	s.pcs = pcs[:n]
	if f.n == Depth {
		// What is further out may be different the next time.
		if i := slices.Index(s.pcs, s.key[Depth-1]); i >= 0 {
			s.pcs = s.pcs[:i+1]
		}
	}
	s.pcs = slices.Clone(s.pcs)
	frames := runtime.CallersFrames(s.pcs)
	for more := true; more; {
		var frame runtime.Frame
		frame, more = frames.Next()
		switch {
		case frame.Function == "database/sql.(*DB).connectionOpener":
			s.Opener = true
		case frame.Function == RetryFunction:
			s.Retry = frame.Line
		case frame.Function == "database/sql.(*DB).Conn", strings.HasPrefix(frame.Function, "database/sql.(*Conn)."):
			s.Conn = true
		}
	}
	f.place().Store(s)
	return s
}

// Chain fills pcs with the return addresses on the stack of the calling goroutine, from the inside out, and returns how
// many it wrote. It follows frame pointers where Cheap says so, which takes a few nanoseconds where the tables that Capture
// goes by take a microsecond. In exchange the addresses say little by themselves: functions that were inlined have none.
// Chain is for recognising a stack that was looked at before by its innermost frames, see Reach.
//
//go:noinline
func Chain(pcs []uintptr) int {
	if len(pcs) == 0 {
		return 0
	}
	if !Cheap {
		return runtime.Callers(2, pcs)
	}
	n, _ := walk(&pcs[0], len(pcs))
	return n
}

// works tries whether a walk finds what the runtime knows. What it relies on, frame pointers and the place of the
// stack's bounds, is not promised by the language; a version of Go for which it is not so shall be slower, not wrong.
//
//go:noinline
func works() bool {
	var walked, known [Depth]uintptr
	n, _ := walk(&walked[0], Depth)
	called := known[:runtime.Callers(1, known[:])]
	if n < 3 || n == Depth {
		return false // not the start of a program, as it ought to be
	}
	// The first is in this function, at another line. Inlined calls have entries in called alone.
	i := 1
	for _, pc := range called {
		if i < n && pc == walked[i] {
			i++
		}
	}
	return i == n
}
